"""CODWOE, definitions with word vectors (SemEval-2022 task 1, Mickus et al. 2022).

A file is a JSON array of items. An item of a training file has an id, a definition (`gloss`) and
vectors of the defined word; the complete files also have the word, its part of speech and sometimes
an example. The test files lack the values to predict: those of the reverse dictionary (revdict)
have no vectors, those of definition modelling (defmod) no definitions. This module reads all of
them, and writes the two kinds of submission files for the scorer of the task.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llamavae.corpora import files
from llamavae.corpora.corpus import Corpus, Request, Source
from llamavae.corpora.lines import check_file
from llamavae.corpora.matrices import check_matrix
from llamavae.corpora.text import from_rows
from llamavae.errors import UserError, counted, unknown
from llamavae.files import write_text

KINDS = ("sgns", "char", "electra")
"""Kinds of vectors: skip-gram (word2vec), of the spelling, and contextual (en, fr and ru only)."""

_TEXTS = ("word", "pos", "gloss", "example")

_GET = (
    "Download CODWOE from https://codwoe.atilf.fr, unpack it, and pass path= to one of its JSON "
    "files, such as en.train.json"
)


@dataclass(frozen=True, slots=True, eq=False)
class CodwoeItem:
    """One item; missing fields are None.

    Attributes:
        id: Language, dataset and number, such as "en.train.2".
        word: The defined word.
        pos: Its part of speech.
        gloss: The definition.
        example: A sentence with the word.
        vectors: Maps kinds (of `KINDS`) to vectors of the word (C,), float32.
    """

    id: str
    word: str | None
    pos: str | None
    gloss: str | None
    example: str | None
    vectors: dict[str, np.ndarray]


# --------------------------------------------------------------------------------------- reading


def read_items(path: str | os.PathLike[str]) -> list[CodwoeItem]:
    """The items of a file, in its order.

    Raises:
        UserError: The file is missing or is not a JSON array of items, an id is missing or
            repeated, a field is not text, or a vector is not a list of finite numbers of the size
            of its kind. The message names the file and the item.
    """
    path = Path(path).expanduser()
    check_file(path)
    items: dict[str, CodwoeItem] = {}
    sizes: dict[str, int] = {}
    for number, entry in enumerate(_entries(path), 1):
        item = _item(entry, number, path)
        if item.id in items:
            raise UserError(f"{path}: two items have the id {item.id!r}; ids are unique")
        for kind, vector in item.vectors.items():
            size = sizes.setdefault(kind, len(vector))
            if len(vector) != size:
                raise UserError(
                    f"{path}: item {item.id!r}: {kind} has {len(vector)} numbers; those of the "
                    f"items before it have {size}"
                )
        items[item.id] = item
    if not items:
        raise UserError(f"{path} has no items: its array is empty")
    return list(items.values())


def _entries(path: Path) -> list[Any]:
    entries = files.parse_json(path, expected="an array of CODWOE items", object_hook=_pack)
    if not isinstance(entries, list):
        raise UserError(f"{path}: expected an array of CODWOE items, not {type(entries).__name__}")
    return entries


def _pack(fields: dict[str, Any]) -> dict[str, Any]:
    """Vectors as arrays while parsing: as Python's numbers they take eight times the memory."""
    for kind in KINDS:
        if isinstance(fields.get(kind), list):
            try:
                vector = np.array(fields[kind])
            except ValueError:  # ragged
                continue
            if vector.dtype.kind in "fiu" and vector.ndim == 1 and len(vector):
                with np.errstate(over="ignore"):
                    fields[kind] = vector.astype(np.float32)
    return fields


def _item(entry: Any, number: int, path: Path) -> CodwoeItem:
    if not isinstance(entry, dict):
        raise UserError(f"{path}: entry {number} is not a JSON object; expected a CODWOE item")
    name = entry.get("id")
    if not isinstance(name, str) or not name:
        raise UserError(f'{path}: entry {number} has no id; expected one such as "en.train.1"')
    for field in _TEXTS:
        if not isinstance(entry.get(field), str | None):
            raise UserError(f"{path}: item {name!r}: {field} is {entry[field]!r}; expected text")
    vectors = {kind: entry[kind] for kind in KINDS if entry.get(kind) is not None}
    for kind, vector in vectors.items():
        if not isinstance(vector, np.ndarray):
            raise UserError(f"{path}: item {name!r}: {kind} is not a list of numbers")
        if not np.isfinite(vector).all():
            raise UserError(f"{path}: item {name!r}: {kind} holds NaN or an infinite number")
    texts = {field: entry.get(field) for field in _TEXTS}
    return CodwoeItem(id=name, vectors=vectors, **texts)


