"""Helpers for rows of text, shared by several readers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import Dataset

from llamavae.errors import UserError


def from_rows(rows: Iterable[Mapping[str, Any]], where: str) -> Dataset:
    """A dataset in memory; a column that a row lacks is None there.

    Raises:
        UserError: A column mixes types, such as text and numbers.
    """
    columns: dict[str, list[Any]] = {}
    for count, row in enumerate(rows):
        for name, value in row.items():
            if name not in columns:
                columns[name] = [None] * count
            columns[name].append(value)
        if len(row) < len(columns):
            for name in columns.keys() - row.keys():
                columns[name].append(None)
    try:
        return Dataset.from_dict(columns)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(
            f"{where}: a column mixes types ({' '.join(str(error).split())[:150]}). Give each "
            "column one type"
        ) from error
    except (OverflowError, UnicodeEncodeError) as error:
        raise UserError(
            f"{where}: a column holds an integer beyond 64 bits, or half of a surrogate pair "
            f"({str(error)[:100]}). Remove the column or the row"
        ) from error


def choose_column(rows: Sequence[Mapping[str, Any]], column: str | None, where: str) -> str:
    """The column that holds the sentences: `column`, else `text`, else the only one with text.

    Args:
        rows: The first rows of the data.
        column: The user's choice, if any.
        where: Name of the data for error messages.

    Raises:
        UserError: `column` does not exist, or the choice is ambiguous.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    if column is not None:
        if column not in names:
            raise no_column(where, column, names)
        return column
    if "text" in names:
        return "text"
    wordy = [name for name in names if any(_is_prose(row.get(name)) for row in rows)]
    if len(wordy) == 1:
        return wordy[0]
    raise UserError(
        f"{where} has no column 'text'; its columns are {', '.join(names)}. "
        "Name the one that holds the sentences with column=, or --column if the "
        "command has it"
    )


def no_column(where: str, column: str, names: Iterable[str]) -> UserError:
    """A `UserError` for a column that is not one of the `names` of the data called `where`."""
    known = ", ".join(names)
    return UserError(f"{where} has no column {column!r:.80}; known columns: {known:.500}")


def _is_prose(value: object) -> bool:
    """Whether a value is text other than a number."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False
