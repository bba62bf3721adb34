"""Encode a file of sentences to a Parquet file of latent codes in bounded memory.

The sentences are encoded in parts, and each part is written atomically to a folder next to the
output. Finally the parts are joined and the result is moved to the output. An interrupted run
resumes after its last complete part; its file is identical to that of an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llamavae import __version__
from llamavae.corpora.files import check_file, read_sentences
from llamavae.data.code_files import METADATA, encoder_fingerprint, metadata
from llamavae.errors import UserError, check_int
from llamavae.files import disk_errors, remove_leftovers, replacing, write_json
from llamavae.folders import check_output, locked
from llamavae.modeling import LlaMaVAE, Refinement
from llamavae.modeling.backbones import fingerprint
from llamavae.modeling.refine import Progress
from llamavae.parsing import read_json

logger = logging.getLogger(__name__)

PART_SIZE = 4096  # maximum number of sentences lost by an interruption; one row group
_SLICE = 512  # number of sentences that are batched by length together
_REFINED_PART, _REFINED_SLICE = 256, 64  # the same for refined codes, which take longer
_PARTS = "the parts of an encoding"  # what the folder of parts holds
_FACTS = "encoding.json"  # of the folder of parts: what they were made from
_COUNTS = ("sentences", "blank", "truncated")
_VECTOR = pa.list_(pa.float32())
_SCHEMA = pa.schema({"id": pa.int64(), "text": pa.string(), "mean": _VECTOR, "logvar": _VECTOR})


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
    check_paths(source, output, overwrite)
    how = Refinement.of(refine)
    digest, lines = _digest(source)
    facts = {
        "format": 1,
        "model": encoder_fingerprint(model),
        "source": digest,
        "column": column,
        "refine": _refine_facts(model, how),
    }
    work = _work(output)
    then = f"run the same again: it resumes from what is kept in {work.name} beside it"

    def tell(number: int) -> None:
        if progress is not None:
            progress(number, lines)

    with locked(work, _PARTS):
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
            _remove_parts(work)
            raise UserError(
                f"{source} has no line with text; expected one sentence per line or row"
            )
        with disk_errors(output, then):
            tables = map(_read, _parts(work))
            _write(tables, output, {**facts, **counts, "version": __version__})
            _remove_parts(work)
    return BulkReport(output, resumed=resumed, **counts)


def _refine_facts(model: LlaMaVAE, how: Refinement) -> dict[str, Any] | None:
    """What affects refined codes besides encoder and posterior; None without refinement."""
    if not how.steps:
        return None
    parts = {"injection": model.injection, "decoder": model.decoder.lm}
    return how.settings() | {name: fingerprint(part) for name, part in parts.items()}


def check_paths(source: Path, output: Path, overwrite: bool = False) -> None:
    """Check the paths of `encode_file`; nothing is written.

    Raises:
        UserError: The source is not a file, the output exists or is not named `.parquet`, or the
            folder of the parts holds something else.
    """
    check_file(source)
    if output.is_dir():
        raise UserError(f"{output} is a folder. Name a file in it")
    if output.suffix.lower() != ".parquet":
        raise UserError(f"the output is a Parquet file. Name it {output.with_suffix('.parquet')}")
    if output.exists() and output.samefile(source):
        raise UserError(
            f"{output} is the file of the sentences itself, which is never overwritten. Choose "
            "another output"
        )
    if output.exists() and not overwrite:
        raise UserError(
            f"{output} already exists. Choose another name, or overwrite it (--overwrite)"
        )
    check_output(_work(output), _PARTS)


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
        try:
            found = read_json(path)
        except UserError:
            logger.warning("%s is damaged: everything is encoded again", path)
        else:
            if other := [key for key in facts if found.get(key) != facts[key]]:
                raise UserError(
                    f"{work} belongs to an interrupted run with another {' and '.join(other)}. "
                    "Delete it to start again, or choose another output"
                )
            return
    for part in _parts(work):  # of unknown origin
        part.unlink()
    write_json(path, facts)


def _work(output: Path) -> Path:
    """The folder of the parts."""
    return output.with_name(f"{output.name}.partial")


def _parts(work: Path) -> list[Path]:
    return sorted(work.glob("part-*.parquet"))


def _remove_parts(work: Path) -> None:
    """Remove what this module wrote; `locked` removes the folder if it holds nothing else."""
    for path in ((work / _FACTS), *_parts(work)):  # without the facts, no part is used
        path.unlink(missing_ok=True)
    remove_leftovers(work)


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
            facts = metadata(table.schema)
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
    schema = _SCHEMA.with_metadata({METADATA: json.dumps(facts).encode()})
    with (
        replacing(path) as new,
        pq.ParquetWriter(new, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for table in tables:
            writer.write_table(table, row_group_size=PART_SIZE)


def _read(path: Path) -> pa.Table:
    """A Parquet file, with its checksums verified."""
    return pq.read_table(path, page_checksum_verification=True)
