"""Word vectors from a user's file: word2vec, GloVe or fastText.

They are read without gensim, which loads a whole file into memory even if only a few of its words
are needed, and whose errors do not name the line.
"""

from __future__ import annotations

import codecs
import gzip
import io
import os
import re
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from llamavae.corpora.lines import check_file
from llamavae.errors import UserError, counted

Entry = tuple[bytes, np.ndarray]  # word and its vector (C,)

_BLOCK = 2**20  # number of bytes per read; no line of text is longer

_OTHERS = {
    b"PK\x03\x04": "It is a zip archive: unpack it.",
    b"\xba\x16\x4f\x2f": "It is a whole fastText model. Use the .vec file that comes with it.",
}


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Vectors of V words.

    Attributes:
        index: Maps words to rows.
        matrix: The vectors (V, C), float32.
    """

    index: dict[str, int]
    matrix: np.ndarray

    @property
    def dim(self) -> int:
        """Size C of a vector."""
        return self.matrix.shape[1]

    def __len__(self) -> int:
        return len(self.index)

    def get(self, word: str) -> np.ndarray | None:
        """The vector (C,) of a word, or None.

        Tried in this order: the word as it is, with underscores for spaces (as word2vec writes
        phrases), and both in lower case.
        """
        row = next((self.index[form] for form in _forms(word) if form in self.index), None)
        return None if row is None else self.matrix[row]


def _forms(word: str) -> list[str]:
    joined = word.replace(" ", "_")
    return list(dict.fromkeys((word, joined, word.lower(), joined.lower())))


def read_word_vectors(
    path: str | os.PathLike[str], words: Collection[str] | None = None
) -> WordVectors:
    """Read word vectors: word2vec (text or binary), GloVe, or fastText's .vec, also gzipped.

    The format is detected from the content. For a repeated word the first vector is used, as in
    gensim. Only the vectors of `words` are parsed; reading stops when all are found.

    Args:
        path: The file.
        words: The words to read, in all forms that `WordVectors.get` tries; None for the whole
            file, which must then fit in memory.

    Raises:
        UserError: The file is missing, truncated or in another format, or a row has a wrong number
            of values or a value that is not finite. The message names the line, or the number of
            the entry for a binary file.
    """
    path = Path(path).expanduser()
    check_file(path)
    wanted = None
    if words is not None:
        forms = (form for word in words for form in _forms(word))
        wanted = {form.encode("utf-8", "surrogatepass") for form in forms}
    index: dict[str, int] = {}
    data = bytearray()
    with _unpacked(path) as file:
        dim, entries = _entries(file, wanted, path)
        for name, vector in entries:
            word = name.decode("utf-8", "replace")
            if word not in index:
                index[word] = len(index)
                data += vector.tobytes()
            if wanted is not None and len(index) == len(wanted):
                break
    return WordVectors(index, np.frombuffer(data, np.float32).reshape(-1, dim))


@contextmanager
def _unpacked(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is truncated or damaged: {error}. Download it again") from error


def _entries(file: BinaryIO, wanted: set[bytes] | None, path: Path) -> tuple[int, Iterator[Entry]]:
    """Size C of the vectors, and the wanted entries of a file in any of the formats."""
    first = file.readline(_BLOCK)
    header = re.fullmatch(rb"(\d+) (\d+)\s*", first)
    if header is None:
        values = first.rstrip(b" \r\n").split(b" ")[1:]
        if not values or not all(map(_is_number, values)) or first.startswith(tuple(_OTHERS)):
            hint = "".join(f" {text}" for magic, text in _OTHERS.items() if first.startswith(magic))
            raise UserError(
                f"{path}:1: not a file of word vectors. Expected word2vec's format (text or "
                "binary; the first line has the number of words and the size of a vector), "
                "fastText's .vec or GloVe's (a word and its values a line, with one space "
                f"between).{hint}"
            )
        dim = len(values)
        return dim, _from_text(chain([first], file), 1, None, dim, wanted, path)
    count, dim = int(header[1]), int(header[2])
    if not count or not 0 < dim <= _BLOCK:
        raise UserError(f"{path}:1: announces {count} words with {dim} values: none to read")
    block = file.read(_BLOCK)
    if _is_text(block, dim):
        lines = chain(io.BytesIO(block + file.readline()), file)
        return dim, _from_text(lines, 2, count, dim, wanted, path)
    return dim, _from_binary(file, block, count, dim, wanted, path)


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_text(block: bytes, dim: int) -> bool:
    """Whether what follows the header is text: floats as bytes are no numbers, and rarely text."""
    values = block.split(b"\n", 1)[0].rstrip(b" \r").split(b" ")[-dim:]
    if len(values) == dim and all(map(_is_number, values)):
        return True
    if re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]", block):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(block)  # the last letter may be cut
    except UnicodeDecodeError:
        return False
    return True


def _from_text(
    lines: Iterable[bytes],
    start: int,
    count: int | None,
    dim: int,
    wanted: set[bytes] | None,
    path: Path,
) -> Iterator[Entry]:
    found = 0
    for number, line in enumerate(lines, start):
        line = line.rstrip(b" \r\n")
        if not line:
            continue
        found += 1
        word, _, values = line.partition(b" ")
        spaces = line.count(b" ")
        if spaces != dim:  # GloVe has a few words with spaces
            word, values = _split_phrase(line, spaces, dim, f"{path}:{number}")
        if wanted is None or word in wanted:
            yield word, _numbers(values, f"{path}:{number}")
    if count is not None and found != count:
        raise UserError(
            f"{path}: the first line announces {counted(count, 'word')}, but the file has {found}. "
            "It is truncated or was edited. Download it again, or correct the number"
        )


def _split_phrase(line: bytes, spaces: int, dim: int, where: str) -> tuple[bytes, bytes]:
    if spaces > dim:
        *parts, values = line.split(b" ", spaces - dim + 1)
        if not all(map(_is_number, parts[1:])):
            return b" ".join(parts), values
    raise UserError(
        f"{where}: {counted(spaces, 'value')} after the word, with one space between; "
        f"expected {dim}"
    )


def _numbers(values: bytes, where: str) -> np.ndarray:
    fields = values.split(b" ")
    try:
        numbers = list(map(float, fields))
    except ValueError:
        bad = next(field for field in fields if not _is_number(field))
        shown = bad.decode("utf-8", "replace")[:40]
        raise UserError(f"{where}: {shown!r} is not a number; expected the word's values") from None
    with np.errstate(over="ignore"):
        return _finite(np.array(numbers, np.float32), where)


def _finite(vector: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(vector).all():
        raise UserError(f"{where}: a value is NaN or infinite; expected finite numbers")
    return vector


def _from_binary(
    file: BinaryIO, buffer: bytes, count: int, dim: int, wanted: set[bytes] | None, path: Path
) -> Iterator[Entry]:
    """Entries of word, space and C floats; the original program adds a line end, others do not."""
    size, start = 4 * dim, 0
    for number in range(1, count + 1):
        space = buffer.find(b" ", start)
        if space < 0 or space + 1 + size > len(buffer):
            buffer, start = buffer[start:] + file.read(_BLOCK + size), 0
            space = buffer.find(b" ")
            if space < 0 or space + 1 + size > len(buffer):
                raise UserError(
                    f"{path}, entry {number}: truncated; the first line names {count} words with "
                    f"{dim} values each. Download it again"
                )
        word = buffer[start:space].lstrip(b"\n")
        start = space + 1 + size
        if wanted is None or word in wanted:
            vector = np.frombuffer(buffer, "<f4", dim, space + 1).astype(np.float32)
            yield word, _finite(vector, f"{path}, entry {number}")
