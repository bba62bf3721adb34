"""Pairs of a condition and a text, from the rows of a corpus."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from llamavae.data.sentences import sentence_vectors
from llamavae.errors import UserError, unknown
from llamavae.guidance.conditions import (
    Condition,
    EncoderCondition,
    LabelCondition,
    VectorCondition,
    read_column,
)

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_SHOWN = 5  # words that a message lists


@dataclass(frozen=True, eq=False)
class Pairs:
    """N texts, each with the condition under which it is to be written.

    Attributes:
        texts: The N texts.
        conditions: Their vectors c (N, C), float32.
        names: What was asked for each text, in words; several rows may share it.
        skipped: What was asked but has no vector -> number of rows that were left out.
    """

    texts: list[str]
    conditions: Tensor
    names: list[str]
    skipped: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = len(self.texts), len(self.conditions), len(self.names)
        if len(set(sizes)) > 1 or self.conditions.ndim != 2:
            raise UserError(
                f"expected N texts, conditions (N, C) and N names; got {sizes[0]} texts, "
                f"conditions {tuple(self.conditions.shape)} and {sizes[2]} names."
            )

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, index: Sequence[int] | Tensor) -> Pairs:
        """The rows `index` (M,), in this order, or those where a mask (N,) is true."""
        rows = torch.as_tensor(index)
        rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows.long()
        return replace(
            self,
            texts=[self.texts[i] for i in rows.tolist()],
            conditions=self.conditions[rows],
            names=[self.names[i] for i in rows.tolist()],
        )


def make_pairs(
    data: Dataset,
    condition: Condition,
    *,
    word: str = "word",
    context: str | None = None,
    also_alone: bool = False,
    vectors: str | np.ndarray | None = None,
    progress: bool = True,
) -> Pairs:
    """Pair the texts of a corpus with their conditions.

    What is asked is a row's labels for a `LabelCondition`, its vector for a `VectorCondition`, and
    its word for any other, where equal ones are embedded once and sentence vectors are kept in the
    cache. Words without a vector are left out and counted. A word with several texts gives several
    pairs.

    Args:
        data: N rows with a column `text`.
        condition: Gives the vectors.
        word: Column with the words. With `vectors`, the names of the rows, if it exists.
        context: Column with the sentence around each word, or None in it.
        also_alone: Give a row with a context a second pair, of the word alone, behind all others.
            A flow that is fitted to both can be asked for a word with and without a sentence.
        vectors: For a `VectorCondition`: a column with a list of numbers a row, or an array
            (N, C).
        progress: Show a bar while sentence vectors are computed.

    Raises:
        UserError: No such column; not one vector a row, or one with NaN; an argument that the
            condition has no use for; no row left.
    """
    if len(data) == 0:
        raise UserError("the data set has no rows to make pairs of.")
    texts = read_column(data, "text")
    matrix = isinstance(condition, VectorCondition)
    if matrix != (vectors is not None):
        raise UserError(
            "pass vectors= (a column of data, or an array) with a matrix condition, and only then."
        )
    if context is not None and (matrix or isinstance(condition, LabelCondition)):
        raise UserError(f"a condition of {condition.name} knows no context; leave out context=.")
    if vectors is not None:
        c = condition.vectors(_matrix(data, vectors))  # type: ignore[arg-type]
        return Pairs(texts, c, _row_names(data, word))
    conditions = _asked(data, condition, word, context)
    if context is not None and also_alone:
        twice = [i for i, sentence in enumerate(data[context]) if sentence is not None]
        conditions += [conditions[i][0] for i in twice]
        texts += [texts[i] for i in twice]
    return _embed(texts, conditions, condition, progress)


def _asked(data: Dataset, condition: Condition, word: str, context: str | None) -> list[Any]:
    if isinstance(condition, LabelCondition):
        columns = {name: read_column(data, name) for name in condition.values}
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]
    words = read_column(data, word)
    if context is None:
        return words
    if context not in data.column_names:
        raise unknown("column", context, data.column_names)
    return list(zip(words, data[context], strict=True))


def _matrix(data: Dataset, vectors: str | np.ndarray) -> np.ndarray:
    if not isinstance(vectors, str):
        if len(vectors) != len(data):
            raise UserError(f"{len(vectors)} vectors for {len(data)} rows; expected one a row.")
        return vectors
    if vectors not in data.column_names:
        raise unknown("column", vectors, data.column_names)
    table: Any = data.select_columns(vectors).with_format("arrow")[:]
    from llamavae.corpora.matrices import column_matrix

    return column_matrix(table.column(vectors), f"column {vectors!r}")


def _row_names(data: Dataset, word: str) -> list[str]:
    """The words where there are some, else the numbers of the rows, counted from 1."""
    if word in data.column_names:
        return [f"row {i}" if w is None else str(w) for i, w in enumerate(data[word], 1)]
    return [f"row {i + 1}" for i in range(len(data))]


def _embed(texts: list[str], conditions: list[Any], condition: Condition, progress: bool) -> Pairs:
    names = [condition.text(one) for one in conditions]
    distinct = dict(zip(names, conditions, strict=True))
    known = {name: one for name, one in distinct.items() if condition.has(one)}
    skipped = dict(Counter(name for name in names if name not in known))
    if skipped:
        first = ", ".join(map(repr, list(skipped)[:_SHOWN])) + ", ..." * (len(skipped) > _SHOWN)
        message = (
            f"{sum(skipped.values())} of {len(names)} row(s) left out: no vector of "
            f"{len(skipped)} word(s), such as {first}"
        )
        if not known:
            raise UserError(f"no pair is left. {message}.")
        logger.warning("%s", message)
    c = cached_vectors(condition, list(known.values()), progress)
    place = {name: row for row, name in enumerate(known)}
    keep = [i for i, name in enumerate(names) if name in known]
    kept = [names[i] for i in keep]
    return Pairs([texts[i] for i in keep], c[[place[name] for name in kept]], kept, skipped)


def cached_vectors(
    condition: Condition, conditions: Sequence[Any], progress: bool = True
) -> Tensor:
    """Vectors c (B, C) of B things that are asked; sentence vectors come through the cache.

    Args:
        condition: Gives the vectors.
        conditions: What is asked.
        progress: Show a bar while sentence vectors are computed.
    """
    if not isinstance(condition, EncoderCondition):
        return condition.vectors(conditions)

    def encode(texts: list[str]) -> Tensor:
        return torch.from_numpy(np.array(sentence_vectors(texts, condition.encoder, progress)))

    return condition.combined(conditions, encode)
