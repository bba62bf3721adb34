"""Shared by conditional generators: checks of the arguments, and reproducible draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from llamavae.errors import UserError, check_int, check_number, check_seed
from llamavae.guidance.conditions import Condition
from llamavae.guidance.pairs import Pairs

Conditions = Sequence[Any] | Tensor
"""Conditions that a `Condition` encodes, or their vectors (B, C)."""


def check_draws(n: int, spread: float = 1.0, draws: int | None = None) -> None:
    """Raise an error for fewer than one text per condition, a negative spread or too few draws."""
    check_int("n", n)
    check_number("spread", spread)
    if draws is not None:
        check_int("draws", draws)
    if draws is not None and draws < n:
        raise UserError(f"expected at least as many draws as texts, {n}; got draws={draws}")
    if draws is not None and draws > 1 and spread == 0:
        raise UserError(
            f"with spread 0 all {draws} draws are equal. Omit draws, or use a spread above 0"
        )


def vectors_of(condition: Condition, conditions: Conditions) -> Tensor:
    """Vectors (B, C) of conditions; a tensor of vectors is checked and returned.

    Raises:
        UserError: The shape is not (B, C), or there are NaN or infinite values.
    """
    if isinstance(conditions, Tensor):
        vectors = conditions
    elif not hasattr(conditions, "__len__") or isinstance(conditions, bytes):
        raise UserError(
            f"expected a list of conditions, or their vectors (B, {condition.dim}); got "
            f"{conditions!r:.40} ({type(conditions).__name__})"
        )
    elif len(conditions):
        vectors = condition.vectors(conditions)
    else:
        vectors = torch.empty(0, condition.dim)
    if vectors.ndim != 2 or vectors.shape[1] != condition.dim:
        raise UserError(
            f"expected conditions of shape (B, {condition.dim}); got {tuple(vectors.shape)}"
        )
    if not vectors.isfinite().all():
        raise UserError("expected finite conditions; got NaN or infinite values")
    return vectors.to("cpu", torch.float32)


def check_pairs(condition: Condition, pairs: Pairs) -> None:
    """Raise an error if there are no training pairs, or if their vectors have another size."""
    if not len(pairs) or pairs.conditions.shape[1] != condition.dim:
        raise UserError(
            f"expected at least one text, and conditions of shape (N, {condition.dim}); got "
            f"{len(pairs)} texts and conditions of shape {tuple(pairs.conditions.shape)}"
        )


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Context in which torch's draws on the CPU and `device` depend on `seed`; None has no effect.

    The state of the generators is restored afterwards.
    """
    check_seed(seed)
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
