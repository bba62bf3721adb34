"""Sentences for training: tokenised and encoded once, cached, and batched by length."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from llamavae.data.batches import Item
from llamavae.errors import UserError
from llamavae.files import cache_folder, disk_errors, replacing_folder
from llamavae.manifest import damage
from llamavae.modeling import SentenceEncoder, TextDecoder
from llamavae.modeling.tokenizing import AS_TEXT
from llamavae.parsing import read_json

logger = logging.getLogger(__name__)

Report = Callable[[int, int], None]

_CHUNK = 2048  # number of sentences between two updates of the progress bar


@dataclass(eq=False, repr=False)
class SentenceData(Dataset[Item]):
    """Sentences with their decoder ids and, for a frozen encoder, their vectors.

    Args:
        texts: N sentences.
        ids: Concatenated decoder ids of all sentences.
        offsets: Start of each sentence in `ids`, and the end; N + 1 numbers.
        vectors: Sentence vectors h (N, H_enc), memory-mapped, or None if the encoder is trained.
        truncated: Number of sentences that were truncated to the decoder's limit.
        teacher: Vectors of the same sentences by a teacher (N, K), if there is one.
    """

    texts: Sequence[str]
    ids: np.ndarray
    offsets: np.ndarray
    vectors: np.ndarray | None = None
    truncated: int = 0
    teacher: np.ndarray | None = None

    def __post_init__(self) -> None:
        # plain views, since slicing np.memmap itself is several times slower
        self.ids = self.ids.view(np.ndarray)
        self.vectors = None if self.vectors is None else self.vectors.view(np.ndarray)
        self.teacher = None if self.teacher is None else self.teacher.view(np.ndarray)

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
        if self.teacher is not None:
            item["teacher"] = self.teacher[i]
        return item

    def inputs(self, rows: np.ndarray | None = None) -> Tensor | list[str]:
        """Inputs of `LlaMaVAE.encode`: the sentence vectors, or the texts if there are none.

        Args:
            rows: Indices of the sentences; None for all.
        """
        rows = np.arange(len(self)) if rows is None else rows
        if self.vectors is not None:
            return torch.from_numpy(self.vectors[rows])
        return [self.texts[int(i)] for i in rows]


def prepare(
    texts: Sequence[str],
    decoder: TextDecoder,
    encoder: SentenceEncoder | None = None,
    vectors: np.ndarray | None = None,
    progress: bool = True,
    teacher: SentenceEncoder | None = None,
) -> SentenceData:
    """Tokenise `texts` for the decoder and run a frozen encoder over them, or reuse the cache.

    The cache key covers the texts, the tokenizer and its limit, and for vectors also the
    encoder's weights, tokenizer, pooling and limit, so that stale entries are never used.

    Args:
        texts: N sentences.
        decoder: Tokenises the sentences.
        encoder: Encodes the sentences if it is frozen; a trained encoder runs in the training step.
        vectors: Precomputed sentence vectors (N, H_enc), instead of an encoder.
        progress: Show a progress bar on stderr.
        teacher: Encodes further vectors, for `similarity_loss`, which are cached in the same way.
    """
    corpus = text_hash(*texts)
    folder = cache_folder()
    tokens = _cached(
        folder / f"tokens-{text_hash(corpus, _decoder_key(decoder))}",
        lambda new: _write_tokens(new, texts, decoder, progress),
    )
    if vectors is None and encoder is not None and not encoder.trains:
        vectors = sentence_vectors(texts, encoder, progress)
    return SentenceData(
        texts,
        np.load(tokens / "ids.npy", mmap_mode="r"),
        np.load(tokens / "offsets.npy"),
        vectors,
        read_json(tokens / "counts.json", {"truncated": int})["truncated"],
        None if teacher is None else sentence_vectors(texts, teacher, progress),
    )


def sentence_vectors(
    texts: Sequence[str],
    encoder: SentenceEncoder,
    progress: bool = True,
    report: Report | None = None,
) -> np.ndarray:
    """Sentence vectors h (N, H_enc) of `texts`, memory-mapped from the cache.

    Vectors of texts that this encoder has encoded before, in any list, are copied from the cache.
    Which texts are encoded together therefore depends on the cache, and the vectors of the same
    text can differ by the rounding of float32, by about 1e-6 of their magnitude. The vectors of one
    list never change while they are in the cache.

    Args:
        texts: N sentences.
        encoder: Encodes the sentences.
        progress: Show a progress bar on stderr while they are computed.
        report: Called with how many of the missing ones are computed, and how many were missing.
    """
    if not len(texts):  # nothing to keep
        return np.empty((0, encoder.dim), np.float32)
    key = text_hash(encoder.cache_key(), str(AS_TEXT))
    encoded = _cached(
        cache_folder() / f"vectors-{key}-{text_hash(*texts)}",
        lambda new: _write_vectors(new, texts, encoder, key, progress, report),
    )
    return np.load(encoded / "vectors.npy", mmap_mode="r")


def text_hash(*texts: str) -> str:
    """A hash of texts, as 24 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=12)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _decoder_key(decoder: TextDecoder) -> str:
    """Everything that affects the ids of a text."""
    backend = getattr(decoder.tokenizer, "backend_tokenizer", None)
    if backend is not None:
        tokenizer = json.loads(backend.to_str())
        for state in ("truncation", "padding"):  # changed by earlier calls
            tokenizer.pop(state, None)
    else:
        tokenizer = [repr(decoder.tokenizer), decoder.tokenizer.get_vocab()]
    return json.dumps([tokenizer, AS_TEXT, str(decoder.tokens), decoder.max_tokens], sort_keys=True)


