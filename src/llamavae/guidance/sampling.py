"""What conditional generators share: the checks of what is asked, and draws that repeat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from llamavae.errors import UserError
from llamavae.guidance.conditions import Condition
from llamavae.guidance.pairs import Pairs


def check_draws(n: int, spread: float = 1.0, draws: int | None = None) -> None:
    """Refuse fewer than one text for a condition, a negative spread, or too few draws."""
    if n < 1:
        raise UserError(f"ask for at least one text for each condition; got n={n}")
    if not spread >= 0:
        raise UserError(f"spread must not be negative; got {spread}")
    if draws is not None and draws < n:
        raise UserError(f"expected at least as many draws as texts, {n}; got draws={draws}")
    if draws is not None and draws > 1 and spread == 0:
        raise UserError(
            f"at spread 0 all {draws} draws are the centre: leave out draws, or take a spread "
            "above 0"
        )


def vectors_of(condition: Condition, conditions: Sequence[Any] | Tensor) -> Tensor:
    """Vectors (B, C) of what is asked, or the vectors themselves where they are given.

    Raises:
        UserError: They are not of shape (B, C), or hold NaN or infinity.
    """
    if isinstance(conditions, Tensor):
        vectors = conditions
    else:
        vectors = (
            condition.vectors(conditions) if len(conditions) else torch.empty(0, condition.dim)
        )
    if vectors.ndim != 2 or vectors.shape[1] != condition.dim:
        raise UserError(
            f"expected conditions of shape (B, {condition.dim}); got {tuple(vectors.shape)}"
        )
    if not vectors.isfinite().all():
        raise UserError("a condition holds NaN or infinity")
    return vectors.to("cpu", torch.float32)


def check_pairs(condition: Condition, pairs: Pairs) -> None:
    """Refuse training pairs whose vectors are not those of `condition`, or none at all."""
    if not len(pairs) or pairs.conditions.shape[1] != condition.dim:
        raise UserError(
            f"expected at least one text, and conditions of shape (N, {condition.dim}); got "
            f"{len(pairs)} texts and conditions of shape {tuple(pairs.conditions.shape)}"
        )


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """While open, torch's draws on the CPU and `device` follow from `seed`; None changes nothing.

    The draws after it are those that would have come without it.
    """
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
