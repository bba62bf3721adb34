"""Description of a corpus: its name, description, licence and loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, IterableDataset

Sentences = Dataset | IterableDataset
"""Rows with a column `text`, in memory (or memory-mapped) or as a stream."""

Source = Sentences | Mapping[str, Sentences]
"""Result of a loader: all sentences, or the splits of the publisher."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Arguments of a loader.

    Attributes:
        path: Local file or folder to read instead of the corpus's usual place.
        column: Column that holds the sentences.
        config: Configuration ("subset") of a hub dataset.
        revision: Commit, tag or branch of a hub dataset.
        streaming: Whether to return a stream.
        rows: Approximate number of rows needed before splitting; None for all.
        seed: Seed of corpora that are drawn at random.
    """

    path: Path | None = None
    column: str | None = None
    config: str | None = None
    revision: str | None = None
    streaming: bool = False
    rows: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Corpus:
    """A named corpus.

    Attributes:
        name: The name for `load_corpus`.
        description: One line for the listing.
        licence: Terms of the text.
        load: The loader.
        options: Supported options among path, column, config and revision; others raise an error.
    """

    name: str
    description: str
    licence: str
    load: Callable[[Request], Source]
    options: frozenset[str] = frozenset()
