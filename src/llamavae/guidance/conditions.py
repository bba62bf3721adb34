"""Conditions as vectors c: a word, a word in a sentence, labels, or numbers."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from llamavae.errors import UserError, unknown
from llamavae.modeling import SentenceEncoder
from llamavae.modeling.backbones import fingerprint
from llamavae.modeling.loading import load_sentence_encoder
from llamavae.modeling.names import Pooling

if TYPE_CHECKING:  # slow import, not needed to use a fitted model
    from datasets import Dataset

_SHOWN = 5  # number of words listed in an error


class Condition(ABC):
    """Encodes conditions as vectors c (C,).

    Attributes:
        name: Its name in saved settings.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def dim(self) -> int:
        """Size C of a vector."""

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
    @abstractmethod
    def from_settings(cls, settings: Mapping[str, Any], encoder: SentenceEncoder | None) -> Self:
        """Rebuild the condition; see `load_condition`."""


class EncoderCondition(Condition):
    """A word, or any text, by its sentence vector E(word).

    In a context the vector is (1 - w) E(word) + w E("word: context").

    A condition is a text, or a pair of a text and a sentence that contains it (or None). The vector
    of "word: context" alone is dominated by the context, hence the weight.

    Args:
        encoder: Encodes the texts.
        source: Source of the encoder for `load_condition`, a hub id, a folder or a name in the
            catalogue, if it is not the encoder of the VAE.
        revision: Branch, tag or commit of that hub repository.
        pooling: Pooling rule that the encoder was loaded with, see `load_sentence_encoder`.
        context_weight: Weight w of the vector of the word in its context, from 0 to 1.
    """

    name = "encoder"

    def __init__(
        self,
        encoder: SentenceEncoder,
        source: str | None = None,
        revision: str | None = None,
        pooling: Pooling | None = None,
        context_weight: float = 0.25,
    ) -> None:
        if not 0 <= context_weight <= 1:
            raise UserError(f"context_weight must be between 0 and 1; got {context_weight}")
        self.encoder, self.source, self.revision = encoder, source, revision
        self.pooling: Pooling | None = pooling
        self.context_weight = context_weight

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        revision: str | None = None,
        pooling: Pooling | None = None,
        context_weight: float = 0.25,
    ) -> Self:
        """Load the encoder, separately from that of the VAE.

        Args:
            source: Hub id or folder, as for `load_sentence_encoder`.
            revision: Branch, tag or commit of the hub repository.
            pooling: As for `load_sentence_encoder`.
            context_weight: See the class.

        Raises:
            UserError: The encoder cannot be found, read or reached.
        """
        place = Path(source).expanduser()
        found = str(place.absolute()) if place.is_dir() else os.fspath(source)
        encoder = load_sentence_encoder(found, revision=revision, pooling=pooling)
        return cls(encoder, found, revision, pooling, context_weight)

    @property
    def dim(self) -> int:
        """Size H_enc of the encoder's vectors."""
        return self.encoder.dim

    def text(self, condition: str | Sequence[str | None]) -> str:
        """The word, or "word: context"."""
        word, context = _word_and_context(condition)
        return word if context is None else f"{word}: {context}"

    def vectors(self, conditions: Sequence[Any]) -> Tensor:
        """Sentence vectors (B, C)."""
        return self.combined(conditions, lambda texts: self.encoder.encode(texts).float().cpu())

    def combined(self, conditions: Sequence[Any], encode: Callable[[list[str]], Tensor]) -> Tensor:
        """Like `vectors`, with an `encode` function of N texts to (N, C), such as a cache."""
        conditions = list(_several(conditions))
        pairs = [_word_and_context(one) for one in conditions]
        c = encode([word for word, _ in pairs])
        inside = [i for i, (_, context) in enumerate(pairs) if context is not None]
        if inside:
            there = encode([self.text(conditions[i]) for i in inside])
            c[inside] = (1 - self.context_weight) * c[inside] + self.context_weight * there
        bad = (~c.isfinite().all(dim=1)).nonzero()
        if len(bad):
            text = self.text(conditions[int(bad[0])])
            raise UserError(f"the sentence encoder's vector of {text!r} holds NaN or infinity.")
        return c

    def settings(self) -> dict[str, Any]:
        """Name and size; for a separate encoder also its source and a hash of its weights."""
        settings: dict[str, Any] = {
            "name": self.name,
            "dim": self.dim,
            "context_weight": self.context_weight,
        }
        if self.source is not None:
            settings |= {"source": self.source, "revision": self.revision, "pooling": self.pooling}
            settings["fingerprint"] = fingerprint(self.encoder.model)
        return settings

    @classmethod
    def from_settings(
        cls,
        settings: Mapping[str, Any],
        encoder: SentenceEncoder | None,
        path: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Rebuild with a separate encoder, whose path may have changed, or with that of the VAE.

        See `load_condition` for the errors.
        """
        weight = settings.get("context_weight", 1.0)
        if "source" in settings:
            was = settings["source"]
            if path is None and Path(was).is_absolute() and not Path(was).is_dir():
                raise UserError(
                    f"the sentence encoder of this condition does not exist at {was}. Give its new "
                    "location with path=, encoder= or --encoder."
                )
            place, pooling = was if path is None else path, settings.get("pooling")
            found = cls.load(place, settings["revision"], pooling, weight)
            if fingerprint(found.encoder.model) != settings["fingerprint"]:
                raise UserError(
                    f"{found.source} is not the sentence encoder of this condition, {was}: its "
                    "weights differ."
                )
            return found
        if path is not None:
            raise UserError(
                "this condition uses the sentence encoder of the VAE. Omit the path of another "
                "encoder."
            )
        if encoder is None:
            raise UserError(
                "this condition is a sentence vector, but the VAE has no sentence encoder. Pass "
                "the vectors themselves, as a tensor (B, C)."
            )
        if encoder.dim != settings["dim"]:
            raise UserError(
                f"expected sentence vectors of size {settings['dim']}; the encoder has size "
                f"{encoder.dim}. Use the encoder of the fit."
            )
        return cls(encoder, context_weight=weight)


class WordVectorCondition(Condition):
    """A word by its vector in a file of word vectors (see `read_word_vectors`).

    Args:
        path: The file.
        words: The words to read; None reads the whole file into memory.
    """

    name = "word-vectors"

    def __init__(self, path: str | os.PathLike[str], words: Collection[str] | None = None) -> None:
        from llamavae.corpora.vectors import read_word_vectors

        self.path = Path(path).expanduser().absolute()
        self.words = read_word_vectors(self.path, words)

    @property
    def dim(self) -> int:
        """Size C of the file's vectors."""
        return self.words.dim

    def text(self, condition: str | Sequence[str | None]) -> str:
        """The word."""
        word, context = _word_and_context(condition)
        if context is not None:
            raise UserError(
                f"word vectors do not support a context. Pass {word!r} alone, or use the sentence "
                "encoder as the condition."
            )
        return word

    def vectors(self, conditions: Sequence[Any]) -> Tensor:
        """The words' vectors (B, C)."""
        words = [self.text(one) for one in _several(conditions)]
        rows = {word: self.words.get(word) for word in words}
        missing = [word for word, row in rows.items() if row is None]
        if missing:
            more = ", ..." if len(missing) > _SHOWN else ""
            raise UserError(
                f"{len(missing)} word(s) without a vector in {self.path}: "
                f"{', '.join(map(repr, missing[:_SHOWN]))}{more}."
            )
        return torch.tensor(np.array([rows[word] for word in words]).reshape(-1, self.dim))

    def has(self, condition: str | Sequence[str | None]) -> bool:
        """Whether the file has a vector for this word."""
        return self.words.get(self.text(condition)) is not None

    def settings(self) -> dict[str, Any]:
        """Name, the file's absolute path and its size in bytes, and C."""
        size = self.path.stat().st_size
        return {"name": self.name, "path": str(self.path), "bytes": size, "dim": self.dim}

    @classmethod
    def from_settings(
        cls,
        settings: Mapping[str, Any],
        encoder: SentenceEncoder | None = None,
        path: str | os.PathLike[str] | None = None,
        words: Collection[str] | None = None,
    ) -> Self:
        """Rebuild with the same file, whose path may have changed."""
        place = Path(settings["path"] if path is None else path).expanduser()
        if path is None and not place.is_file():
            raise UserError(
                f"the word vectors of this condition do not exist at {place}. "
                "Pass their new location as path=."
            )
        size = place.stat().st_size if place.is_file() else settings["bytes"]
        if size != settings["bytes"]:
            raise UserError(
                f"{place} is not the file of word vectors of this condition: it has {size} bytes, "
                f"{Path(settings['path']).name} had {settings['bytes']}."
            )
        return cls(place, words)


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
            raise UserError("expected at least one column of labels; got none.")
        for column, known in self.values.items():
            if not known or len(set(known)) < len(known):
                raise UserError(f"expected distinct values for column {column!r}; got {known}.")

    @classmethod
    def from_rows(cls, data: Dataset, columns: Sequence[str]) -> Self:
        """The labels that occur in a data set, in alphabetical order.

        Raises:
            UserError: A column is missing, or a row has no value.
        """
        return cls({name: sorted(set(map(_plain, read_column(data, name)))) for name in columns})

    @property
    def dim(self) -> int:
        """Total number of values of all columns."""
        return sum(map(len, self.values.values()))

    def text(self, condition: Mapping[str, Any] | str) -> str:
        """The labels in the order of the columns, such as "tense=past,negation=no"."""
        return ",".join(f"{column}={value}" for column, value in self._labels(condition).items())

    def vectors(self, conditions: Sequence[Any]) -> Tensor:
        """Concatenated one-hot vectors (B, C)."""
        rows = [
            [float(value == label) for c, label in labels.items() for value in self.values[c]]
            for labels in map(self._labels, _several(conditions))
        ]
        return torch.tensor(rows).reshape(-1, self.dim)

    def _labels(self, condition: Mapping[str, Any] | str) -> dict[str, str]:
        """Maps columns to labels, in the order of the columns."""
        example = ",".join(f"{column}={known[0]}" for column, known in self.values.items())
        given = condition
        if isinstance(condition, str):
            pairs = [part.partition("=") for part in re.split(self._comma(), condition)]
            given = {column.strip(): value for column, _, value in pairs}
            if not all(equals for _, equals, _ in pairs) or len(given) < len(pairs):
                raise UserError(f"expected labels such as {example!r}; got {condition!r}.")
        if not isinstance(given, Mapping):
            raise UserError(f"expected labels such as {example!r}; got {condition!r}.")
        for column in given:
            if column not in self.values:
                raise unknown("column", str(column), self.values)
        for column, known in self.values.items():
            if column not in given:
                raise UserError(
                    f"expected a value for {column!r}, one of {', '.join(known)}. Every column "
                    f"needs a value, as in {example!r}."
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

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], encoder: SentenceEncoder | None) -> Self:
        """Rebuild with the same columns and values."""
        return cls(settings["values"])


