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

from llamavae.data.sentences import cached_array, sentence_vectors, text_hash
from llamavae.errors import UserError, counted, unknown
from llamavae.flows import Flow
from llamavae.guidance.conditions import (
    Condition,
    EncoderCondition,
    LabelCondition,
    VectorCondition,
    read_column,
)
from llamavae.modeling.backbones import fingerprint
from llamavae.modeling.tokenizing import AS_TEXT

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_SHOWN = 5  # number of words listed in a message


@dataclass(frozen=True, eq=False)
class Pairs:
    """N texts, each with its condition.

    Attributes:
        texts: The N texts.
        conditions: Their vectors c (N, C), float32.
        names: Text form of each condition; several rows may share it.
        skipped: Maps conditions without a vector to the number of skipped rows.
        words: The word of each text, or its (word, context) pair, for systems that read words in
            place of vectors. Default: `names`.
    """

    texts: list[str]
    conditions: Tensor
    names: list[str]
    skipped: dict[str, int] = field(default_factory=dict)
    words: Sequence[Any] = ()

    def __post_init__(self) -> None:
        if not self.words:
            object.__setattr__(self, "words", self.names)
        sizes = len(self.texts), len(self.conditions), len(self.names)
        if len(set(sizes)) > 1 or self.conditions.ndim != 2:
            raise UserError(
                f"expected N texts, conditions (N, C) and N names; got {sizes[0]} texts, "
                f"conditions {tuple(self.conditions.shape)} and {sizes[2]} names"
            )
        if len(self.words) != len(self.names):
            raise UserError(f"expected {len(self.names)} words; got {len(self.words)}")

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, index: Sequence[int] | Tensor) -> Pairs:
        """The rows `index` (M,), in this order, or the rows selected by a mask (N,)."""
        rows = torch.as_tensor(index)
        rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows.long()
        return replace(
            self,
            texts=[self.texts[i] for i in rows.tolist()],
            conditions=self.conditions[rows],
            names=[self.names[i] for i in rows.tolist()],
            words=[self.words[i] for i in rows.tolist()],
        )

    def split(self) -> tuple[Pairs, Pairs]:
        """Training and held-out pairs: a tenth of the distinct texts, those of the lowest hash."""
        from llamavae.corpora.splits import position

        places = torch.tensor([position(text) for text in self.texts], dtype=torch.float64)
        distinct = places.unique()
        limit = distinct[max(1, len(distinct) // 10)] if len(distinct) > 1 else 0
        return self.select(places >= limit), self.select(places < limit)


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

    The condition of a row is its labels for a `LabelCondition`, its vector for a `VectorCondition`,
    and its word otherwise; equal words are encoded once, and sentence vectors are cached. Words
    without a vector are skipped and counted. A word with several texts gives several pairs.

    Args:
        data: N rows with a column `text`.
        condition: Encodes the conditions.
        word: Column with the words. With `vectors`, the names of the rows, if it exists.
        context: Column with a sentence that contains the word, or None.
        also_alone: Add a second pair with the word alone for each row with a context, after all
            others. A flow fitted to both supports words with and without a sentence.
        vectors: For a `VectorCondition`: a column with a list of numbers per row, or an array
            (N, C).
        progress: Show a progress bar while sentence vectors are computed.

    Raises:
        UserError: A column is missing, a row has no valid vector, the condition does not take an
            argument, or no row is left.
    """
    if len(data) == 0:
        raise UserError("expected a dataset with at least one row; got none")
    texts = read_column(data, "text")
    takes_vectors = isinstance(condition, VectorCondition)
    if takes_vectors != (vectors is not None):
        raise UserError(
            "vectors= (a column of data, or an array) is required for a VectorCondition, and only "
            "for it"
        )
    if context is not None and (takes_vectors or isinstance(condition, LabelCondition)):
        raise UserError(
            f"a condition of type {condition.name} does not support a context. Omit context="
        )
    if vectors is not None:
        c = condition.vectors(_read_vectors(data, vectors))  # type: ignore[arg-type]
        words = data[word] if word in data.column_names else [None] * len(data)
        names = [f"row {i}" if w is None else str(w) for i, w in enumerate(words, 1)]
        return Pairs(texts, c, names)
    conditions = _conditions(data, condition, word, context)
    if context is not None and also_alone:
        twice = [i for i, sentence in enumerate(data[context]) if sentence is not None]
        conditions += [conditions[i][0] for i in twice]
        texts += [texts[i] for i in twice]
    return _embed(texts, conditions, condition, progress)


def _conditions(data: Dataset, condition: Condition, word: str, context: str | None) -> list[Any]:
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


def _read_vectors(data: Dataset, vectors: str | np.ndarray) -> np.ndarray:
    if not isinstance(vectors, str):
        if len(vectors) != len(data):
            raise UserError(f"expected one vector per row; got {len(vectors)} for {len(data)} rows")
        return vectors
    if vectors not in data.column_names:
        raise unknown("column", vectors, data.column_names)
    table: Any = data.select_columns(vectors).with_format("arrow")[:]
    from llamavae.corpora.matrices import column_matrix

    return column_matrix(table.column(vectors), f"column {vectors!r}")


def _embed(texts: list[str], conditions: list[Any], condition: Condition, progress: bool) -> Pairs:
    names = [condition.text(one) for one in conditions]
    distinct = dict(zip(names, conditions, strict=True))
    known = {name: one for name, one in distinct.items() if condition.has(one)}
    skipped = dict(Counter(name for name in names if name not in known))
    if skipped:
        first = ", ".join(map(repr, list(skipped)[:_SHOWN])) + ", ..." * (len(skipped) > _SHOWN)
        message = (
            f"{sum(skipped.values())} of {counted(len(names), 'row')} skipped: no vector for "
            f"{counted(len(skipped), 'word')}, such as {first}"
        )
        if not known:
            raise UserError(f"expected at least one pair; none is left. {message}")
        logger.warning("%s", message)
    c = cached_vectors(condition, list(known.values()), progress)
    place = {name: row for row, name in enumerate(known)}
    keep = [i for i, name in enumerate(names) if name in known]
    kept = [names[i] for i in keep]
    words = names if isinstance(condition, LabelCondition) else conditions
    return Pairs(
        [texts[i] for i in keep],
        c[[place[name] for name in kept]],
        kept,
        skipped,
        [words[i] for i in keep],
    )


def cached_vectors(
    condition: Condition, conditions: Sequence[Any], progress: bool = True
) -> Tensor:
    """Vectors c (B, C) of B conditions; sentence vectors are cached.

    Args:
        condition: Encodes the conditions.
        conditions: B conditions.
        progress: Show a progress bar while sentence vectors are computed.
    """
    if not isinstance(condition, EncoderCondition):
        return condition.vectors(conditions)

    def encode(texts: list[str]) -> Tensor:
        return torch.from_numpy(np.array(sentence_vectors(texts, condition.encoder, progress)))

    return condition.vectors(conditions, encode)


def cached_centres(condition: EncoderCondition, words: Sequence[str], flow: Flow) -> Tensor:
    """`Flow.centres` (V, D) of V words, cached.

    Args:
        condition: Encodes the words.
        words: V words.
        flow: A flow with centres, in float32.
    """
    encoder = condition.encoder
    key = text_hash(encoder.cache_key(), str(AS_TEXT), fingerprint(flow), *words)

    def compute() -> np.ndarray:
        c = cached_vectors(condition, words)
        return flow.centres(c.to(flow.affine.weight)).cpu().numpy()

    return torch.from_numpy(cached_array(f"centres-{key}", compute))
