"""Files of latent codes: encode a file of sentences to Parquet in bounded memory, and read codes.

The sentences are encoded in parts, and each part is written atomically to a folder next to the
output. Finally the parts are joined and the result is moved to the output. An interrupted run
resumes after its last complete part; its file is identical to that of an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from llamavae import __version__
from llamavae.corpora.files import (
    check_file,
    decode_lines,
    parse_json,
    read_lines,
    read_sentences,
)
from llamavae.errors import UserError, check_int
from llamavae.files import disk_errors, replacing, write_json
from llamavae.folders import locked
from llamavae.modeling import LlaMaVAE, Refinement
from llamavae.modeling.backbones import fingerprint
from llamavae.modeling.refine import Progress

logger = logging.getLogger(__name__)

PART_SIZE = 4096  # maximum number of sentences lost by an interruption; one row group
_SLICE = 512  # number of sentences that are batched by length together
_REFINED_PART, _REFINED_SLICE = 256, 64  # the same for refined codes, which take longer
_METADATA = b"llamavae"
_FACTS = "encoding.json"  # of the folder of parts: what they were made from
_COUNTS = ("sentences", "blank", "truncated")
_VECTOR = pa.list_(pa.float32())
_SCHEMA = pa.schema({"id": pa.int64(), "text": pa.string(), "mean": _VECTOR, "logvar": _VECTOR})
CODES = ("mean", "z")
"""Names of a column of latent codes."""
SENTENCE_VECTORS = ("h", "vector")
"""Names of a column of sentence vectors."""


@dataclass(frozen=True)
class BulkReport:
    """Result of `encode_file`.

    Attributes:
        output: The Parquet file.
        sentences: Rows in it.
        blank: Lines without text, which were skipped.
        truncated: Number of sentences that exceed the encoder's maximum length.
        resumed: Number of rows from an interrupted run.
    """

    output: Path
    sentences: int
    blank: int
    truncated: int
    resumed: int


# ---------------------------------------------------------------------- text to latent codes


def encode_file(
    model: LlaMaVAE,
    source: Path,
    output: Path,
    *,
    column: str | None = None,
    batch_size: int = 64,
    overwrite: bool = False,
    refine: int | Refinement = 0,
    progress: Progress | None = None,
) -> BulkReport:
    """Encode each sentence of a file to a row `id, text, mean, logvar` of a Parquet file.

    `id` is the number of the line (or of the row) in `source`, counted from 1; `mean` and
    `logvar` are lists of D float32. Call it again with the same arguments to resume a run that
    was interrupted.

    Args:
        model: The model; it needs its sentence encoder.
        source: A file of sentences in a format of `corpora.load_corpus`, or a file with any other
            suffix and one sentence per line.
        output: The Parquet file, which is created when it is complete.
        column: Column that holds the sentences.
        batch_size: Number of sentences per forward pass of the encoder.
        overwrite: Replace an existing output.
        refine: See `LlaMaVAE.encode`; written to the metadata of the file, None for codes of the
            encoder.
        progress: Progress callback.

    Raises:
        UserError: The source cannot be read or has no sentence, the output exists or cannot be
            written, another process writes it, or the interrupted run had another model, source or
            `refine`.
    """
    check_int("batch_size", batch_size)
    check_file(source)
    _check_output(source, output, overwrite)
    how = Refinement.of(refine)
    digest, lines = _digest(source)
    facts = {
        "format": 1,
        "model": _model_fingerprint(model),
        "source": digest,
        "column": column,
        "refine": _refine_facts(model, how),
    }
    work = output.with_name(f"{output.name}.partial")
    then = f"run the same again: it resumes from what is kept in {work.name} beside it"

    def tell(number: int) -> None:
        if progress is not None:
            progress(number, lines)

    with locked(work, _FACTS):
        with disk_errors(output, then):
            _open_work(work, facts)
            done = _complete_parts(work)
        last = done[-1]["last"] if done else 0
        counts = {key: sum(part[key] for part in done) for key in _COUNTS}
        resumed = counts["sentences"]
        tell(last)
        rows = (row for row in read_sentences(source, column) if row[0] > last)
        while part := _encode_part(model, rows, batch_size, how, tell):
            table, found = part
            for key in counts:
                counts[key] += found[key]
            if len(table):
                name = f"part-{len(done):06d}.parquet"
                with disk_errors(output, then):
                    _write([table], work / name, {**found, "after": last})
                done.append(found)
                last = found["last"]
        if not counts["sentences"]:
            shutil.rmtree(work)
            raise UserError(
                f"{source} has no line with text; expected one sentence per line or row"
            )
        with disk_errors(output, then):
            tables = map(_read, _parts(work))
            _write(tables, output, {**facts, **counts, "version": __version__})
            shutil.rmtree(work)
    return BulkReport(output, resumed=resumed, **counts)


def _model_fingerprint(model: LlaMaVAE) -> str:
    """A hash of everything that affects latent codes: encoder and posterior."""
    if model.encoder is None:
        raise UserError("expected a model with a sentence encoder; this one has none")
    return f"{model.encoder.cache_key()}-{fingerprint(model.posterior)}"


def _refine_facts(model: LlaMaVAE, how: Refinement) -> dict[str, Any] | None:
    """What affects refined codes besides encoder and posterior; None without refinement."""
    if not how.steps:
        return None
    parts = {"injection": model.injection, "decoder": model.decoder.lm}
    return how.settings() | {name: fingerprint(part) for name, part in parts.items()}


def _check_output(source: Path, output: Path, overwrite: bool) -> None:
    if output.is_dir():
        raise UserError(f"{output} is a folder. Name a file in it")
    if output.suffix.lower() != ".parquet":
        raise UserError(f"the output is a Parquet file. Name it {output.with_suffix('.parquet')}")
    if output.exists() and (not overwrite or output.samefile(source)):
        raise UserError(
            f"{output} already exists. Choose another name, or overwrite it (--overwrite)"
        )


def _digest(source: Path) -> tuple[str, int | None]:
    """A hash of the file, and its number of lines or rows, if it is cheap to determine."""
    digest, lines, end = hashlib.blake2b(digest_size=16), 0, b"\n"
    with source.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            lines += block.count(b"\n")
            end = block
    known = source.suffix.lower() not in (".json", ".parquet", ".gz")
    return digest.hexdigest(), lines + (not end.endswith(b"\n")) if known else None


def _open_work(work: Path, facts: dict[str, Any]) -> None:
    """Check that the parts in a folder belong to this run, or start a new run in it."""
    path = work / _FACTS
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if other := [key for key in facts if found.get(key) != facts[key]]:
            raise UserError(
                f"{work} belongs to an interrupted run with another {' and '.join(other)}. "
                "Delete it to start again, or choose another output"
            )
        return
    write_json(path, facts)


def _parts(work: Path) -> list[Path]:
    return sorted(work.glob("part-*.parquet"))


def _complete_parts(work: Path) -> list[dict[str, Any]]:
    """The facts of the complete parts; those after a missing or damaged one are removed.

    Each part names the last row before it, so that a missing part is noticed.
    """
    done: list[dict[str, Any]] = []
    last = 0
    for number, path in enumerate(_parts(work)):
        facts: dict[str, Any] = {}
        try:
            table = _read(path)
            facts = _metadata(table.schema)
            whole = len(table) == facts["sentences"] and facts["after"] == last
        except PermissionError:
            raise
        except (OSError, KeyError, ValueError, pa.ArrowException):  # a wrong checksum, or no file
            whole = False
        if not whole or path.name != f"part-{number:06d}.parquet":
            logger.warning("%s or a part before it is damaged or missing: encoded again", path)
            for later in _parts(work)[number:]:
                later.unlink()
            break
        done.append(facts)
        last = facts["last"]
    return done


def _encode_part(
    model: LlaMaVAE,
    rows: Iterator[tuple[int, str | None]],
    batch_size: int,
    how: Refinement,
    tell: Callable[[int], None],
) -> tuple[pa.Table, dict[str, int]] | None:
    """The sentences of the next part as a table, and facts about them; None at the end."""
    part, together = (_REFINED_PART, _REFINED_SLICE) if how.steps else (PART_SIZE, _SLICE)
    tables: list[pa.Table] = []
    facts = {"last": 0, "sentences": 0, "blank": 0, "truncated": 0}
    while facts["sentences"] < part:
        sentences: dict[int, str] = {}
        for number, text in rows:
            facts["last"] = number
            if text is None:
                facts["blank"] += 1
                continue
            sentences[number] = text
            if len(sentences) == together:
                break
        if not sentences:
            break
        texts = list(sentences.values())
        posterior = model.encode(texts, batch_size, refine=how)
        mean, logvar = (list(v.float().cpu().numpy()) for v in (posterior.mean, posterior.logvar))
        columns = {"id": list(sentences), "text": texts, "mean": mean, "logvar": logvar}
        tables.append(pa.table(columns, schema=_SCHEMA))
        facts["sentences"] += len(texts)
        facts["truncated"] += _truncated(model, texts)
        tell(facts["last"])
    if not facts["last"]:
        return None
    return pa.concat_tables([_SCHEMA.empty_table(), *tables]).combine_chunks(), facts


def _truncated(model: LlaMaVAE, texts: list[str]) -> int:
    """Number of texts that exceed the encoder's limit; short ones are not tokenised again."""
    assert model.encoder is not None
    limit = model.encoder.max_tokens
    long = [text for text in texts if limit is not None and 2 * len(text.encode()) + 8 > limit]
    return model.encoder.truncated(long) if long else 0


def _write(tables: Iterable[pa.Table], path: Path, facts: dict[str, Any]) -> None:
    schema = _SCHEMA.with_metadata({_METADATA: json.dumps(facts).encode()})
    with (
        replacing(path) as new,
        pq.ParquetWriter(new, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for table in tables:
            writer.write_table(table, row_group_size=PART_SIZE)


def _read(path: Path) -> pa.Table:
    """A Parquet file, with its checksums verified."""
    return pq.read_table(path, page_checksum_verification=True)


def _metadata(schema: pa.Schema) -> dict[str, Any]:
    return json.loads((schema.metadata or {}).get(_METADATA, b"{}"))


# ---------------------------------------------------------------------- latent codes from files


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
        made_by = _metadata(pq.read_schema(path)).get("model")
    except (pa.ArrowException, OSError):
        return
    if made_by is not None and model.encoder is not None and made_by != _model_fingerprint(model):
        logger.warning(
            "%s was encoded by another model; its codes are not valid for this one", path
        )
