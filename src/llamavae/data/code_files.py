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

from llamavae.corpora.files import check_file, decode_lines, parse_json, read_lines
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
    source: Path | Iterable[bytes], batch_size: int = 1024, names: Sequence[str] = CODES
) -> Iterator[_LatentCodes]:
    """Read latent codes from a Parquet file (see `encode_file`), a NumPy array, or JSON lines.

    Args:
        source: A .parquet file with a column `mean` or `z`; a .npy file of shape (N, D); or any
            other file, or the lines of an open file, with one vector per line: a JSON list, or an
            object with `mean` or `z`.
        batch_size: Number of codes per batch.
        names: Names of the column or key of the vectors instead, such as `SENTENCE_VECTORS`.

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
                batches = _from_parquet(source, batch_size, names)
            case ".npy":
                batches = _from_numpy(source, batch_size)
            case _:
                batches = _from_json(read_lines(source), name, batch_size, names)
    for ids, texts, vectors in batches:
        try:
            z = torch.from_numpy(np.array(vectors, dtype=np.float32))
        except (ValueError, TypeError, OverflowError):
            raise _odd_row(ids, vectors, name) from None
        if z.ndim != 2:
            raise UserError(f"{name}: expected one vector per row; got shape {tuple(z.shape)}")
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
            return UserError(
                f"{name}: row {number} holds {str(vector)[:40]!r}; expected a list of numbers, "
                "as long as the others"
            )
    return UserError(f"{name}: expected one list of numbers per row")


def _from_parquet(path: Path, batch_size: int, wanted: Sequence[str]) -> Iterator[_Batch]:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        names = file.schema_arrow.names
        column = next((name for name in wanted if name in names), None)
        if column is None:
            raise UserError(
                f"{path} has no column {' or '.join(map(repr, wanted))} with vectors; its columns "
                f"are {', '.join(names)}. `llamavae encode --output` writes a file of latent codes"
            )
        first = 1
        read = [name for name in ("id", "text", column) if name in names]
        for batch in file.iter_batches(batch_size, columns=read):
            columns = batch.to_pydict()
            ids = columns.get("id") or list(range(first, first + len(batch)))
            yield ids, columns.get("text"), columns[column]
            first += len(batch)
    except (pa.ArrowException, OSError) as error:
        message = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is not a Parquet file, or is damaged: {message}. Write it again with "
            "llamavae encode"
        ) from error


def _from_numpy(path: Path, batch_size: int) -> Iterator[_Batch]:
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
    for start in range(0, len(array), batch_size):
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
        return None, value
    text = value.get("text")
    vector = next((value[key] for key in wanted if key in value), None)
    return text if isinstance(text, str) else None, vector


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
