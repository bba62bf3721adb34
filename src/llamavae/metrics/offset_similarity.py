"""Similarity of the changes that a move along one latent direction causes in different texts."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamavae.metrics.latent import mean_cosine


def move(start: Tensor, direction: Tensor, centre: Tensor, length: Tensor) -> Tensor:
    """Both ends of a move along each of Q directions from each of S codes, shape (2, Q, S, D).

    A move goes from `centre` - `length` / 2 to `centre` + `length` / 2 along its direction and
    leaves the orthogonal components of the start unchanged. Along an axis, it is a traversal of
    one coordinate.

    Args:
        start: Latent codes (S, D).
        direction: Directions of any length, one for each start (Q, S, D).
        centre: Latent code (D,) whose coordinate along the direction is the middle of the move.
        length: Length of the moves (Q,).
    """
    unit = torch.nn.functional.normalize(direction, dim=-1)
    across = start - (start * unit).sum(-1, keepdim=True) * unit
    middle = across + (unit @ centre)[..., None] * unit
    half = length[:, None, None] / 2 * unit
    return torch.stack([middle - half, middle + half])


def offset_concentration(
    change: NDArray[np.floating], items: NDArray[np.integer] | None = None
) -> NDArray[np.float64]:
    """Mean cosine between the changes that a move causes from different starts, -1 to 1, (Q,).

    Fournier et al. (arXiv 2010.03446) define it for the offsets between words of a pair. Here the
    offsets are those between the sentence embeddings of two texts. A move that does not change
    the text has cosine 0.

    Args:
        change: Differences of sentence embeddings for Q moves and S starts (Q, S, H).
        items: Indices of the starts in a bootstrap sample, with repetitions; None for all starts.
    """
    return np.array([mean_cosine(offsets, items) for offsets in change])
