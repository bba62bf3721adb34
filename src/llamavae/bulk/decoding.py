"""Decode a file of latent codes to a Parquet file of texts in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from llamavae.bulk.engine import LocalEngine
from llamavae.bulk.task import Engine, ModelSource, ModelTask, Row, Tell, check_paths, run
from llamavae.data.code_files import check_same_model, read_latent_codes
from llamavae.errors import UserError, check_int
from llamavae.modeling import LlaMaVAE
from llamavae.modeling.backbones import fingerprint
from llamavae.modeling.refine import Progress

PART_SIZE = 512  # maximum number of codes lost by an interruption; one row group
_RANDOM = ("temperature", "top_p", "top_k", "do_sample")


@dataclass(frozen=True)
class DecodeReport:
    """Result of `decode_file`.

    Attributes:
        output: The Parquet file.
        texts: Rows in it.
        resumed: Number of rows from an interrupted run.
    """

    output: Path
    texts: int
    resumed: int


def decode_file(
    model: LlaMaVAE | ModelSource,
    source: Path,
    output: Path,
    *,
    batch_size: int = 64,
    seed: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    engine: Engine | None = None,
    **options: Any,
) -> DecodeReport:
    """Decode each latent code of a file to a row `id, text` of a Parquet file.

    `id` is that of the code (see `read_latent_codes`). Call it again with the same arguments to
    resume a run that was interrupted. The file is the same to the bit for every engine and number
    of workers, on the same kind of processor.

    Args:
        model: The model, or where to load it from.
        source: A file of latent codes, see `read_latent_codes`.
        output: The Parquet file, which is created when it is complete.
        batch_size: Number of codes decoded together.
        seed: Seed of sampled texts; required with sampling.
        overwrite: Replace an existing output.
        progress: Progress callback.
        engine: As for `encode_file`.
        **options: Options of `LlaMaVAE.generate`. With `num_return_sequences`, a code has several
            rows.

    Raises:
        UserError: The source cannot be read or has no code, the output exists or cannot be written,
            another process writes it, the interrupted run had another model, source or option, or
            texts are sampled without a seed.
    """
    check_int("batch_size", batch_size)
    check_paths(source, output, overwrite)
    if seed is None and any(options.get(name) for name in _RANDOM):
        raise UserError("texts that are sampled in parts need a seed. Pass seed (--seed)")
    task = Decoding(model, source, batch_size, seed, options)
    parts, resumed = run(task, output, engine or LocalEngine(), progress, overwrite)
    return DecodeReport(output, sum(part["rows"] for part in parts), resumed)


class Decoding(ModelTask):
    """The task of `decode_file`."""

    nothing = "has no latent codes; expected at least one vector"

    def __init__(
        self,
        model: LlaMaVAE | ModelSource,
        source: Path,
        batch_size: int,
        seed: int | None,
        options: dict[str, Any],
    ) -> None:
        super().__init__(model, source, PART_SIZE)
        self.batch_size, self.seed, self.options = batch_size, seed, options

    def facts(self) -> dict[str, Any]:
        """See `Task`."""
        check_same_model(self.model, self.source)
        decoder = self.model.decoder
        return {
            "model": f"{fingerprint(self.model.injection)}-{fingerprint(decoder.lm)}",
            "max_tokens": decoder.max_tokens,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "options": self.options,
        }

    def read(self, first: int = 1) -> Iterator[Row]:
        """See `Task`; a row holds its id and its latent code (D,)."""
        lines = self.source.suffix.lower() not in (".parquet", ".npy")  # ids are their numbers
        number = first
        for codes in read_latent_codes(self.source, first=first):
            numbers = codes.ids if lines else range(number, number + len(codes.ids))
            yield from zip(numbers, zip(codes.ids, codes.z, strict=True), strict=True)
            number += len(codes.ids)

    def compute(self, part: int, rows: list[Row], tell: Tell) -> tuple[pa.Table, dict[str, Any]]:
        """See `Task`; random numbers depend on the seed and the number of the part."""
        if self.seed is not None:
            key = hashlib.blake2b(f"{self.seed}-{part}".encode(), digest_size=7).digest()
            torch.manual_seed(int.from_bytes(key))
        z = torch.stack([code for _, (_, code) in rows])
        samples = self.options.get("num_return_sequences", 1)
        ids, texts = [], []
        for text in self.model.decode_each(z, self.batch_size, **self.options):
            number, (name, _) = rows[len(texts) // samples]
            ids.append(name)
            texts.append(text)
            if len(texts) % samples == 0:
                tell(number)
        schema = pa.schema({"id": self._id_type, "text": pa.string()})
        return pa.table({"id": ids, "text": texts}, schema=schema), {}

    @property
    def _id_type(self) -> pa.DataType:
        if self.source.suffix.lower() != ".parquet":
            return pa.int64()
        schema = pq.read_schema(self.source)
        return schema.field("id").type if "id" in schema.names else pa.int64()
