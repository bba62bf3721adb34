"""Sentences as a trainer wants them: tokenised and encoded once, cached, batched by length."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch.utils.data import Dataset, IterableDataset, Sampler
from tqdm.auto import tqdm

from llamavae.errors import UserError
from llamavae.modeling import SentenceEncoder, TextDecoder

_CHUNK = 2048  # sentences tokenised or encoded between two looks at the progress bar
_GROUP = 50  # batches that are sorted by length together

Item = dict[str, Any]


def cache_folder() -> Path:
    """Where tokenised and encoded corpora are kept: `LLAMAVAE_CACHE`, or the user's cache."""
    return Path(os.environ.get("LLAMAVAE_CACHE", Path.home() / ".cache" / "llamavae"))


class SentenceData(Dataset[Item]):
    """Sentences with their decoder ids and, for a frozen encoder, their vectors.

    Args:
        texts: N sentences.
        ids: Decoder ids of all sentences, one after the other.
        offsets: Where each sentence starts in `ids`, and the end; N + 1 numbers.
        vectors: Sentence vectors h (N, H_enc), memory-mapped, or None where the encoder trains.
        truncated: How many sentences were cut to the decoder's limit.
    """

    def __init__(
        self,
        texts: Sequence[str],
        ids: np.ndarray,
        offsets: np.ndarray,
        vectors: np.ndarray | None = None,
        truncated: int = 0,
    ) -> None:
        self.texts, self.ids, self.offsets, self.vectors = texts, ids, offsets, vectors
        self.truncated = truncated

    @property
    def lengths(self) -> np.ndarray:
        """Decoder tokens of each sentence, shape (N,)."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, i: int) -> Item:
        item: Item = {
            "text": self.texts[i],
            "ids": self.ids[self.offsets[i] : self.offsets[i + 1]],
        }
        if self.vectors is not None:
            item["vector"] = self.vectors[i]
        return item


def prepare(
    texts: Sequence[str],
    decoder: TextDecoder,
    encoder: SentenceEncoder | None = None,
    vectors: np.ndarray | None = None,
    progress: bool = True,
) -> SentenceData:
    """Tokenise `texts` for the decoder and run a frozen encoder over them, or reuse the cache.

    The cache key covers the texts, the tokenizer and its limit, and for vectors also the
    encoder's weights, tokenizer, pooling and limit, so that nothing stale is ever read.

    Args:
        texts: N sentences.
        decoder: Gives the ids.
        encoder: Gives the vectors, where it is frozen; a trained one is left to the training step.
        vectors: Precomputed sentence vectors (N, H_enc), in place of an encoder.
        progress: Show a progress bar on stderr.
    """
    corpus = _hash(json.dumps(list(texts), ensure_ascii=False))
    folder = cache_folder()
    tokens = _cached(
        folder / f"tokens-{_hash(corpus + _decoder_key(decoder))}",
        lambda new: _write_tokens(new, texts, decoder, progress),
    )
    if vectors is None and encoder is not None and not encoder.trains:
        encoded = _cached(
            folder / f"vectors-{_hash(corpus + encoder.cache_key())}",
            lambda new: _write_vectors(new, texts, encoder, progress),
        )
        vectors = np.load(encoded / "vectors.npy", mmap_mode="r")
    return SentenceData(
        texts,
        np.load(tokens / "ids.npy", mmap_mode="r"),
        np.load(tokens / "offsets.npy"),
        vectors,
        json.loads((tokens / "counts.json").read_text())["truncated"],
    )


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _decoder_key(decoder: TextDecoder) -> str:
    backend = getattr(decoder.tokenizer, "backend_tokenizer", None)
    name = backend.to_str() if backend is not None else repr(decoder.tokenizer)
    return f"{name}{decoder.tokens}{decoder.max_tokens}"


def _cached(folder: Path, write: Callable[[Path], None]) -> Path:
    """`folder`, written by `write` if it is not there; a half-written one is never seen."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        write(new)
        new.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            raise UserError(
                f"could not write the cache {folder}: {error}. Set LLAMAVAE_CACHE to a folder "
                "with room"
            ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def _chunks(texts: Sequence[str], what: str, progress: bool) -> Iterator[tuple[int, list[str]]]:
    bar = tqdm(total=len(texts), desc=what, unit=" sentences", disable=not progress, leave=False)
    with bar:
        for start in range(0, len(texts), _CHUNK):
            part = list(texts[start : start + _CHUNK])
            yield start, part
            bar.update(len(part))


def _write_tokens(folder: Path, texts: Sequence[str], decoder: TextDecoder, progress: bool) -> None:
    rows: list[np.ndarray] = []
    truncated = 0
    for _, part in _chunks(texts, "tokenising", progress):
        ids, cut = decoder.tokenize(part)
        truncated += cut
        rows.extend(np.asarray(row, dtype=np.int32) for row in ids)
    np.save(folder / "ids.npy", np.concatenate(rows))
    np.save(folder / "offsets.npy", np.cumsum([0, *map(len, rows)]))
    (folder / "counts.json").write_text(json.dumps({"truncated": truncated}))


def _write_vectors(
    folder: Path, texts: Sequence[str], encoder: SentenceEncoder, progress: bool
) -> None:
    out = open_memmap(
        folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(len(texts), encoder.dim)
    )
    for start, part in _chunks(texts, "encoding", progress):
        out[start : start + len(part)] = encoder.encode(part).float().cpu().numpy()
    out.flush()


class Collator:
    """Joins sentences to the inputs of `LlaMaVAE.forward`, padded to the longest of the batch.

    Args:
        decoder: Pads the ids.
        encoder: Tokenises the texts where there are no vectors; None for a plain language model.
    """

    def __init__(self, decoder: TextDecoder, encoder: SentenceEncoder | None = None) -> None:
        self.decoder, self.encoder = decoder, encoder

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        ids, mask = self.decoder.pad([item["ids"] for item in items])
        batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if "vector" in items[0]:
            batch["sentence_vectors"] = torch.from_numpy(np.stack([i["vector"] for i in items]))
        elif self.encoder is not None:
            batch["encoder_inputs"] = self.encoder.tokenize([item["text"] for item in items])
        return batch


class LengthBatches(Sampler[int]):
    """An order of the sentences in which each global batch holds sentences of similar length.

    The order depends on seed and epoch alone, not on the number of processes: cut into global
    batches, and those among processes, it gives the same steps everywhere. Every sentence comes
    once in an epoch; the last batch is filled up with a few that come twice.

    Args:
        lengths: Tokens of each sentence, shape (N,).
        batch_size: Sentences in an optimiser step, over all processes and accumulation.
        seed: Seed of the order.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int = 0) -> None:
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = np.resize(random.permutation(len(self.lengths)), len(self))
        return iter(_by_length(order, self.lengths[order], self.batch_size, random).tolist())


def _by_length(
    order: np.ndarray, lengths: np.ndarray, batch_size: int, random: np.random.Generator
) -> np.ndarray:
    """Reorder whole batches' worth of `order`: sorted by length in groups, batches shuffled."""
    batches = []
    for start in range(0, len(order), _GROUP * batch_size):
        part = slice(start, start + _GROUP * batch_size)
        by_length = order[part][np.argsort(lengths[part], kind="stable")]
        batches.append(by_length.reshape(-1, batch_size))
    every = np.concatenate(batches)
    return every[random.permutation(len(every))].reshape(-1)


class SentenceStream(IterableDataset[Item]):
    """Sentences read as they are needed, tokenised, encoded and batched by length on the way.

    Args:
        texts: A function that starts the stream again from its beginning.
        decoder: Gives the ids.
        encoder: Gives the vectors, where it is frozen.
        batch_size: Sentences in an optimiser step, over all processes and accumulation.
        seed: Seed of the order inside a group of batches.
    """

    def __init__(
        self,
        texts: Callable[[], Iterable[str]],
        decoder: TextDecoder,
        encoder: SentenceEncoder | None,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        self.texts, self.decoder, self.encoder = texts, decoder, encoder
        self.batch_size, self.seed = batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Item]:
        random = np.random.default_rng([self.seed, self.epoch])
        buffer: list[str] = []
        for text in self.texts():
            buffer.append(text)
            if len(buffer) == _GROUP * self.batch_size:
                yield from self._group(buffer, random)
                buffer = []
        whole = len(buffer) // self.batch_size * self.batch_size
        yield from self._group(buffer[:whole], random)

    def _group(self, texts: list[str], random: np.random.Generator) -> Iterator[Item]:
        if not texts:
            return
        ids, _ = self.decoder.tokenize(texts)
        items: list[Item] = [{"text": t, "ids": row} for t, row in zip(texts, ids, strict=True)]
        if self.encoder is not None and not self.encoder.trains:
            vectors = self.encoder.encode(texts).float().cpu().numpy()
            for item, vector in zip(items, vectors, strict=True):
                item["vector"] = vector
        lengths = np.array([len(row) for row in ids])
        for i in _by_length(np.arange(len(texts)), lengths, self.batch_size, random):
            yield items[i]
