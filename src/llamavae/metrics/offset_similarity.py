"""Whether moves along one direction change different texts alike."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamavae.metrics.latent import mean_cosine


def move(start: Tensor, direction: Tensor, centre: Tensor, length: Tensor) -> Tensor:
    """Both ends of a move along each of Q directions from each of S points, shape (2, Q, S, D).

    A move goes from `centre` - `length` / 2 to `centre` + `length` / 2 along its direction, and
    keeps what the start has across it. Along an axis, that is a traversal of one coordinate.

    Args:
        start: Points (S, D).
        direction: Directions of any length, one for each start (Q, S, D).
        centre: A point (D,) whose coordinate along the direction is the middle of the move.
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
    """Mean cosine of what a move changes from one start and from another, -1 to 1, shape (Q,).

    Fournier et al. (arXiv 2010.03446) for the offsets of pairs of words; here they are those of
    the sentence vectors of two texts. A text that a move leaves as it is has the cosine 0.

    Args:
        change: Differences of sentence vectors for Q moves and S starts (Q, S, H).
        items: Starts of a bootstrap sample, which may repeat; None for all once.
    """
    return np.array([mean_cosine(offsets, items) for offsets in change])
