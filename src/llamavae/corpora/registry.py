"""Load a corpus by name. A new corpus needs one file and one line here."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

from datasets import Dataset, IterableDataset

from llamavae.corpora import files, hub
from llamavae.corpora.corpus import Corpus, Request, Sentences, Source
from llamavae.corpora.splits import SHARES, check_split, select_rows, take_split, texts
from llamavae.corpora.text import from_rows
from llamavae.errors import UserError, check_int, check_path, check_seed, unknown

_MODULES = (
    "factors",
    "wordnet",
    "worldtree",
    "codwoe",
    "wiktionary",
    "wikipedia",
)
"""Modules of this package that define a tuple `CORPORA`."""

CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for module in _MODULES
    for corpus in import_module(f"llamavae.corpora.{module}").CORPORA
}


class Options(TypedDict, total=False):
    """Keywords of `load_corpus`, for type checkers; it documents them."""

    path: str | os.PathLike[str] | None
    column: str | None
    config: str | None
    revision: str | None
    limit: int | None
    seed: int
    min_words: int | None
    max_words: int | None


def corpus_names() -> list[str]:
    """Names of the corpora of `load_corpus`, in addition to files, folders and hub ids."""
    return list(CORPORA)


def describe_corpora() -> list[dict[str, str]]:
    """Name, description and licence of each named corpus."""
    return [
        {"name": c.name, "description": c.description, "licence": c.licence}
        for c in CORPORA.values()
    ]


@overload
def load_corpus(
    name: str | os.PathLike[str],
    split: str | None = None,
    *,
    streaming: Literal[False] = False,
    **options: Unpack[Options],
) -> Dataset: ...
@overload
def load_corpus(
    name: str | os.PathLike[str],
    split: str | None = None,
    *,
    streaming: Literal[True],
    **options: Unpack[Options],
) -> IterableDataset: ...
@overload
def load_corpus(
    name: str | os.PathLike[str],
    split: str | None = None,
    *,
    streaming: bool,
    **options: Unpack[Options],
) -> Dataset | IterableDataset: ...
def load_corpus(
    name: str | os.PathLike[str],
    split: str | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    column: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    limit: int | None = None,
    seed: int = 0,
    min_words: int | None = None,
    max_words: int | None = None,
) -> Dataset | IterableDataset:
    """Sentences in a column `text`, with labels in further columns.

    Args:
        name: A named corpus (see `corpus_names`), a file (.txt, .jsonl, .json, .csv, .tsv,
            .parquet), a folder of such files, or the id of a dataset on the hub.
        split: train, validation or test; None for all. A dataset's own splits are kept; others
            are split by a hash of the text, 90 / 5 / 5, in a reproducible way (see `take_split`).
        path: Path of a named corpus, if it is not in the default location.
        column: Column with the sentences; default: `text`, else the only one that holds text.
        config: Configuration ("subset") of a hub dataset; for wikipedia, date and language.
        revision: Commit, tag or branch of a hub dataset.
        streaming: Return an `IterableDataset` that reads while it is iterated over, for corpora
            larger than memory.
        limit: Maximum number of rows of the split, chosen at random with `seed` in the order of the
            corpus; for a stream, the first rows.
        seed: Seed for `limit` and for the sentences of `factors`.
        min_words: Exclude shorter sentences (words are separated by white space).
        max_words: Exclude longer sentences.

    Raises:
        UserError: Unknown name or option, unreadable file, unreachable hub, or no sentence left.

    Example:
        >>> load_corpus("factors", "validation", limit=3).column_names[:3]
        ['text', 'adjective', 'subject']
    """
    check_split(split)
    where = os.fspath(check_path(name, "the name of a corpus, a file, a folder or a hub id"))
    if path is not None:
        path = check_path(path, "a file or a folder as path").expanduser()
    for option, value in (("column", column), ("config", config), ("revision", revision)):
        if value is not None and not isinstance(value, str):
            raise UserError(f"{option} must be text; got {value!r:.40}")
    _check_numbers(limit, min_words, max_words)
    check_seed(seed)
    request = Request(
        path=path,
        column=column,
        config=config,
        revision=revision,
        streaming=streaming,
        rows=None if limit is None else math.ceil(1.5 * limit / SHARES.get(split or "", 1)),
        seed=seed,
    )
    data = take_split(_by_length(_open(where, request), min_words, max_words), split, where)
    return _finish(data, where, streaming, limit, seed)


def _open(name: str, request: Request) -> Source:
    if name in CORPORA:
        corpus = CORPORA[name]
        _check_options(f"corpus {name!r}", request, corpus.options)
        return corpus.load(request)
    place = Path(name).expanduser()
    if place.is_dir():
        _check_options("a folder", request, {"column", "config"})
        return hub.load(str(place), request)
    like_file = files.format_of(place) in files.SUFFIXES or name.startswith((".", "~", "/", "\\"))
    if place.is_file() or like_file or name.count("/") > 1:
        _check_options("a file", request, {"column"})
        return files.load(place, request.column, request.streaming)
    if name.count("/") == 1:
        _check_options("a hub dataset", request, {"column", "config", "revision"})
        return hub.load(name, request)
    raise unknown(
        "corpus", name, CORPORA, hint="A file, a folder or a hub id (owner/name) is also supported"
    )


def _check_options(what: str, request: Request, known: set[str] | frozenset[str]) -> None:
    for option in ("column", "config", "path", "revision"):
        if option not in known and getattr(request, option) is not None:
            takes = ", ".join(f"{name}=" for name in sorted(known))
            takes = takes or "none of path=, column=, config=, revision="
            raise UserError(f"{what} does not take {option}=; it takes {takes}")


def _check_numbers(limit: int | None, min_words: int | None, max_words: int | None) -> None:
    for name, value in (("limit", limit), ("min_words", min_words), ("max_words", max_words)):
        if value is not None:
            check_int(name, value)
    if min_words and max_words and min_words > max_words:
        raise UserError(f"min_words ({min_words}) is more than max_words ({max_words})")


def _by_length(source: Source, low: int | None, high: int | None) -> Source:
    if low is None and high is None:
        return source
    fits = partial(_fits, low=low or 0, high=math.inf if high is None else high)
    if isinstance(source, IterableDataset):
        return source.filter(fits)
    if isinstance(source, Dataset):
        return select_rows(source, [i for i, t in enumerate(texts(source)) if fits({"text": t})])
    return {name: _by_length(data, low, high) for name, data in source.items()}  # type: ignore


def _fits(row: Mapping[str, Any], low: float, high: float) -> bool:
    return low <= len(row["text"].split()) <= high


def _finish(
    data: Sentences, where: str, streaming: bool, limit: int | None, seed: int
) -> Dataset | IterableDataset:
    if isinstance(data, IterableDataset):
        if limit is not None:
            data = data.take(limit)
        if streaming:
            return data
        if limit is None:
            raise UserError(
                f"{where} may be larger than memory. Pass limit= for its first sentences, "
                "or streaming=True to read while training"
            )
        data = from_rows(data, where)
    if len(data) == 0:
        raise UserError(f"no sentence of {where} is left: min_words or max_words exclude all")
    if limit is not None and limit < len(data):
        data = data.select(sorted(random.Random(seed).sample(range(len(data)), limit)))
    return data.to_iterable_dataset() if streaming else data
