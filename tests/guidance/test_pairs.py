from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from tests import tiny

from llamavae.errors import UserError
from llamavae.guidance.conditions import (
    EncoderCondition,
    LabelCondition,
    VectorCondition,
    WordVectorCondition,
)
from llamavae.guidance.pairs import Pairs, make_pairs
from llamavae.modeling.loading import load_sentence_encoder

TEXTS = ["a lender", "a lamp", "a slope", "an animal", "a small lamp"]
ROWS = {
    "text": TEXTS,
    "word": ["bank", "glim", "bank", "dog", "glim"],
    "context": [None, "she lit the glim", "the bank of a river", None, None],
    "tense": ["past", "past", "future", "past", "future"],
    "stars": [1, 2, 1, 1, 2],
    "sgns": [[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [5.0, 6.0], [3.0, 4.0]],
}


@pytest.fixture
def data():
    return Dataset.from_dict(ROWS)


@pytest.fixture(scope="module")
def encoder():
    return load_sentence_encoder(tiny.encoder("bert-mean"))


@pytest.fixture
def words(tmp_path):
    (tmp_path / "words.vec").write_text("bank 1 2 3\ndog 4 5 6\n")
    return WordVectorCondition(tmp_path / "words.vec")


def test_words(data, encoder, monkeypatch):
    condition, encoded = EncoderCondition(encoder), []
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda texts: encoded.append(texts) or encode(texts))
    pairs = make_pairs(data, condition, progress=False)
    assert pairs.texts == TEXTS
    assert pairs.names == ROWS["word"]
    assert pairs.skipped == {}
    torch.testing.assert_close(pairs.conditions, condition.vectors(ROWS["word"]))
    assert encoded[0] == ["bank", "glim", "dog"]  # each once
    make_pairs(data, condition, progress=False)
    assert len(encoded) == 2  # the second time from the cache; one more by `condition` above


def test_words_in_their_context(data, encoder):
    condition = EncoderCondition(encoder)
    pairs = make_pairs(data, condition, context="context")
    assert pairs.names == [
        "bank",
        "glim: she lit the glim",
        "bank: the bank of a river",
        "dog",
        "glim",
    ]
    asked = list(zip(ROWS["word"], ROWS["context"], strict=True))
    torch.testing.assert_close(pairs.conditions, condition.vectors(asked))
    assert pairs.words == asked
    assert pairs.select([2, 0]).words == [asked[2], asked[0]]


def test_words_in_their_context_and_alone(data, encoder):
    condition = EncoderCondition(encoder)
    once = make_pairs(data, condition, context="context")
    both = make_pairs(data, condition, context="context", also_alone=True)
    assert both.texts == [*once.texts, "a lamp", "a slope"]
    assert both.names == [*once.names, "glim", "bank"]
    torch.testing.assert_close(both.conditions[5:], condition.vectors(["glim", "bank"]))
    assert both.words[5:] == ["glim", "bank"]
    alone = make_pairs(data, condition, also_alone=True)
    assert alone.names == ROWS["word"]  # there is nothing but the word


def test_words_without_a_vector_are_left_out(data, words, caplog):
    with caplog.at_level(logging.WARNING):
        pairs = make_pairs(data, words)
    assert pairs.texts == ["a lender", "a slope", "an animal"]
    assert pairs.names == pairs.words == ["bank", "bank", "dog"]
    assert pairs.conditions.tolist() == [[1, 2, 3], [1, 2, 3], [4, 5, 6]]
    assert pairs.skipped == {"glim": 2}
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 5 rows skipped: no vector for 1 word, such as 'glim'"
    ]


def test_another_column_of_words(data, words):
    renamed = data.rename_column("word", "lemma")
    assert make_pairs(renamed, words, word="lemma").names == ["bank", "bank", "dog"]


def test_labels(data):
    condition = LabelCondition.from_rows(data, ["tense", "stars"])
    pairs = make_pairs(data, condition)
    assert pairs.names[:2] == ["tense=past,stars=1", "tense=past,stars=2"]
    assert pairs.words == pairs.names
    assert pairs.conditions.tolist() == [
        [0, 1, 1, 0],
        [0, 1, 0, 1],
        [1, 0, 1, 0],
        [0, 1, 1, 0],
        [1, 0, 0, 1],
    ]


def test_vectors_of_a_column(data):
    # rows in another order, so that what is read is not simply the file
    pairs = make_pairs(data.select([3, 0, 1]), VectorCondition(2), vectors="sgns")
    assert pairs.conditions.tolist() == [[5, 6], [1, 2], [3, 4]]
    assert pairs.texts == ["an animal", "a lender", "a lamp"]
    assert pairs.names == ["dog", "bank", "glim"]