class VectorCondition(Condition):
    """Vectors given by the user, without a text form.

    A condition is a vector (C,); a tensor or array (B, C) represents B conditions.

    Args:
        dim: Size C of a vector.
    """

    name = "matrix"

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise UserError(f"dim must be at least 1; got {dim}.")
        self._dim = dim

    @property
    def dim(self) -> int:
        """Size C of a vector."""
        return self._dim

    def text(self, condition: Any) -> str:
        """The first numbers."""
        return f"[{', '.join(f'{float(value):.3g}' for value in condition[:3])}, ...]"

    def vectors(self, conditions: Sequence[Any] | Tensor | np.ndarray) -> Tensor:
        """The same numbers (B, C), checked."""
        values = (
            conditions.detach().float().cpu().numpy()
            if isinstance(conditions, Tensor)
            else conditions
        )
        words = [one for one in values if isinstance(one, str)]
        if words:
            raise UserError(
                f"expected a condition of {self.dim} numbers; got a text, {words[0]!r}. In Python, "
                f"pass a tensor (B, {self.dim}); for a CODWOE file, name the vectors (--vectors)."
            )
        if len(values) == 0:
            return torch.empty(0, self.dim)
        from llamavae.corpora.matrices import check_matrix

        matrix = check_matrix(values, "the conditions")
        if matrix.shape[1] != self.dim:
            raise UserError(
                f"expected conditions of {self.dim} numbers; got rows of {matrix.shape[1]}."
            )
        return torch.tensor(matrix)

    def settings(self) -> dict[str, Any]:
        """Name and size."""
        return {"name": self.name, "dim": self.dim}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], encoder: SentenceEncoder | None) -> Self:
        """Rebuild with the same size."""
        return cls(settings["dim"])


