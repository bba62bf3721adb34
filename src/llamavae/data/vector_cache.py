"""A cache of sentence vectors for corpora beyond memory: a memory-mapped Arrow file for a block.

The name of a file is a hash of the encoder and of the sentences of the block, so processes on
several machines may fill one cache together, and a file is never stale. A checksum of the vectors
is verified whenever a file is opened.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa

from llamavae.data.sentences import text_hash
from llamavae.files import cache_folder, disk_errors, replacing
from llamavae.modeling import SentenceEncoder
from llamavae.modeling.tokenizing import AS_TEXT

logger = logging.getLogger(__name__)

_CHECKSUM = b"blake2b"


class VectorCache:
    """The sentence vectors of a frozen encoder by block of sentences.

    Args:
        encoder: Encodes the sentences.
    """

    def __init__(self, encoder: SentenceEncoder) -> None:
        self.encoder = encoder
        key = text_hash(encoder.cache_key(), str(AS_TEXT))
        self.folder = cache_folder() / f"blocks-{key}"

    def vectors(self, texts: list[str]) -> np.ndarray:
        """Vectors (N, H_enc) of N sentences, memory-mapped; encoded if they are not in the cache.

        Raises:
            DiskError: The cache cannot be written.
        """
        name, size = text_hash(*texts), self.encoder.dim
        path = self.folder / name[:2] / f"{name}.arrow"
        found = _read(path, len(texts), size)
        if found is None:
            hint = "run again, or set LLAMAVAE_CACHE to another folder"
            with disk_errors(path, hint):
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, self.encoder.encode(texts).float().cpu().numpy())
            found = _read(path, len(texts), size)
        if found is None:
            raise OSError(f"{path} cannot be read after it was written")
        return found


def _write(path: Path, vectors: np.ndarray) -> None:
    flat = np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1)
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])
    checksum = hashlib.blake2b(flat.tobytes(), digest_size=16).hexdigest()
    schema = pa.schema([("vector", column.type)], metadata={_CHECKSUM: checksum.encode()})
    with replacing(path) as new, pa.ipc.new_file(str(new), schema) as writer:
        writer.write_batch(pa.record_batch([column], schema=schema))


def _read(path: Path, rows: int, size: int) -> np.ndarray | None:
    """The vectors of a file; None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            column = reader.get_batch(0).column(0)
        vectors = column.flatten().to_numpy(zero_copy_only=True).reshape(rows, size)
        checksum = hashlib.blake2b(vectors, digest_size=16).hexdigest().encode()
        if reader.schema.metadata[_CHECKSUM] == checksum:
            return vectors
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    logger.warning("%s in the cache is damaged: its vectors are computed again", path)
    return None
