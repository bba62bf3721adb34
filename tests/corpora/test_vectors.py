from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamavae.corpora import vectors
from llamavae.corpora.vectors import read_word_vectors
from llamavae.errors import UserError

WORDS = ["the", "bank", "New_York", "città", "“", "\x85"]
MATRIX = np.linspace(-2, 2, 6 * 4).reshape(6, 4).astype(np.float32)

FORMATS = ("word2vec", "fasttext", "glove", "binary", "binary-lines")


def encode(words, matrix, form) -> bytes:
    """A file of word vectors, as the programs of each format write it."""
    header = f"{len(words)} {matrix.shape[1]}\n".encode()
    end = b" \n" if form == "fasttext" else b"\n"
    if form.startswith("binary"):
        gap = b"\n" if form == "binary-lines" else b""
        rows = zip(words, matrix, strict=True)
        return header + b"".join(
            w.encode() + b" " + v.astype("<f4").tobytes() + gap for w, v in rows
        )
    rows = (
        " ".join([word, *(repr(float(value)) for value in vector)]).encode() + end
        for word, vector in zip(words, matrix, strict=True)
    )
    return (b"" if form == "glove" else header) + b"".join(rows)


@pytest.fixture
def save(tmp_path):
    def write(content: bytes | str) -> Path:
        path = tmp_path / "words.any"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_formats_are_told_by_their_content(save, form, zipped):
    content = encode(WORDS, MATRIX, form)
    path = save(gzip.compress(content) if zipped else content)
    every = read_word_vectors(path)
    assert every.index == {word: row for row, word in enumerate(WORDS)}
    assert every.matrix.dtype == np.float32
    assert np.array_equal(every.matrix, MATRIX)
    assert (len(every), every.dim) == (6, 4)
    some = read_word_vectors(path, ["città", "bank", "nothing"])
    assert some.index == {"bank": 0, "città": 1}
    assert np.array_equal(some.matrix, MATRIX[[1, 3]])
    none = read_word_vectors(path, [])
    assert none.matrix.shape == (0, 4)
    assert none.get("bank") is None


@given(
    st.lists(
        st.text(st.characters(exclude_characters=" \n\r", codec="utf-8"), min_size=1, max_size=8),
        min_size=1,
        max_size=8,
        unique=True,
    ),
    st.integers(8, 12),
    st.integers(0, 2**31),
    st.sampled_from(FORMATS),
)
def test_any_word_is_read_back(tmp_path_factory, words, dim, seed, form):
    matrix = np.random.default_rng(seed).normal(size=(len(words), dim)).astype(np.float32)
    path = tmp_path_factory.mktemp("words") / "words"
    path.write_bytes(encode(words, matrix, form))
    read = read_word_vectors(path)
    assert list(read.index) == words
    assert np.array_equal(read.matrix, matrix)


def test_blocks_are_joined(save, monkeypatch):
    monkeypatch.setattr(vectors, "_BLOCK", 99)  # bytes
    matrix = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    words = [f"w{i}" for i in range(50)]
    for form in FORMATS:
        assert np.array_equal(read_word_vectors(save(encode(words, matrix, form))).matrix, matrix)


def test_forms_of_a_word(save):
    path = save("bank 1\nnew_york 2\nBank 3\nRed_Cross 4\n")
    words = ["Bank", "BANK", "bank", "New York", "Red Cross", "red cross"]
    for read in (read_word_vectors(path), read_word_vectors(path, words)):
        found = {word: vector[0] for word in words if (vector := read.get(word)) is not None}
        assert found == {"Bank": 3, "BANK": 1, "bank": 1, "New York": 2, "Red Cross": 4}
    assert read_word_vectors(path, ["Bank"]).index == {"bank": 0, "Bank": 1}
    assert read_word_vectors(path, ["bank"]).index == {"bank": 0}


@pytest.mark.parametrize("form", FORMATS)
def test_the_first_of_two_vectors_counts(save, form):
    path = save(encode(["a", "b", "a"], MATRIX[:3], form))
    for words in (None, ["a", "b"]):
        read = read_word_vectors(path, words)
        assert read.index == {"a": 0, "b": 1}
        assert np.array_equal(read.matrix, MATRIX[:2])


