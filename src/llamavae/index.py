"""Search among many latent codes: an index on disk, built in bounded memory.

Codes are divided into cells around centroids, and a search reads the cells whose centroids are
nearest to the query (an inverted file; Jégou et al., 2011, doi:10.1109/TPAMI.2010.57). Few codes
are searched exactly. Needs the extra `index`: `pip install 'llamavae[index]'`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamavae import __version__
from llamavae.corpora.files import check_file, log_blank, read_sentences
from llamavae.data.code_files import CODES, encoder_fingerprint, metadata, read_latent_codes
from llamavae.errors import UserError, check_int
from llamavae.files import replacing_folder, write_json
from llamavae.folders import check_output, locked
from llamavae.manifest import verify
from llamavae.modeling import LlaMaVAE
from llamavae.parsing import read_json

INDEX = "an index"
"""What the folder of an index holds, see `llamavae.folders`."""
PROBES = 128
"""Number of cells that a search reads by default."""
_EXACT = 20_000  # codes that are searched exactly
_PER_CELL = 40  # codes per centroid that the centroids are computed from
_STEPS = 10  # of k-means
_ROWS = 4096  # codes that are encoded or added together; texts in a row group
_NAMES = ("codes.faiss", "texts.parquet", "index.json")
_TEXTS = pa.schema({"text": pa.string()})
_FACTS = {"format": int, "model": str, "sentences": int, "latent_dim": int, "cells": int}


def build_index(
    model: LlaMaVAE,
    sources: Sequence[Path],
    output: Path,
    *,
    column: str | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Index:
    """Build an index of the sentences of files, and save it as a folder.

    Blank lines are skipped, and their number is logged. The codes are kept on disk while the index
    is built. The folder appears when it is complete; an older index in it is replaced then.

    Args:
        model: The model that encodes the sentences and queries.
        sources: Files of sentences, or of codes with their texts (see `llamavae.bulk.encode_file`).
        output: The folder.
        column: Column of the sentences in files of sentences.
        batch_size: Number of sentences per forward pass of the encoder.
        seed: Seed of the choice of codes for the centroids, and of k-means.
        progress: Called with the number of sentences that are encoded.

    Raises:
        UserError: A file cannot be read or its codes are of another model, there is no sentence,
            the folder holds something else, or faiss is missing.
    """
    faiss = _faiss()
    check_int("batch_size", batch_size)
    for source in sources:
        check_file(source)
    with locked(output, INDEX), replacing_folder(output, own=_NAMES) as new:
        raw, done = new / "codes.f32", 0
        with (
            raw.open("wb") as file,
            pq.ParquetWriter(
                new / "texts.parquet", _TEXTS, compression="zstd", write_page_checksum=True
            ) as writer,
        ):
            for source in sources:
                for texts, z in _codes(model, source, column, batch_size):
                    torch.nn.functional.normalize(z.float().cpu(), dim=1).numpy().tofile(file)
                    writer.write_table(pa.table({"text": texts}, schema=_TEXTS))
                    progress(done := done + len(texts))
        if not done:
            names = ", ".join(map(str, sources))
            raise UserError(f"expected files with sentences; {names or 'no file'} has none")
        size = model.config.latent_dim
        codes = np.memmap(raw, np.float32, "r", shape=(done, size))
        built = build_codes(codes, seed)
        faiss.write_index(built, str(new / "codes.faiss"))
        del codes
        raw.unlink()
        facts = {
            "format": 1,
            "model": encoder_fingerprint(model),
            "sentences": done,
            "latent_dim": size,
            "cells": getattr(built, "nlist", 0),
            "version": __version__,
        }
        write_json(new / "index.json", facts)
    return Index(output)


def build_codes(codes: NDArray[np.float32], seed: int = 0) -> Any:
    """The faiss index of codes (N, D) of length 1: exact for few, else with cells.

    Args:
        codes: The codes, which can be memory-mapped.
        seed: Seed of the choice of codes for the centroids, and of k-means.
    """
    faiss, (rows, size) = _faiss(), codes.shape
    if rows <= _EXACT:
        index = faiss.IndexFlatIP(size)
    else:
        cells = 2 ** round(math.log2(4 * math.sqrt(rows)))
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(size),
            size,
            cells,
            faiss.ScalarQuantizer.QT_fp16,
            faiss.METRIC_INNER_PRODUCT,
        )
        index.cp.niter, index.cp.seed, index.cp.spherical = _STEPS, seed, True
        chosen = np.random.default_rng(seed).permutation(rows)[: _PER_CELL * cells]
        index.train(np.array(codes[np.sort(chosen)]))
    for start in range(0, rows, _ROWS):
        index.add(np.array(codes[start : start + _ROWS]))
    return index


def check_index_output(output: Path) -> None:
    """Check that an index may be written to a folder.

    Raises:
        UserError: It holds something else.
    """
    check_output(output, INDEX)


class Index:
    """An index on disk.

    Args:
        folder: Folder of `build_index`.
        probes: Number of cells that a search reads. More cells find more of the nearest codes, in
            more time.

    Attributes:
        sentences: Number of sentences.
        cells: Number of cells; 0 if the search is exact.

    Raises:
        UserError: There is no index, it is damaged, or faiss is missing.
    """

    def __init__(self, folder: Path, probes: int = PROBES) -> None:
        faiss = _faiss()
        check_int("probes", probes)
        if not (folder / "index.json").is_file():
            raise UserError(f"{folder} is not an index; expected a folder of `llamavae index`")
        verify(folder)
        facts = read_json(folder / "index.json", _FACTS)
        self.folder, self.probes = folder, probes
        self.sentences, self.cells = facts["sentences"], facts["cells"]
        self._model, self._size = facts["model"], facts["latent_dim"]
        try:
            self._codes = faiss.read_index(str(folder / "codes.faiss"))
            self._texts = pq.ParquetFile(folder / "texts.parquet", page_checksum_verification=True)
        except (RuntimeError, OSError, ValueError) as error:  # of faiss, of the system, of pyarrow
            what = " ".join(str(error).split())[-150:]
            raise UserError(f"{folder} is damaged: {what}. Build the index again") from error
        lengths = [
            self._texts.metadata.row_group(i).num_rows
            for i in range(self._texts.metadata.num_row_groups)
        ]
        self._starts = np.cumsum([0, *lengths])
        counts = {self._codes.ntotal, int(self._starts[-1]), self.sentences}
        if len(counts) > 1 or self._codes.d != self._size:
            raise UserError(f"the files of {folder} do not belong together. Build the index again")

    def check_model(self, model: LlaMaVAE) -> None:
        """Check that the codes are those of a model.

        Raises:
            UserError: They were encoded by another one.
        """
        if encoder_fingerprint(model) != self._model:
            raise UserError(
                f"{self.folder} was built with another model; its codes are not valid for this "
                "one. Pass that model with --model, or build the index again"
            )

    def search(self, z: Tensor, k: int = 5) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Cosines and numbers of the sentences nearest to codes.

        Args:
            z: Latent codes (Q, D).
            k: Number of neighbours.

        Returns:
            Cosines in descending order and numbers from 0, each (Q, min(k, N)). Where the cells
            that are read hold fewer sentences, the number is -1.
        """
        check_int("k", k)
        if z.ndim != 2 or z.shape[1] != self._size:
            raise UserError(f"expected codes of shape (Q, {self._size}); got {tuple(z.shape)}")
        if self.cells:
            self._codes.nprobe = min(self.probes, self.cells)
        unit = torch.nn.functional.normalize(z.detach().float().cpu(), dim=1)
        return self._codes.search(unit.numpy(), min(k, self.sentences))

    def texts(self, numbers: Sequence[int]) -> list[str]:
        """The sentences of these numbers."""
        places = np.searchsorted(self._starts, numbers, side="right") - 1
        groups = {i: self._texts.read_row_group(i)["text"] for i in set(places.tolist())}
        return [
            groups[place][number - int(self._starts[place])].as_py()
            for place, number in zip(places.tolist(), numbers, strict=True)
        ]

    def neighbours(self, z: Tensor, k: int = 5) -> list[tuple[int, float, str]]:
        """Number, cosine and text of the `k` sentences nearest to a code (D,)."""
        cosines, numbers = self.search(z.reshape(1, -1), k)
        rows = [(int(n), float(c)) for n, c in zip(numbers[0], cosines[0], strict=True) if n >= 0]
        return [
            (n, c, text)
            for (n, c), text in zip(rows, self.texts([n for n, _ in rows]), strict=True)
        ]


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise UserError("an index needs faiss: pip install 'llamavae[index]'") from error
    return faiss


