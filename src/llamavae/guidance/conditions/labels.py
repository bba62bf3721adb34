"""Labels as one-hot vectors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from llamavae.errors import UserError, unknown
from llamavae.guidance.conditions.condition import Condition, check_list, read_column

if TYPE_CHECKING:
    from datasets import Dataset


class LabelCondition(Condition):
    """Labels, one for each column, as concatenated one-hot vectors.

    A condition is a value for every column, as a dictionary or a text. White space in values is
    normalised to single spaces and stripped.

    Args:
        values: Maps columns to their values.

    Example:
        >>> labels = LabelCondition({"tense": ["past", "present"], "negation": ["no", "yes"]})
        >>> labels.vectors(["tense=present,negation=no", {"tense": "past", "negation": "yes"}])
        tensor([[0., 1., 1., 0.],
                [1., 0., 0., 1.]])
    """

    name = "labels"

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        self.values = {column: list(map(_plain, known)) for column, known in values.items()}
        if not self.values:
            raise UserError("expected at least one column of labels; got none")
        for column, known in self.values.items():
            if not known or len(set(known)) < len(known):
                raise UserError(
                    f"expected distinct values for column {column!r:.40}; got {known!s:.80}"
                )
        self.dim = sum(map(len, self.values.values()))

    @classmethod
    def from_rows(cls, data: Dataset, columns: Sequence[str]) -> Self:
        """The labels that occur in a dataset, in alphabetical order.

        Raises:
            UserError: A column is missing, or a row has no value.
        """
        return cls({name: sorted(set(map(_plain, read_column(data, name)))) for name in columns})

    def text(self, condition: Mapping[str, Any] | str) -> str:
        """The labels in the order of the columns, such as "tense=past,negation=no"."""
        return ",".join(f"{column}={value}" for column, value in self._labels(condition).items())

    def vectors(self, conditions: Sequence[Any]) -> Tensor:
        """Concatenated one-hot vectors (B, C)."""
        rows = [
            [float(value == label) for c, label in labels.items() for value in self.values[c]]
            for labels in map(self._labels, check_list(conditions))
        ]
        return torch.tensor(rows).reshape(-1, self.dim)

    def _labels(self, condition: Mapping[str, Any] | str) -> dict[str, str]:
        """Maps columns to labels, in the order of the columns."""
        example = ",".join(f"{column}={known[0]}" for column, known in self.values.items())
        given: Any = condition
        if isinstance(condition, str):
            pairs = [part.partition("=") for part in re.split(self._comma(), condition)]
            given = {column.strip(): value for column, _, value in pairs}
            if not all(equals for _, equals, _ in pairs) or len(given) < len(pairs):
                given = None
        if not isinstance(given, Mapping):
            raise UserError(f"expected labels such as {example!r:.80}; got {condition!r:.80}")
        for column in given:
            if column not in self.values:
                raise unknown("column", str(column), self.values)
        for column, known in self.values.items():
            if column not in given:
                raise UserError(
                    f"expected a value for {column!r:.40}, one of {', '.join(known):.80}. Every "
                    f"column needs a value, as in {example!r:.80}"
                )
            if _plain(given[column]) not in known:
                raise unknown(column, _plain(given[column]), known)
        return {column: _plain(given[column]) for column in self.values}

    def _comma(self) -> str:
        """Pattern of the separator: a comma, or if values contain commas, one before a column."""
        if not any("," in value for known in self.values.values() for value in known):
            return ","
        return rf",(?=\s*(?:{'|'.join(map(re.escape, self.values))})\s*=)"

    def settings(self) -> dict[str, Any]:
        """Name and values."""
        return {"name": self.name, "values": self.values}


def _plain(value: Any) -> str:
    return " ".join(str(value).split())
