"""Random controls: the same values, each given to another item."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor


def derangement(n: int, generator: torch.Generator, *labels: Sequence[Hashable]) -> Tensor:
    """A permutation of n rows that leaves none in its place (for n > 1).

    It is what "shuffled" means: each row gets what belongs to another.

    Args:
        n: Number of rows.
        generator: Source of the draws.
        *labels: Labels of the n rows, such as the word that each is about. No row gets what
            belongs to a row of the same label, wherever another choice is left: with one
            sequence of labels, the number of rows that do is the smallest possible.

    Example:
        >>> derangement(4, torch.Generator().manual_seed(0), ["a", "a", "b", "b"]).tolist()
        [2, 3, 0, 1]
    """
    order = torch.randperm(n, generator=generator)
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    rows = torch.arange(n)
    codes = [rows, *(_codes(column) for column in labels)]

    def clash(row: Tensor, given: Tensor) -> Tensor:
        return torch.stack([code[row] == code[given] for code in codes]).any(0)

    for row in rows[clash(rows, other)]:
        # an exchange that rids both rows of their clash; one may have been rid of it already
        if clash(row, other[row]):
            free = rows[~clash(row, other) & ~clash(rows, other[row])]
            if len(free):
                partner = free[torch.randint(len(free), (), generator=generator)]
                other[row], other[partner] = other[partner].clone(), other[row].clone()
    return other


def _codes(labels: Sequence[Hashable]) -> Tensor:
    """A number for each label: the same for equal ones."""
    known: dict[Hashable, int] = {}
    return torch.tensor([known.setdefault(label, len(known)) for label in labels])
