"""Sentences from a user's own file: text, JSON lines, CSV, TSV or Parquet."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from datasets import Features, IterableDataset, Value

from llamavae.corpora.corpus import Sentences
from llamavae.corpora.lines import check_file, decode_lines, read_lines
from llamavae.corpora.pieces import (
    WHOLE,
    Piece,
    find_pieces,
    lines_before,
    parquet_batches,
    raw_lines,
)
from llamavae.corpora.text import choose_column, from_rows, no_column
from llamavae.errors import UserError, counted

logger = logging.getLogger(__name__)

Record = tuple[int, dict[str, Any] | None]  # line number and fields; None for a blank line

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SENTENCES = ("text", "texts", "sentence", "sentences")
"""Names of a column of sentences by which a header is recognised, in lower case."""
_MISSING = ("", "na", "n/a", "nan", "null", "none", "true", "false", "inf")
_BATCH = 1024  # rows of Parquet that are Python objects at a time
_SAMPLE = 100  # number of records used to find the column with the sentences

SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""File formats, by the end of the name; `.gz` may follow each but `.parquet`."""


def format_of(path: Path) -> str:
    """The suffix of `SUFFIXES` that tells the format of a file, without `.gz`, or another one."""
    suffix = path.suffix.lower()
    if suffix != ".gz":
        return suffix
    suffix = Path(path.stem).suffix.lower()
    if suffix == ".parquet":
        raise UserError(f"{path}: Parquet files are compressed inside; decompress it with gunzip")
    return suffix


def load(path: Path, column: str | None = None, streaming: bool = False) -> Sentences:
    """Load the sentences of a file into a column `text`, and keep the other columns of the file.

    Each line of a .txt file is a sentence. Blank lines and rows with blank text are skipped, and
    their number is logged once. White space around a sentence is removed.

    Args:
        path: A .txt, .jsonl, .json (an array, or lines), .csv, .tsv or .parquet file in UTF-8. All
            but .parquet may be compressed with gzip (.txt.gz).
        column: Column that holds the sentences; default: `text`, else the only one with text.
            It is called `text` in the result and replaces another column of this name.
        streaming: Read while iterating, for files larger than memory.

    Raises:
        UserError: No such file, or one that cannot be read; the message names the line.
    """
    check_file(path)
    if format_of(path) not in SUFFIXES:
        raise UserError(
            f"{path}: cannot tell the format from the name. Expected one of {', '.join(SUFFIXES)}"
        )
    name = str(path)
    column = _find_column(path, column)
    first = next(_rows(name, column, quiet=True), None)
    if first is None:
        what = "is empty" if path.stat().st_size == 0 else "has no line with text"
        raise UserError(f"{path} {what}; expected one sentence per line or row")
    if streaming:
        strings = Features({key: Value("string") for key in first})
        features = strings if format_of(path) in (".txt", *_DELIMITERS) else None
        arguments = {"name": name, "column": column, "pieces": _pieces(path)}
        return IterableDataset.from_generator(_rows, features, gen_kwargs=arguments)
    return from_rows(_rows(name, column), name)


def read_sentences(
    path: Path, column: str | None = None, first: int = 1
) -> Iterator[tuple[int, str | None]]:
    """Each line or row of a file with its number, counted from 1; None if the text is blank.

    Args:
        path: A file in a format of `load`; a file with an unknown suffix is read as lines of text.
        column: Column that holds the sentences, as for `load`.
        first: Number of the first line or row. Parquet is read from its row group on.

    Raises:
        UserError: No such file, or one that cannot be read; the message names the line.
    """
    if path.is_dir() or not path.exists():  # a pipe is allowed
        check_file(path)
    if format_of(path) in SUFFIXES:
        column = _find_column(path, column)
        for number, fields in read_records(path, first, [column]):
            yield number, None if fields is None else _text(path, number, fields, column)
    else:
        for number, line in read_lines(path):
            if number >= first:
                yield number, line.strip() or None


def read_records(
    path: Path, first: int = 1, columns: Sequence[str] | None = None
) -> Iterator[Record]:
    """Each line or row of a file with its number, counted from 1; None for a blank line.

    Args:
        path: A file in a format of `load`.
        first: As for `read_sentences`.
        columns: Columns to read of Parquet; other formats have all of theirs.

    Raises:
        UserError: As for `read_sentences`.
    """
    if format_of(path) == ".parquet":
        yield from _parquet(path, first, columns)
    else:
        yield from (record for record in _records(path) if record[0] >= first)