# --------------------------------------------------------------------------------------- writing


def write_definitions(
    path: str | os.PathLike[str], ids: Sequence[str], glosses: Sequence[str]
) -> None:
    """Write a submission for definition modelling: the id and predicted definition of each item.

    Args:
        path: The file; an existing file is replaced atomically.
        ids: Ids of the N items of the test file, all of them.
        glosses: The N definitions.

    Raises:
        UserError: The numbers of ids and definitions differ, an id is repeated, or the file
            cannot be written.
    """
    _check_ids(ids, len(glosses), "definitions")
    _write(path, [{"id": i, "gloss": gloss} for i, gloss in zip(ids, glosses, strict=True)])


def write_vectors(
    path: str | os.PathLike[str], ids: Sequence[str], vectors: Mapping[str, Any]
) -> None:
    """Write a submission for the reverse dictionary: the id and predicted vectors of each item.

    Args:
        path: The file; an existing file is replaced atomically.
        ids: Ids of the N items of the test file, all of them.
        vectors: Maps kinds (of `KINDS`) to numbers (N, C).

    Raises:
        UserError: The numbers of ids and vectors differ, a vector is not finite, a kind is unknown,
            there is no kind, an id is repeated, or the file cannot be written.
    """
    if not vectors:
        raise UserError(f"a submission needs vectors of at least one kind of {', '.join(KINDS)}")
    items: list[dict[str, Any]] = [{"id": name} for name in ids]
    for kind, values in vectors.items():
        if kind not in KINDS:
            raise unknown("kind of vector", kind, KINDS)
        _check_ids(ids, len(values), f"vectors of {kind}")
        matrix = check_matrix(values, f"vectors of {kind}")
        for item, vector in zip(items, matrix.tolist(), strict=True):
            item[kind] = vector
    _write(path, items)


def check_submission(path: Path | None) -> None:
    """Check that a submission can be written to a new file, before its contents are computed.

    Args:
        path: The file; None is not checked.

    Raises:
        UserError: There is such a file already, or no folder for it.
    """
    if path is None:
        return
    if not path.expanduser().parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for --submission: create it first")
    if path.expanduser().exists():
        raise UserError(f"{path} already exists. Choose another name for --submission")


def _check_ids(ids: Sequence[str], count: int, what: str) -> None:
    if len(ids) != count:
        raise UserError(f"{count} {what} for {counted(len(ids), 'id')}; expected one for each id")
    if not ids:
        raise UserError(f"no {what} to write; the scorer expects every item of the test file")
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if list(ids).count(name) > 1)
        raise UserError(f"the id {twice!r} occurs twice; the scorer expects each item once")


def _write(path: str | os.PathLike[str], items: list[dict[str, Any]]) -> None:
    # ASCII, since the scorer opens the file in the encoding of its machine
    write_text(Path(path).expanduser(), json.dumps(items))


# ---------------------------------------------------------------------------------------- corpus


def _load(request: Request) -> Source:
    """The definitions of a file, as the official split that its ids name (en.train.1: train).

    Returns:
        Columns text (the definition) and id, and of word, pos, example and the `KINDS` of vectors
        those that the file has.

    Raises:
        UserError: As `read_items`, or an item has no definition.
    """
    if request.path is None:
        raise UserError(f"codwoe needs path=. {_GET}")
    items = read_items(request.path)
    data = from_rows(_rows(items, request.path), str(request.path))
    names = {item.id.split(".")[1] if item.id.count(".") > 1 else "" for item in items}
    return {names.pop(): data} if len(names) == 1 and "" not in names else data


def _rows(items: list[CodwoeItem], path: Path) -> Iterator[dict[str, Any]]:
    texts = [f for f in ("word", "pos", "example") if any(getattr(item, f) for item in items)]
    kinds = [kind for kind in KINDS if any(kind in item.vectors for item in items)]
    for item in items:
        text = (item.gloss or "").strip()
        if not text:
            raise UserError(
                f"{path}: item {item.id!r} has no gloss, so there is no text to load. The test "
                "file of the defmod track has none. Use a train, dev, trial or revdict file"
            )
        fields = {field: getattr(item, field) for field in texts}
        vectors = {kind: item.vectors.get(kind) for kind in kinds}
        yield {"text": text, "id": item.id} | fields | vectors


CORPORA = (
    Corpus(
        "codwoe",
        "definitions of CODWOE with vectors of the words (needs path=)",
        "CC BY-SA (texts from Wiktionary)",
        _load,
        frozenset({"path"}),
    ),
)
