"""Shuffled controls: each item receives the value of a different item."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def derangement(n: int, generator: torch.Generator, *labels: Sequence[Hashable]) -> Tensor:
    """A random permutation of n rows without fixed points (for n > 1).

    Every control named "shuffled" uses it: each row receives the value of a different row.

    Args:
        n: Number of rows.
        generator: Random generator.
        *labels: Labels of the n rows, such as the word of each row. Where possible, no row
            receives the value of a row with the same label. With one sequence of labels, the
            number of exceptions is minimal.

    Example:
        >>> derangement(4, torch.Generator().manual_seed(0), ["a", "a", "b", "b"]).tolist()
        [2, 3, 0, 1]
    """
    order = torch.randperm(n, generator=generator)
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    rows = torch.arange(n)
    codes = [rows, *(torch.from_numpy(label_codes(column)) for column in labels)]

    def clash(row: Tensor, given: Tensor) -> Tensor:
        return torch.stack([code[row] == code[given] for code in codes]).any(0)

    for row in rows[clash(rows, other)]:
        # a swap that resolves the clash of both rows; an earlier swap may have resolved this one
        if clash(row, other[row]):
            free = rows[~clash(row, other) & ~clash(rows, other[row])]
            if len(free):
                partner = free[torch.randint(len(free), (), generator=generator)]
                other[row], other[partner] = other[partner].clone(), other[row].clone()
    return other


def label_codes(labels: Sequence[Hashable]) -> NDArray[np.intp]:
    """Integer code of each label, from 0 in order of appearance, shape (N,)."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(label, len(known)) for label in labels], dtype=np.intp)