CONDITIONS: dict[str, type[Condition]] = {
    condition.name: condition
    for condition in (EncoderCondition, WordVectorCondition, LabelCondition, VectorCondition)
}
"""Maps names to condition classes."""


def load_condition(
    settings: Mapping[str, Any],
    encoder: SentenceEncoder | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    words: Collection[str] | None = None,
) -> Condition:
    """Rebuild a condition from its settings.

    Args:
        settings: Result of its `settings()`.
        encoder: The sentence encoder of the VAE, if it has one.
        path: For word vectors or a separate sentence encoder: the new path, if it has changed.
        words: For word vectors: the words to read; None reads the whole file.

    Raises:
        UserError: The condition is unknown, its encoder or file of word vectors is missing or a
            different one, or the condition does not take a path.
    """
    if settings["name"] not in CONDITIONS:
        raise unknown("condition", settings["name"], CONDITIONS)
    kind = CONDITIONS[settings["name"]]
    if kind is WordVectorCondition:
        return WordVectorCondition.from_settings(settings, encoder, path, words)
    if kind is EncoderCondition:
        return EncoderCondition.from_settings(settings, encoder, path)
    if path is not None:
        raise UserError(
            f"path= is only for word vectors or a sentence encoder; this condition is {kind.name}."
        )
    return kind.from_settings(settings, encoder)


def read_column(data: Dataset, name: str) -> list[Any]:
    """A column of a data set with a value in each row.

    Raises:
        UserError: The column is missing, or a row (counted from 1) has no value.
    """
    if name not in data.column_names:
        raise unknown("column", name, data.column_names)
    values = list(data[name])
    if None in values:
        raise UserError(
            f"column {name!r}: expected a value in each row; row {values.index(None) + 1} has none."
        )
    return values


def _plain(value: Any) -> str:
    return " ".join(str(value).split())


def _several(conditions: Sequence[Any]) -> Sequence[Any]:
    if isinstance(conditions, str | Mapping):
        raise UserError(f"expected a list of conditions, such as [{conditions!r}].")
    return conditions


def _word_and_context(condition: Any) -> tuple[str, str | None]:
    word, context = (condition, None) if isinstance(condition, str) else _pair(condition)
    if not isinstance(word, str) or not word.strip() or not isinstance(context, str | None):
        raise UserError(f"expected a word, or a pair of word and sentence; got {condition!r:.80}.")
    return word, context


def _pair(condition: Any) -> Sequence[Any]:
    return condition if isinstance(condition, Sequence) and len(condition) == 2 else (None, None)
