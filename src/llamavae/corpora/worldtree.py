"""Science facts of WorldTree (Jansen et al. 2018; V2: Xie et al. 2020), from its tablestore.

Each row of a table reads as a sentence: its cells in order, without the columns whose name starts
with [SKIP], which hold the row's id, comments and a mark on rows that were withdrawn.

The split of the published reconstruction tables (arXiv 2311.08579) is a folder with `train.txt` and
`test.txt`; it is kept, and the validation set is cut from its training sentences.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from llamavae.corpora import files
from llamavae.corpora.corpus import Corpus, Request, Source
from llamavae.corpora.lines import check_file, read_lines
from llamavae.corpora.text import from_rows
from llamavae.errors import UserError

_SKIP, _UID, _WITHDRAWN = "[SKIP]", "[SKIP] UID", "[SKIP] DEP"

_VARIABLE = "LLAMAVAE_WORLDTREE"

_GET = (
    "Download WorldTree from http://cognitiveai.org/explanationbank, unpack it, and set path= or "
    f"{_VARIABLE} to its folder of tables (tablestore/.../tables), to a file of sentences, or to a "
    "folder with train.txt and test.txt"
)
_SPLITS = ("train", "test")


def load(path: Path, column: str | None = None) -> Source:
    """The facts of a tablestore.

    Args:
        path: Folder with the tables (.tsv, at any depth), one such table, a folder with train.txt
            and test.txt, or any other file of sentences that `files.load` reads.
        column: Only for the latter.

    Returns:
        Columns text, and of tables also table (name of the file) and uid.

    Raises:
        UserError: No tables there.
    """
    split = {name: path / f"{name}.txt" for name in _SPLITS}
    if all(place.is_file() for place in split.values()):
        return {name: files.load(place) for name, place in split.items()}
    if path.is_dir():
        tables = [table for table in sorted(path.rglob("*.tsv")) if _header(table)]
        if not tables:
            raise UserError(f"no WorldTree table (.tsv with a column {_UID!r}) in {path}. {_GET}")
    else:
        check_file(path)
        if not _header(path):
            return files.load(path, column)
        tables = [path]
    return from_rows((row for table in tables for row in _rows(table)), str(path))


def _rows(table: Path) -> Iterator[dict[str, str]]:
    header = _header(table)
    for number, line in read_lines(table):
        if number == 1 or not line.strip():
            continue
        cells = dict(zip(header, _cells(line), strict=False))  # empty cells at the end are omitted
        text = " ".join(
            " ".join(cell.split()) for name, cell in cells.items() if not name.startswith(_SKIP)
        )
        text = " ".join(text.split())
        if text and not cells.get(_WITHDRAWN):
            yield {"text": text, "table": table.stem, "uid": cells.get(_UID, "")}


def _header(table: Path) -> list[str]:
    """Names of the columns, each made unique, or nothing when this is no table of WorldTree."""
    if table.suffix.lower() != ".tsv":
        return []
    first = next(read_lines(table), None)
    names = _cells(first[1]) if first else []
    if _UID not in names:
        return []
    return [name if names.index(name) == i else f"{name} {i}" for i, name in enumerate(names)]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.rstrip("\r\n").split("\t")]


def _load(request: Request) -> Source:
    if request.path is not None:
        return load(request.path, request.column)
    stated = os.environ.get(_VARIABLE)
    if not stated:
        raise UserError(f"worldtree needs path= or the variable {_VARIABLE}. {_GET}")
    try:
        return load(Path(stated).expanduser(), request.column)
    except UserError as error:
        raise UserError(f"{error} (from {_VARIABLE})") from error


CORPORA = (
    Corpus(
        "worldtree",
        "science facts of WorldTree's tables (needs path= or LLAMAVAE_WORLDTREE)",
        "CC BY-SA 4.0 (tables and explanations; the questions have terms of their own)",
        _load,
        frozenset({"path", "column"}),
    ),
)