def _codes(
    model: LlaMaVAE, source: Path, column: str | None, batch_size: int
) -> Iterator[tuple[list[str], Tensor]]:
    """Sentences of a file and their codes, in parts."""
    if source.suffix.lower() == ".parquet":
        schema = pq.read_schema(source)
        if set(CODES) & set(schema.names):
            made_by = metadata(schema).get("model")
            if made_by is not None and made_by != encoder_fingerprint(model):
                raise UserError(f"{source} was encoded by another model. Pass it with --model")
            size = model.config.latent_dim
            for part in read_latent_codes(source, _ROWS):
                if part.z.shape[1] != size:
                    raise UserError(
                        f"{source}: expected codes of {size} dimensions, as this model has; got "
                        f"{part.z.shape[1]}. Pass the model that encoded it with --model"
                    )
                yield part.texts or list(map(str, part.ids)), part.z
            return
    sentences = _sentences(source, column)
    while texts := list(islice(sentences, _ROWS)):
        yield texts, model.encode(texts, batch_size).mean


def _sentences(source: Path, column: str | None) -> Iterator[str]:
    """The sentences of a file; how many blank lines it has is logged at the end."""
    blank = 0
    for _, text in read_sentences(source, column):
        if text is None:
            blank += 1
        else:
            yield text
    log_blank(source, blank)
