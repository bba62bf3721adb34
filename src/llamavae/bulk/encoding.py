"""Encode a file of sentences to a Parquet file of latent codes in bounded memory.

The sentences are encoded in parts, and each part is written atomically to a folder next to the
output. Finally the parts are joined and the result is moved to the output. An interrupted run
computes the parts that are missing; its file is identical to that of an uninterrupted run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from llamavae.bulk.engine import LocalEngine
from llamavae.bulk.task import Engine, ModelSource, ModelTask, Row, Tell, check_paths, run
from llamavae.corpora.files import read_sentences
from llamavae.data.code_files import encoder_fingerprint
from llamavae.errors import check_int
from llamavae.modeling import LlaMaVAE, Refinement
from llamavae.modeling.backbones import fingerprint
from llamavae.modeling.refine import Progress

PART_SIZE = 4096  # maximum number of rows lost by an interruption; one row group
_SLICE = 512  # number of rows whose sentences are batched by length together
_REFINED_PART, _REFINED_SLICE = 256, 64  # the same for refined codes, which take longer
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
    model: LlaMaVAE | ModelSource,
    source: Path,
    output: Path,
    *,
    column: str | None = None,
    batch_size: int = 64,
    overwrite: bool = False,
    refine: int | Refinement = 0,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> BulkReport:
    """Encode each sentence of a file to a row `id, text, mean, logvar` of a Parquet file.

    `id` is the number of the line (or of the row) in `source`, counted from 1; `mean` and
    `logvar` are lists of D float32. Call it again with the same arguments to resume a run that
    was interrupted. The file is the same to the bit for every engine and number of workers, on
    the same kind of processor.

    Args:
        model: The model, or where to load it from; it needs its sentence encoder.
        source: A file of sentences in a format of `corpora.load_corpus`, or a file with any other
            suffix and one sentence per line.
        output: The Parquet file, which is created when it is complete.
        column: Column that holds the sentences.
        batch_size: Number of sentences per forward pass of the encoder.
        overwrite: Replace an existing output.
        refine: See `LlaMaVAE.encode`; written to the metadata of the file, None for codes of the
            encoder.
        progress: Progress callback.
        engine: Where the sentences are encoded; None for this process. `RayEngine` requires a
            `ModelSource` and a Parquet file.

    Raises:
        UserError: The source cannot be read or has no sentence, the output exists or cannot be
            written, another process writes it, or the interrupted run had another model, source,
            `batch_size` or `refine`.
    """
    check_int("batch_size", batch_size)
    check_paths(source, output, overwrite)
    task = Encoding(model, source, column, batch_size, Refinement.of(refine))
    parts, resumed = run(task, output, engine or LocalEngine(), progress, overwrite)
    names = {"sentences": "rows", "blank": "blank", "truncated": "truncated"}
    counts = {name: sum(part[key] for part in parts) for name, key in names.items()}
    return BulkReport(output, resumed=resumed, **counts)


class Encoding(ModelTask):
    """The task of `encode_file`."""

    nothing = "has no line with text; expected one sentence per line or row"

    def __init__(
        self,
        model: LlaMaVAE | ModelSource,
        source: Path,
        column: str | None,
        batch_size: int,
        how: Refinement,
    ) -> None:
        super().__init__(model, source, _REFINED_PART if how.steps else PART_SIZE)
        self.column, self.batch_size, self.how = column, batch_size, how
        self.together = _REFINED_SLICE if how.steps else _SLICE

    def facts(self) -> dict[str, Any]:
        """See `Task`."""
        return {
            "model": encoder_fingerprint(self.model),
            "column": self.column,
            "batch_size": self.batch_size,
            "refine": _refine_facts(self.model, self.how),
        }

    def read(self, first: int = 1) -> Iterator[Row]:
        """See `Task`."""
        return read_sentences(self.source, self.column, first)

    def compute(self, part: int, rows: list[Row], tell: Tell) -> tuple[pa.Table, dict[str, Any]]:
        """See `Task`."""
        tables = [_SCHEMA.empty_table()]
        counts = {"blank": 0, "truncated": 0}
        for start in range(0, len(rows), self.together):
            some = rows[start : start + self.together]
            sentences = {number: text for number, text in some if text is not None}
            counts["blank"] += len(some) - len(sentences)
            if sentences:
                tables.append(self._encoded(sentences))
                counts["truncated"] += _truncated(self.model, list(sentences.values()))
            tell(some[-1][0])
        return pa.concat_tables(tables).combine_chunks(), counts

    def _encoded(self, sentences: dict[int, str]) -> pa.Table:
        texts = list(sentences.values())
        posterior = self.model.encode(texts, self.batch_size, refine=self.how)
        mean, logvar = (list(v.float().cpu().numpy()) for v in (posterior.mean, posterior.logvar))
        columns = {"id": list(sentences), "text": texts, "mean": mean, "logvar": logvar}
        return pa.table(columns, schema=_SCHEMA)


def _refine_facts(model: LlaMaVAE, how: Refinement) -> dict[str, Any] | None:
    """What affects refined codes besides encoder and posterior; None without refinement."""
    if not how.steps:
        return None
    parts = {"injection": model.injection, "decoder": model.decoder.lm}
    return how.settings() | {name: fingerprint(part) for name, part in parts.items()}


def _truncated(model: LlaMaVAE, texts: list[str]) -> int:
    """Number of texts that exceed the encoder's limit; short ones are not tokenised again."""
    assert model.encoder is not None
    limit = model.encoder.max_tokens
    long = [text for text in texts if limit is not None and 2 * len(text.encode()) + 8 > limit]
    return model.encoder.truncated(long) if long else 0