def _cached(folder: Path, write: Callable[[Path], None]) -> Path:
    """`folder`, written by `write` if it is not there or damaged.

    Raises:
        DiskError: The cache cannot be written.
    """
    if not _whole(folder):
        hint = "run again, or set LLAMAVAE_CACHE to another folder"
        with disk_errors(folder, hint), replacing_folder(folder) as new:
            write(new)
    return folder


def cached_array(name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """An array of the cache, computed if it is not there or damaged.

    Args:
        name: Name of the entry, which covers everything that affects the array.
        compute: Computes the array.
    """
    entry = _cached(cache_folder() / name, lambda new: np.save(new / "array.npy", compute()))
    return np.load(entry / "array.npy")


def _whole(folder: Path) -> bool:
    """Whether an entry of the cache is there and undamaged."""
    try:
        found = damage(folder)
    except UserError as error:
        found = {str(error): ""}
    for name, what in found.items():
        logger.warning("%s in the cache is computed again: %s %s", folder, name, what)
    return folder.is_dir() and not found


def _chunks(
    texts: Sequence[str], what: str, progress: bool, report: Report | None = None
) -> Iterator[tuple[int, list[str]]]:
    bar = tqdm(total=len(texts), desc=what, unit=" sentences", disable=not progress, leave=False)
    with bar:
        for start in range(0, len(texts), _CHUNK):
            part = list(texts[start : start + _CHUNK])
            if report is not None:
                report(start, len(texts))
            yield start, part
            bar.update(len(part))


def _write_tokens(folder: Path, texts: Sequence[str], decoder: TextDecoder, progress: bool) -> None:
    ids: list[np.ndarray] = []
    lengths: list[np.ndarray] = [np.zeros(1, np.int64)]
    truncated = 0
    for _, part in _chunks(texts, "tokenising", progress):
        rows, cut = decoder.tokenize(part)
        truncated += cut
        ids.append(np.fromiter(chain.from_iterable(rows), np.int32))
        lengths.append(np.fromiter(map(len, rows), np.int64))
    np.save(folder / "ids.npy", np.concatenate(ids))
    np.save(folder / "offsets.npy", np.cumsum(np.concatenate(lengths)))
    (folder / "counts.json").write_text(json.dumps({"truncated": truncated}))


def _write_vectors(
    folder: Path,
    texts: Sequence[str],
    encoder: SentenceEncoder,
    key: str,
    progress: bool,
    report: Report | None,
) -> None:
    names = np.fromiter((_number(text) for text in texts), np.uint64, len(texts))
    out = open_memmap(
        folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(len(texts), encoder.dim)
    )
    missing = _copy_known(out, names, sorted(cache_folder().glob(f"vectors-{key}-*")))
    new = [texts[int(i)] for i in missing]
    for start, part in _chunks(new, "encoding", progress and bool(new), report):
        rows = missing[start : start + len(part)]
        out[rows] = encoder.encode(part).float().cpu().numpy()
    out.flush()
    np.save(folder / "names.npy", names)


def _number(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def _copy_known(out: np.ndarray, names: np.ndarray, folders: Iterable[Path]) -> np.ndarray:
    """Fill the rows of `out` whose texts are cached; returns the indices of the other rows."""
    missing = np.arange(len(names))
    for folder in folders:
        if not len(missing):
            break
        if not _whole(folder):
            continue
        known = np.load(folder / "names.npy")
        if not len(known):
            continue
        order = np.argsort(known)
        place = np.searchsorted(known, names[missing], sorter=order).clip(max=len(known) - 1)
        rows = order[place]
        found = known[rows] == names[missing]
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        out[missing[found]] = vectors[rows[found]]
        missing = missing[~found]
    return missing