def test_words_with_spaces(save):
    read = read_word_vectors(save("the 0.5 1\n. . . 2 3\nat a@b.com 4 5\n"))
    assert {word: read.matrix[row].tolist() for word, row in read.index.items()} == {
        "the": [0.5, 1],
        ". . .": [2, 3],
        "at a@b.com": [4, 5],
    }


def test_words_in_another_encoding_do_not_matter(save):
    path = save(b"2 2\ncitt\xe0 1 2\nbank 3 4\n")
    assert read_word_vectors(path, ["bank"]).matrix.tolist() == [[3, 4]]
    assert read_word_vectors(path).matrix.tolist() == [[1, 2], [3, 4]]


def test_unwanted_vectors_cost_no_memory(save):
    matrix = np.zeros((20_000, 50), np.float32)
    path = save(encode([f"w{i}" for i in range(len(matrix))], matrix, "binary"))
    tracemalloc.start()
    read_word_vectors(path, ["w19999", "w3"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 4e6
    assert peak < 3.5e6  # a few blocks


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "words.any:1: not a file of word vectors"),
        ("bank\n", "words.any:1: not a file of word vectors"),
        ("a sentence of text\n", r"words.any:1: not a file .* Expected word2vec"),
        (b"PK\x03\x04 1 2", "It is a zip archive: unpack it"),
        (b"\xba\x16\x4f\x2f\x0c\0", r"a whole fastText model. Use the \.vec file"),
        ("0 5\n", "words.any:1: announces 0 words"),
        ("5 0\n", "announces 5 words with 0 values"),
        ("the 1 2\nbank 1\n", r"words.any:2: 1 value after the word.*; expected 2"),
        ("the 1 2\nbank 1 2 3\n", r"words.any:2: 3 values after the word.*; expected 2"),
        ("2 2\nthe 1 2\nbank 1\n", r"words.any:3: 1 value"),
        ("2 2\nthe 1\nbank 1 2\n", r"words.any:2: 1 value"),
        ("the 1 2\nbank 1 x\n", "words.any:2: 'x' is not a number"),
        ("the 1 2\nbank 1 0,5\n", "words.any:2: '0,5' is not a number"),
        ("the 1 2\nbank 1  2\n", r"words.any:2: 3 values.*one space|'' is not a number"),
        ("2 2\nthe 1 2\nbank 1 nan\n", "words.any:3: a value is NaN or infinite"),
        ("the 1 2\nbank 1 1e39\n", "words.any:2: a value is NaN or infinite"),
        ("3 2\nthe 1 2\nbank 1 2\n", "announces 3 words, but the file has 2"),
        ("1 2\nthe 1 2\nbank 1 2\n", "announces 1 word, but the file has 2"),
        (encode(WORDS, MATRIX, "binary")[:-3], "words.any, entry 6: truncated"),
        (encode(WORDS, MATRIX, "binary-lines")[:30], "words.any, entry 2: truncated"),
        (encode(WORDS, MATRIX * np.nan, "binary"), "words.any, entry 1: a value is NaN"),
        (gzip.compress(encode(WORDS, MATRIX, "glove"))[:-20], "is truncated or damaged"),
        (b"\x1f\x8bnonsense", "is truncated or damaged"),
    ],
)
def test_wrong_files(save, content, message):
    with pytest.raises(UserError, match=message):
        read_word_vectors(save(content))


def test_values_of_other_words_are_not_looked_at(save):
    path = save("the 1 2\nbank 1 x\nlamp 3 4\n")
    assert read_word_vectors(path, ["lamp"]).matrix.tolist() == [[3, 4]]
    with pytest.raises(UserError, match="any:2: 'x' is not a number"):
        read_word_vectors(path, ["bank"])


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_word_vectors(tmp_path / "words.vec")
    with pytest.raises(UserError, match="is a folder"):
        read_word_vectors(tmp_path)
