"""Words by their vectors in a file."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from llamavae.errors import UserError, counted
from llamavae.guidance.conditions.condition import Condition, check_list, word_and_context
from llamavae.modeling import SentenceEncoder

_SHOWN = 5  # number of words listed in an error


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
        self.dim = self.words.dim

    def text(self, condition: str | Sequence[str | None]) -> str:
        """The word."""
        word, context = word_and_context(condition)
        if context is not None:
            raise UserError(
                f"word vectors do not support a context. Pass {word!r} alone, or use the sentence "
                "encoder as the condition"
            )
        return word

    def vectors(self, conditions: Sequence[Any]) -> Tensor:
        """The words' vectors (B, C)."""
        words = [self.text(one) for one in check_list(conditions)]
        rows = {word: self.words.get(word) for word in words}
        missing = [word for word, row in rows.items() if row is None]
        if missing:
            more = ", ..." if len(missing) > _SHOWN else ""
            raise UserError(
                f"{counted(len(missing), 'word')} without a vector in {self.path}: "
                f"{', '.join(map(repr, missing[:_SHOWN]))}{more}"
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
                "Pass their new location as path="
            )
        size = place.stat().st_size if place.is_file() else settings["bytes"]
        if size != settings["bytes"]:
            raise UserError(
                f"{place} is not the file of word vectors of this condition: it has {size} bytes, "
                f"{Path(settings['path']).name} had {settings['bytes']}"
            )
        return cls(place, words)