def test_vectors_of_an_array(data):
    array = np.arange(15.0).reshape(5, 3)
    pairs = make_pairs(data.remove_columns("word"), VectorCondition(3), vectors=array)
    assert pairs.conditions.tolist() == array.tolist()
    assert pairs.conditions.dtype == torch.float32
    assert pairs.names == [f"row {i}" for i in range(1, 6)]


def test_select(data, words):
    pairs = make_pairs(data, words)
    some = pairs.select([2, 0, 0])
    assert (some.texts, some.names) == (
        ["an animal", "a lender", "a lender"],
        ["dog"] + ["bank"] * 2,
    )
    assert some.conditions.tolist() == [[4, 5, 6], [1, 2, 3], [1, 2, 3]]
    assert some.skipped == pairs.skipped
    assert (len(pairs), len(some), len(pairs.select([]))) == (3, 3, 0)
    masked = pairs.select(torch.tensor([False, True, False]))
    assert masked.texts == ["a slope"]


def test_parts_that_do_not_fit():
    with pytest.raises(UserError, match=r"got 1 texts, conditions \(2, 3\) and 1 names"):
        Pairs(["a"], torch.zeros(2, 3), ["a"])
    with pytest.raises(UserError, match=r"conditions \(N, C\)"):
        Pairs(["a"], torch.zeros(1), ["a"])
    with pytest.raises(UserError, match="expected 1 words; got 2"):
        Pairs(["a"], torch.zeros(1, 3), ["a"], words=["a", "b"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"word": "wrd"}, "unknown column 'wrd'. Did you mean 'word'"),
        ({"context": "contxt"}, "unknown column 'contxt'. Did you mean 'context'"),
        ({"word": "context"}, "column 'context': expected a value in each row; row 1 has none"),
        ({"word": "stars"}, "expected a word, or a pair of word and sentence; got 1"),
        ({"context": "context"}, "word vectors do not support a context. Pass 'glim' alone"),
        ({"vectors": "sgns"}, "is required for a VectorCondition, and only for it"),
    ],
)
def test_wrong_words(data, words, options, message):
    with pytest.raises(UserError, match=message):
        make_pairs(data, words, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"vectors= \(a column of data, or an array\) is required"),
        ({"vectors": "sgn"}, "unknown column 'sgn'. Did you mean 'sgns'"),
        ({"vectors": "stars"}, "column 'stars': expected a list of numbers per row"),
        ({"vectors": "sgns", "context": "context"}, "of type vectors does not support a context"),
        ({"vectors": np.zeros((3, 2))}, "expected one vector per row; got 3 for 5 rows"),
        ({"vectors": np.full((5, 2), np.nan)}, r"row 1 \(and 4 more\) holds NaN"),
        ({"vectors": np.zeros((5, 7))}, "expected conditions of 2 numbers; got rows of 7"),
    ],
)
def test_wrong_vectors(data, options, message):
    with pytest.raises(UserError, match=message):
        make_pairs(data, VectorCondition(2), **options)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 2.0], [3.0]], r"column 'v': row 2 has 1 number; expected 2"),
        ([[1.0, 2.0], None], r"column 'v': row 2 has 0 numbers"),
        ([[1.0, 2.0], [3.0, float("nan")]], "column 'v': row 2 holds NaN"),
    ],
)
def test_wrong_rows(rows, message):
    data = Dataset.from_dict({"text": ["a", "b"], "v": rows})
    with pytest.raises(UserError, match=message):
        make_pairs(data, VectorCondition(2), vectors="v")


def test_wrong_labels(data):
    with pytest.raises(UserError, match="unknown column 'tenses'"):
        make_pairs(data, LabelCondition({"tenses": ["past"]}))
    with pytest.raises(UserError, match="unknown tense 'future'"):
        make_pairs(data, LabelCondition({"tense": ["past"]}))
    with pytest.raises(UserError, match="of type labels does not support a context"):
        make_pairs(data, LabelCondition({"tense": ["past", "future"]}), context="context")


def test_nothing_left(data, words):
    with pytest.raises(UserError, match=r"none is left\. 2 of 2 rows skipped.*'glim'"):
        make_pairs(data.select([1, 4]), words)
    with pytest.raises(UserError, match="at least one row"):
        make_pairs(data.select([]), words)
    with pytest.raises(UserError, match="unknown column 'text'"):
        make_pairs(data.rename_column("text", "gloss"), words)
