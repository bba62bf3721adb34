"""The sentences of a run: one corpus, as it is or as a stream, or several that are mixed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from llamavae.corpora import load_corpus
from llamavae.corpora.splits import fold
from llamavae.errors import UserError, counted
from llamavae.training.recipe import CorpusPart, Recipe


@dataclass(frozen=True)
class RunSentences:
    """The sentences of a run.

    Attributes:
        train: Training sentences, or a stream of them with a column `text`.
        validation: Held-out sentences.
        vectors: Precomputed sentence vectors (N, H_enc) of both, if the corpus has them.
    """

    train: list[str] | IterableDataset
    validation: list[str]
    vectors: tuple[np.ndarray, np.ndarray] | None = None


def load_sentences(recipe: Recipe) -> RunSentences:
    """The sentences of a recipe's corpora.

    Raises:
        UserError: A corpus cannot be read, its column of vectors does not hold vectors, or there
            are fewer than two sentences for validation.
    """
    c, held_out = recipe.corpus, recipe.evaluation.sentences
    if c.mix:
        sentences = _mixed([c, *c.mix], held_out)
    elif c.streaming:
        sentences = _streamed(c, held_out)
    else:
        sentences = _read(c, held_out, recipe.encoder.vectors)
    if len(sentences.validation) < 2:
        names = " and ".join(part.name for part in (c, *c.mix))
        raise UserError(
            f"{names} leaves {counted(len(sentences.validation), 'sentence')} for validation; "
            "at least 2 are needed. Use a larger corpus"
        )
    return sentences


def _options(part: CorpusPart, **changes: Any) -> Any:
    """Options of `load_corpus` for a part of the training data."""
    chosen = set(CorpusPart.model_fields) - {"name"}
    return part.model_dump(include=chosen) | changes


def _read(part: CorpusPart, held_out: int, column: str | None) -> RunSentences:
    train = load_corpus(part.name, "train", **_options(part))
    validation = load_corpus(part.name, "validation", **_options(part, limit=held_out))
    vectors = (_vectors(train, column), _vectors(validation, column)) if column else None
    return RunSentences(list(train["text"]), list(validation["text"]), vectors)


def _streamed(part: CorpusPart, held_out: int) -> RunSentences:
    stream = load_corpus(part.name, "train", streaming=True, **_options(part))
    options = _options(part, limit=held_out)
    validation = load_corpus(part.name, "validation", streaming=True, **options)
    return RunSentences(stream.select_columns("text"), [row["text"] for row in validation])


def _vectors(data: Dataset, column: str) -> np.ndarray:
    """Precomputed sentence vectors (N, H_enc) of a column."""
    if column not in data.column_names:
        raise UserError(
            f"encoder.vectors: the corpus has no column {column!r}; it has "
            f"{', '.join(data.column_names)}"
        )
    try:
        vectors = np.asarray(data[column][:], dtype=np.float32)
    except (TypeError, ValueError):
        vectors = np.empty(0)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise UserError(
            f"encoder.vectors: column {column!r} must hold lists of numbers, all of one length"
        )
    return vectors


def _mixed(parts: Sequence[CorpusPart], held_out: int) -> RunSentences:
    """Several corpora, one after the other, without the duplicates that `merge` excludes."""
    train = [load_corpus(part.name, "train", **_options(part))["text"] for part in parts]
    shares = share_out(held_out, [len(texts) for texts in train])
    validation = [
        load_corpus(part.name, "validation", **_options(part, limit=share))["text"]
        for part, share in zip(parts, shares, strict=True)
    ]
    return RunSentences(*merge(train, validation))


def share_out(total: int, sizes: Sequence[int]) -> list[int]:
    """`total` in shares proportional to `sizes`, each rounded and at least 1.

    Example:
        >>> share_out(100, [6000, 3000, 10])
        [67, 33, 1]
    """
    return [max(1, round(total * size / sum(sizes))) for size in sizes]


def merge(
    train: Sequence[Iterable[str]], validation: Sequence[Iterable[str]]
) -> tuple[list[str], list[str]]:
    """Training and held-out sentences of several corpora as one of each.

    Sentences of an earlier corpus are skipped, and held-out sentences that any corpus trains on,
    since the splits of two corpora may differ. Case and white space are ignored, as by `fold`.
    Duplicates within one corpus are kept.

    Args:
        train: Training sentences of each corpus.
        validation: Its held-out sentences.

    Example:
        >>> merge([["a dog", "an owl"], ["A  dog", "a cat"]], [["a fox"], ["an owl", "a fox"]])
        (['a dog', 'an owl', 'a cat'], ['a fox'])
    """
    seen: set[str] = set()
    return _append(train, seen), _append(validation, seen)


def _append(parts: Sequence[Iterable[str]], seen: set[str]) -> list[str]:
    """The texts of all parts without those that are `seen` before their part; marks all as seen."""
    joined: list[str] = []
    for part in parts:
        new = [text for text in part if fold(text) not in seen]
        seen.update(map(fold, new))
        joined += new
    return joined
