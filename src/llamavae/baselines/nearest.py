"""The nearest-neighbour baseline: it returns the text of the nearest training condition."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, final

import torch
from torch import Tensor

from llamavae.errors import UserError
from llamavae.guidance.conditions import Condition
from llamavae.guidance.pairs import Pairs
from llamavae.guidance.sampling import check_draws, check_pairs, vectors_of
from llamavae.latent import nearest_neighbours

_CHUNK = 64  # number of conditions compared with all training conditions at a time


@final
class NearestNeighbour:
    """Returns the training text whose condition has the highest cosine with the given condition.

    For words, it is the baseline of Noraset et al., arXiv 1612.00394, which returns the definition
    of the nearest word.

    Args:
        condition: Encodes conditions as vectors (B, C).
        pairs: Training texts with their conditions (N, C).

    Raises:
        UserError: There are no pairs, or their conditions are of another size.
    """

    def __init__(self, condition: Condition, pairs: Pairs) -> None:
        check_pairs(condition, pairs)
        self.condition = condition
        known, which = torch.unique(pairs.conditions, dim=0, return_inverse=True)
        self._conditions = known  # (U, C): the senses of a word share one
        self._texts: list[list[str]] = [[] for _ in known]
        for text, i in zip(pairs.texts, which.tolist(), strict=True):
            self._texts[i].append(text)
        self._different = len(set(pairs.texts))

    def generate(
        self,
        conditions: Sequence[Any] | Tensor,
        n: int = 1,
        spread: float = 1.0,
        seed: int | None = None,
        **options: Any,
    ) -> list[str]:
        """The `n` nearest distinct texts of each condition, in descending order of cosine.

        Texts with the same training condition are in the order of the training set.

        Args:
            conditions: B conditions, or their vectors (B, C).
            n: Number of texts per condition.
            spread: Ignored, since nothing is drawn.
            seed: Ignored, since nothing is drawn.
            **options: Ignored, since nothing is decoded.

        Returns:
            B * n texts; the texts of one condition are adjacent.

        Raises:
            UserError: There are fewer than `n` distinct training texts.
        """
        check_draws(n)
        if n > self._different:
            raise UserError(
                f"expected n of at most {self._different}, the number of distinct training texts; "
                f"got {n}"
            )
        found: list[str] = []
        for part in vectors_of(self.condition, conditions).split(_CHUNK):
            found += chain.from_iterable(self._nearest(part, n))
        return found

    def _nearest(self, c: Tensor, n: int) -> list[list[str]]:
        """The `n` nearest distinct texts of each condition (B, C)."""
        k = n
        while True:
            _, order = nearest_neighbours(c, self._conditions, k)
            texts = [
                list(dict.fromkeys(chain.from_iterable(self._texts[i] for i in row)))[:n]
                for row in order.tolist()
            ]
            if all(len(some) == n for some in texts):
                return texts
            k *= 2
