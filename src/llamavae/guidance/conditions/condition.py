"""The interface of a condition, and checks of what its classes are given."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from llamavae.errors import UserError, unknown
from llamavae.modeling import SentenceEncoder

if TYPE_CHECKING:  # slow import, not needed to use a fitted model
    from datasets import Dataset


class Condition(ABC):
    """Encodes conditions as vectors c (C,).

    Attributes:
        name: Its name in saved settings.
        dim: Size C of a vector.
    """

    name: ClassVar[str]
    dim: int

    @abstractmethod
    def text(self, condition: Any) -> str:
        """The condition as text; equal texts are the same condition.

        Raises:
            UserError: The value is not valid for this condition.
        """

    @abstractmethod
    def vectors(self, conditions: Sequence[Any]) -> Tensor:
        """Vectors c (B, C) of B conditions, float32 on the CPU.

        Raises:
            UserError: A condition has no vector, has one with NaN or infinite values, or is not
                valid.
        """

    def has(self, condition: Any) -> bool:
        """Whether a vector exists; only words can lack one."""
        return True

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The settings from which `load_condition` rebuilds the condition, as JSON values."""

    @classmethod
    def from_settings(
        cls,
        settings: Mapping[str, Any],
        encoder: SentenceEncoder | None = None,
        path: str | os.PathLike[str] | None = None,
        words: Collection[str] | None = None,
    ) -> Self:
        """Rebuild the condition; see `load_condition`."""
        if path is not None:
            raise UserError(
                "path= is only for word vectors or a sentence encoder; this condition is "
                f"{cls.name}"
            )
        return cls(**{name: value for name, value in settings.items() if name != "name"})


def read_column(data: Dataset, name: str) -> list[Any]:
    """A column of a dataset with a value in each row.

    Raises:
        UserError: The column is missing, or a row (counted from 1) has no value.
    """
    if name not in data.column_names:
        raise unknown("column", name, data.column_names)
    values = list(data[name])
    if None in values:
        raise UserError(
            f"column {name!r}: expected a value in each row; row {values.index(None) + 1} has none"
        )
    return values


def check_list(conditions: Sequence[Any]) -> Sequence[Any]:
    """Raise an error for a single condition in place of a list."""
    if isinstance(conditions, str | Mapping):
        raise UserError(f"expected a list of conditions, such as [{conditions!r}]")
    return conditions


def word_and_context(condition: Any) -> tuple[str, str | None]:
    """The word and the sentence, or None, of a condition that is a word or a pair of both."""
    if isinstance(condition, str) and condition.strip():  # most are: a vocabulary has 100,000
        return condition, None
    pair = isinstance(condition, Sequence) and not isinstance(condition, str)
    word, context = condition if pair and len(condition) == 2 else (condition, None)
    if not isinstance(word, str) or not word.strip() or not isinstance(context, str | None):
        raise UserError(f"expected a word, or a pair of word and sentence; got {condition!r:.80}")
    return word, context