def _pieces(path: Path) -> list[Piece]:
    """The pieces of a file that a stream reads independently."""
    suffix = format_of(path)
    if path.suffix.lower() == ".gz" or suffix not in (".txt", ".jsonl", ".parquet"):
        return [WHOLE]
    if suffix == ".jsonl":
        head = next(line for _, line in read_lines(path) if line.strip())
        if head.lstrip().startswith("["):
            return [WHOLE]  # one array over several lines
    return find_pieces(path)


def _find_column(path: Path, column: str | None) -> str:
    """The column that holds the sentences, determined from the first rows."""
    sample = [fields for _, fields in islice(_records(path), _SAMPLE) if fields]
    if not sample:
        return column or "text"
    if column is None and format_of(path) in _DELIMITERS:
        check_header(list(sample[0]), str(path))
    return choose_column(sample, column, str(path))


def check_header(names: Sequence[str], where: str) -> None:
    """Check that the first line of a table holds names of columns instead of a sentence.

    A name of a column of sentences, such as `text`, shows that it does.

    Raises:
        UserError: A name is empty or looks like a value or a sentence, or there is only one.
    """
    if any(name.lower() in _SENTENCES for name in names):
        return
    doubtful = next((name for name in names if not _is_name(name)), None)
    if doubtful is None and len(names) == 1:
        doubtful = names[0]
    if doubtful is not None:
        raise UserError(
            f"{where}:1: the file has no header, or one with the unusual name {doubtful!r:.60}. "
            "Without a header, insert a line with the names of the columns at the top, 'text' for "
            "the sentences; with one, name their column with column= or --column"
        )


def _is_name(cell: str) -> bool:
    """Whether a cell of the first line can be the name of a column."""
    sentence = len(cell.split()) >= 5 or cell.endswith((".", "!", "?", "\u3002"))
    value = cell.lower() in _MISSING or not (cell[0].isalpha() or cell[0] in "_#")
    return not (sentence or value)


def _rows(
    name: str, column: str, pieces: Sequence[Piece] = (WHOLE,), quiet: bool = False
) -> Iterator[dict[str, Any]]:
    path, blank = Path(name), 0
    for piece in pieces:
        try:
            for text, fields in _texts(path, column, _records(path, piece)):
                if text is None:
                    blank += 1
                else:
                    others = {k: value for k, value in fields.items() if k not in (column, "text")}
                    yield {"text": text, **others}
        except UserError:
            if format_of(path) != ".parquet" and piece[0]:  # raise it with the number of the line
                first = lines_before(path, piece) + 1
                for _ in _texts(path, column, _records(path, piece, first)):
                    pass
            raise
    if not quiet and pieces[0] == WHOLE:
        log_blank(path, blank)


def log_blank(path: Path, blank: int) -> None:
    """Log how many blank lines of a file were skipped, once until the file changes."""
    if blank:
        _log_blank(path, path.stat().st_mtime_ns, blank)


@cache
def _log_blank(path: Path, _modified: int, blank: int) -> None:
    logger.warning("%s: skipped %s", path, counted(blank, "blank line"))


def _texts(
    path: Path, column: str, records: Iterable[Record]
) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """The sentence and the fields of each record; None for a blank one."""
    for number, fields in records:
        if fields is None:
            yield None, {}
        else:
            yield _text(path, number, fields, column), fields


def _text(path: Path, number: int, fields: dict[str, Any], column: str) -> str | None:
    """The sentence of a row, without surrounding white space; None if it is blank."""
    if column not in fields:
        raise no_column(f"{path}:{number}", column, fields)
    text = fields[column]
    if text is not None and not isinstance(text, str):
        raise UserError(
            f"{path}:{number}: column {column!r} holds {text!r} "
            f"({type(text).__name__}); expected text"
        )
    if text is not None and not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{path}:{number}: column {column!r} has the character {text[error.start]!r}, half "
                "of a surrogate pair; replace it"
            ) from error
    return (text or "").strip() or None


def _records(path: Path, piece: Piece = WHOLE, first: int | None = None) -> Iterator[Record]:
    """The records of a piece of a file, whose first line has the number `first` if it is known."""
    suffix = format_of(path)
    if suffix == ".parquet":
        return _parquet(path, piece=piece)
    if suffix in _DELIMITERS:
        return _table(path, _DELIMITERS[suffix])
    whole = piece == WHOLE
    number = first or (2 if piece[0] else 1)  # line 1 alone may have the marks of an encoding
    lines = read_lines(path) if whole else decode_lines(raw_lines(path, piece), str(path), number)
    if suffix == ".txt":
        return ((n, {"text": line} if line.strip() else None) for n, line in lines)
    return _json(path) if whole else _json_lines(path, lines)


