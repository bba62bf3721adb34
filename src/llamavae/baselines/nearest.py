"""The text of the nearest training condition: a baseline that cannot write anything new."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from llamavae.errors import UserError
from llamavae.guidance.conditions import Condition
from llamavae.guidance.pairs import Pairs
from llamavae.guidance.sampling import check_draws, check_pairs, vectors_of
from llamavae.latent import nearest_neighbours

_CHUNK = 64  # conditions whose cosines with all of training exist at one time


@final
class NearestNeighbour:
    """Answers with the training text whose condition has the highest cosine with the one asked.

    With words it is the baseline that answers with the definition of the nearest word, as in
    Noraset et al., arXiv 1612.00394.

    Args:
        condition: Turns what is asked into vectors (B, C).
        pairs: Training texts with their conditions (N, C).

    Raises:
        UserError: There are no pairs, or their conditions are of another size.
    """

    name: ClassVar[str] = "nearest"

    def __init__(self, condition: Condition, pairs: Pairs) -> None:
        check_pairs(condition, pairs)
        self.condition = condition
        points, which = torch.unique(pairs.conditions, dim=0, return_inverse=True)
        self._points = points  # (U, C): the senses of a word share one
        self._texts: list[list[str]] = [[] for _ in points]
        for text, point in zip(pairs.texts, which.tolist(), strict=True):
            self._texts[point].append(text)
        self._different = len(set(pairs.texts))

    def generate(
        self,
        conditions: Sequence[Any] | Tensor,
        n: int = 1,
        spread: float = 1.0,
        seed: int | None = None,
        **options: Any,
    ) -> list[str]:
        """The `n` nearest different texts of each condition, best first.

        Texts of one condition come in the order of the training set.

        Args:
            conditions: B things that the condition understands, or their vectors (B, C).
            n: Texts for each of them.
            spread: Ignored: nothing is drawn.
            seed: Ignored for the same reason.
            **options: Ignored: nothing is decoded.

        Returns:
            B * n texts, the n of one condition side by side.

        Raises:
            UserError: There are fewer than `n` different training texts.
        """
        check_draws(n)
        if n > self._different:
            raise UserError(
                f"the training set has {self._different} different texts; n={n} were asked for"
            )
        found: list[str] = []
        for part in vectors_of(self.condition, conditions).split(_CHUNK):
            found += chain.from_iterable(self._nearest(part, n))
        return found

    def _nearest(self, c: Tensor, n: int) -> list[list[str]]:
        """The `n` nearest different texts of each condition (B, C), from as few points as do."""
        k = n
        while True:
            _, order = nearest_neighbours(c, self._points, k)
            texts = [
                _first(chain.from_iterable(self._texts[i] for i in row), n)
                for row in order.tolist()
            ]
            if all(len(some) == n for some in texts):
                return texts
            k *= 2


def _first(texts: Iterable[str], n: int) -> list[str]:
    """The first `n` different texts."""
    different: dict[str, None] = {}
    for text in texts:
        different[text] = None
        if len(different) == n:
            break
    return list(different)
