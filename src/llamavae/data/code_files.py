"""Files of latent codes and of sentence vectors: Parquet, NumPy arrays and JSON lines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from llamavae.corpora.files import parse_json
from llamavae.corpora.lines import check_file, decode_lines, read_lines
from llamavae.corpora.pieces import parquet_batches
from llamavae.errors import UserError
from llamavae.modeling import LlaMaVAE
from llamavae.modeling.backbones import fingerprint

logger = logging.getLogger(__name__)

METADATA = b"llamavae"
"""Key of what is recorded in the schema of a Parquet file."""
CODES = ("mean", "z")
"""Names of a column of latent codes."""
SENTENCE_VECTORS = ("h", "vector")
"""Names of a column of sentence vectors."""


@dataclass(frozen=True)
class _LatentCodes:
    """A batch of latent codes of a file.

    Attributes:
        ids: Ids of the file, or row or line numbers, counted from 1.
        texts: The sentences of the codes, if the file has them.
        z: The latent codes (N, D).
    """

    ids: list[int]
    texts: list[str] | None
    z: torch.Tensor


def read_latent_codes(
    source: Path | Iterable[bytes],
    batch_size: int = 1024,
    names: Sequence[str] = CODES,
    first: int = 1,
) -> Iterator[_LatentCodes]:
    """Read latent codes from a Parquet file (see `encode_file`), a NumPy array, or JSON lines.

    Args:
        source: A .parquet file with a column `mean` or `z`; a .npy file of shape (N, D); or any
            other file, or the lines of an open file, with one vector per line: a JSON list, or an
            object with `mean` or `z`.
        batch_size: Number of codes per batch.
        names: Names of the column or key of the vectors instead, such as `SENTENCE_VECTORS`.
        first: Number of the first row or line to read, from 1.

    Raises:
        UserError: The file cannot be read, or a row is not a vector of finite numbers of the same
            size as the others; the message names the row.
    """
    name = str(source) if isinstance(source, Path) else "standard input"
    if not isinstance(source, Path):
        batches = _from_json(decode_lines(source, name), name, batch_size, names)
    else:
        if source.is_dir() or not source.exists():  # a pipe is allowed
            check_file(source)
        match source.suffix.lower():
            case ".parquet":
                batches = _from_parquet(source, batch_size, names, first)
            case ".npy":
                batches = _from_numpy(source, batch_size, first)
            case _:
                lines = (line for line in read_lines(source) if line[0] >= first)
                batches = _from_json(lines, name, batch_size, names)
    size = None
    for ids, texts, vectors in batches:
        for number, text in zip(ids, texts or (), strict=False):
            _check_text(text, name, number)
        try:
            z = torch.from_numpy(np.array(vectors, dtype=np.float32))
        except (ValueError, TypeError, OverflowError):
            raise _odd_row(ids, vectors, name) from None
        if z.ndim != 2:
            raise UserError(f"{name}: expected one vector per row; got shape {tuple(z.shape)}")
        if z.shape[1] != (size := size or z.shape[1]):
            raise _wrong_row(name, ids[0], vectors[0])
        bad = (~z.isfinite().all(dim=1)).nonzero()
        if len(bad):
            raise UserError(f"{name}: row {ids[int(bad[0])]} holds a number that is not finite")
        yield _LatentCodes(ids, texts, z)


_Batch = tuple[list[int], list[str] | None, Any]  # ids, texts, and vectors as numbers


def _odd_row(ids: list[int], vectors: Any, name: str) -> UserError:
    size = len(vectors[0]) if isinstance(vectors[0], list) else 0
    for number, vector in zip(ids, vectors, strict=True):
        numbers = isinstance(vector, list) and all(isinstance(v, int | float) for v in vector)
        if not numbers or len(vector) != size:
            return _wrong_row(name, number, vector)
    return UserError(f"{name}: expected one list of numbers per row")


def _check_text(text: Any, name: str, number: int) -> None:
    if not isinstance(text, str):
        raise UserError(
            f"{name}: row {number} has the text {text!r:.40} ({type(text).__name__}); expected a "
            "string"
        )


def _of_numbers(kind: pa.DataType) -> bool:
    lists = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    if not any(is_one(kind) for is_one in lists):
        return False
    return pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)


def _wrong_row(name: str, number: int, vector: Any) -> UserError:
    return UserError(
        f"{name}: row {number} holds {str(vector)[:40]!r}; expected a list of numbers, as long as "
        "the others"
    )


def _from_parquet(
    path: Path, batch_size: int, wanted: Sequence[str], first: int
) -> Iterator[_Batch]:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        names = file.schema_arrow.names
        column = next((name for name in wanted if name in names), None)
        if column is None:
            raise UserError(
                f"{path} has no column {' or '.join(map(repr, wanted))} with vectors; its columns "
                f"are {', '.join(names)}. `llamavae encode --output` writes a file of latent codes"
            )
        kind = file.schema_arrow.field(column).type
        if not _of_numbers(kind):
            raise UserError(
                f"{path}: column {column!r} is of type {kind!s:.40}; expected lists of numbers"
            )
        read = [name for name in ("id", "text", column) if name in names]
        for number, batch in parquet_batches(file, batch_size, first, read):
            columns = batch.to_pydict()
            ids = columns.get("id") or list(range(number, number + len(batch)))
            if not all(isinstance(one, int | str) for one in ids):
                kind = file.schema_arrow.field("id").type
                raise UserError(f"{path}: a row of column 'id' has no integer or string ({kind})")
            yield ids, columns.get("text"), columns[column]
    except (pa.ArrowException, OSError) as error:
        message = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is not a Parquet file, or is damaged: {message}. Write it again with "
            "llamavae encode"
        ) from error


def _from_numpy(path: Path, batch_size: int, first: int) -> Iterator[_Batch]:
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a NumPy array of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} is an archive of NumPy arrays; expected one array (.npy)")
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: expected numbers of shape (N, D); got {array.dtype} of shape {array.shape}"
        )
    for start in range(first - 1, len(array), batch_size):
        part = array[start : start + batch_size]
        yield list(range(start + 1, start + 1 + len(part))), None, part


def _from_json(
    lines: Iterable[tuple[int, str]], name: str, batch_size: int, wanted: Sequence[str]
) -> Iterator[_Batch]:
    filled = ((number, line) for number, line in lines if line.strip())
    rows = ((number, *_parsed(line, name, number, wanted)) for number, line in filled)
    while batch := list(islice(rows, batch_size)):
        ids, texts, vectors = map(list, zip(*batch, strict=True))
        yield ids, None if None in texts else texts, vectors


def _parsed(line: str, name: str, number: int, wanted: Sequence[str]) -> tuple[str | None, Any]:
    """The text, if there is one, and the vector of a line of JSON."""
    keys = " or ".join(map(repr, wanted))
    expected = f"a list of numbers, or an object with {keys}, per line"
    value = parse_json(name, line, number, expected)
    if not isinstance(value, dict):
        return None, _numbers(value, name, number)
    text = value.get("text")
    if "text" in value:
        _check_text(text, name, number)
    return text, _numbers(next((value[key] for key in wanted if key in value), None), name, number)


def _numbers(vector: Any, name: str, number: int) -> list[float]:
    """The vector of a row of JSON, if it is a list of numbers; true and "1" are not numbers."""
    strict = isinstance(vector, list) and all(type(value) in (int, float) for value in vector)
    if not strict or not vector:
        raise _wrong_row(name, number, vector)
    return vector


def check_same_model(model: LlaMaVAE, path: Path) -> None:
    """Log a warning if the codes of a Parquet file were encoded by another model."""
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return
    try:
        made_by = metadata(pq.read_schema(path)).get("model")
    except (pa.ArrowException, OSError):
        return
    if made_by is not None and model.encoder is not None and made_by != encoder_fingerprint(model):
        logger.warning(
            "%s was encoded by another model; its codes are not valid for this one", path
        )


def encoder_fingerprint(model: LlaMaVAE) -> str:
    """A hash of everything that affects latent codes: encoder and posterior."""
    if model.encoder is None:
        raise UserError("expected a model with a sentence encoder; this one has none")
    return f"{model.encoder.cache_key()}-{fingerprint(model.posterior)}"


def metadata(schema: pa.Schema) -> dict[str, Any]:
    """What `llamavae.bulk` recorded in the schema of a Parquet file; empty for another file."""
    try:
        found = json.loads((schema.metadata or {}).get(METADATA, b"{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