def _table(path: Path, delimiter: str) -> Iterator[Record]:
    reader = csv.reader((line for _, line in read_lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    first = 1  # line of the row
    try:
        for cells in reader:
            lines, first = (first, reader.line_num), reader.line_num + 1
            _check_quotes(path, cells, delimiter, *lines)
            if not any(cell.strip() for cell in cells):
                yield reader.line_num, None
            elif not header:
                header = [cell.strip() for cell in cells]
                if len(set(header)) < len(header):
                    raise UserError(
                        f"{path}:{reader.line_num}: the header repeats a name: "
                        f"{', '.join(header):.100}. Give each column a name of its own"
                    )
                other = next((d for d in (",", "\t", ";", "|") if d in header[0]), None)
                if len(header) == 1 and other is not None:
                    raise UserError(
                        f"{path}:{reader.line_num}: the header is the single field "
                        f"{header[0]!r:.60}, which contains {other!r}; expected fields separated "
                        f"by {delimiter!r}. "
                        f"Save the table again with {delimiter!r} between the fields"
                        + (", or as .tsv" if delimiter == "," else ", or as .csv with commas")
                    )
            elif len(cells) != len(header):
                raise UserError(
                    f"{path}:{reader.line_num}: {counted(len(cells), 'field')}, but the header "
                    f"has {len(header)}. Put double quotes around a field that contains "
                    f"{'a tab' if delimiter == chr(9) else 'a comma'}"
                )
            else:
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        line = reader.line_num
        raise UserError(f"{path}:{first}: {csv_fault(str(error), line)}") from error


def csv_fault(error: str, line: int) -> str:
    """What is wrong with a row that ends in `line`, and what to do."""
    if "field limit" in error:
        return (
            f"a field is longer than {csv.field_size_limit():,} characters (line {line}). Close "
            "the quotation mark that opens it, or use JSON lines for texts of this length"
        )
    if "new-line" in error:
        return (
            "a carriage return (CR) stands in a field without quotes. End lines with LF or CR LF, "
            "or put double quotes around the field"
        )
    return f'{error} (line {line}). Write a quotation mark inside a quoted field twice ("")'


def _check_quotes(path: Path, cells: list[str], delimiter: str, first: int, last: int) -> None:
    """Raise an error for a field that a stray quotation mark extends over several rows."""
    for cell in cells:
        if "\n" in cell and (delimiter in cell or len(cells) == 1) and delimiter == "\t":
            raise UserError(
                f"{path}:{first}: a quotation mark opens a field that ends in line {last}. Write "
                'quotation marks twice inside quotes (\'"a 5"" disk"\'), or remove them'
            )


def _json(path: Path) -> Iterator[Record]:
    lines = read_lines(path)
    head = next(((n, line) for n, line in lines if line.strip()), None)
    if head is None:
        return
    if head[1].lstrip().startswith("["):
        objects = [_object(entry, path, n) for n, entry in enumerate(parse_json(path), 1)]
        yield from enumerate(objects, 1)
        return
    yield from _json_lines(path, read_lines(path))


def _json_lines(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Record]:
    for number, line in lines:
        if line.strip():
            yield number, _object(parse_json(path, line.rstrip(), number), path, number)
        else:
            yield number, None


def parse_json(
    path: Path | str,
    text: str | None = None,
    number: int = 1,
    expected: str = "one object per line",
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """The JSON value of `text`, which begins at line `number` of a file; None is the whole file.

    Raises:
        UserError: It is not JSON; names the line, and says what was `expected`.
    """
    if text is None:
        text = "".join(line for _, line in read_lines(Path(path)))
    try:
        return json.loads(text, object_hook=object_hook)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{number + error.lineno - 1}: not valid JSON ({error.msg} at column "
            f"{error.colno}); expected {expected}"
        ) from error
    except (RecursionError, ValueError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:100]
        raise UserError(f"{path}:{number}: cannot be read ({what}); expected {expected}") from error


def _object(value: Any, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(
            f"{path}:{number}: expected a JSON object such as "
            f'{{"text": "a sentence"}}, not {json.dumps(value)[:40]}'
        )
    return value


def _parquet(
    path: Path, first: int = 1, columns: Sequence[str] | None = None, piece: Piece = WHOLE
) -> Iterator[Record]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
        for number, batch in parquet_batches(file, _BATCH, max(first, piece[0] + 1), columns):
            for row, fields in enumerate(batch.to_pylist(), number):
                if piece != WHOLE and row > piece[1]:
                    return
                yield row, fields
    except (pa.ArrowException, OSError) as error:
        message = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a Parquet file, or damaged: {message}") from error
