from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from tests import tiny

from llamavae.errors import UserError
from llamavae.guidance.conditions import (
    CONDITIONS,
    Condition,
    EncoderCondition,
    LabelCondition,
    VectorCondition,
    WordVectorCondition,
    load_condition,
    read_column,
)
from llamavae.modeling.loading import load_sentence_encoder

VALUES = {"tense": ["past", "present", "future"], "negation": ["affirmative", "negative"]}


@pytest.fixture(scope="module")
def encoder():
    return load_sentence_encoder(tiny.encoder("bert-mean"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "words.vec"
    path.write_text("4 3\nbank 1 2 3\nriver_bank 4 5 6\ndog 7 8 9\nnowhere 0 0 0\n")
    return path


@pytest.fixture(params=sorted(CONDITIONS))
def case(request, encoder, file):
    """Each condition, with things to ask of it."""
    match request.param:
        case "encoder":
            return EncoderCondition(encoder), ["bank", ("bank", "the bank of a river"), "dog"]
        case "word-vectors":
            return WordVectorCondition(file), ["bank", ("Dog", None), "river bank"]
        case "labels":
            past = {"tense": "past", "negation": "negative"}
            return LabelCondition(VALUES), [past, "negation=negative,tense=future"]
        case _:
            return VectorCondition(3), [[1.0, 2, 3], [4, 5, 6], [0, 0, 0]]


# ------------------------------------------------------------------------------- all conditions


def test_vectors_are_float32_and_each_depends_on_what_is_asked_alone(case):
    condition, asked = case
    c = condition.vectors(asked)
    assert c.dtype == torch.float32
    assert c.device.type == "cpu"
    assert c.shape == (len(asked), condition.dim)
    assert len(torch.unique(c, dim=0)) == len(asked)
    for one, vector in zip(asked, c, strict=True):
        torch.testing.assert_close(condition.vectors([one])[0], vector)
    torch.testing.assert_close(condition.vectors(asked[::-1]), c.flip(0))
    assert condition.vectors([]).shape == (0, condition.dim)


def test_texts_tell_conditions_apart(case):
    condition, asked = case
    texts = [condition.text(one) for one in asked]
    assert all(texts)
    assert len(set(texts)) == len(asked)
    assert all(condition.has(one) for one in asked)


def test_settings_make_it_again(case, encoder):
    condition, asked = case
    settings = json.loads(json.dumps(condition.settings()))
    again = load_condition(settings, encoder)
    assert type(again) is type(condition)
    assert again.settings() == settings
    assert torch.equal(again.vectors(asked), condition.vectors(asked))


def test_registry():
    assert all(issubclass(kind, Condition) for kind in CONDITIONS.values())
    assert [kind.name for kind in CONDITIONS.values()] == list(CONDITIONS)
    with pytest.raises(UserError, match=r"unknown condition 'label'\. Did you mean 'labels'"):
        load_condition({"name": "label"})
    with pytest.raises(UserError, match=r"path= is only for .* is vectors"):
        load_condition({"name": "vectors", "dim": 3}, path="words.vec")


# --------------------------------------------------------------------------------- the encoder


def test_a_word_in_its_context(encoder):
    condition = EncoderCondition(encoder)
    asked = [("bank", "she swam to the bank"), ("bank", None), "bank", ["bank", None]]
    assert condition.text(asked[0]) == "bank: she swam to the bank"
    c = condition.vectors(asked)
    word, there = encoder.encode(["bank", "bank: she swam to the bank"])
    torch.testing.assert_close(c[0], 0.75 * word + 0.25 * there)
    torch.testing.assert_close(c[1:], word.expand(3, -1))


@pytest.mark.parametrize("asked", [7, "", "  ", ("bank",), ("a", "b", "c"), (None, "b"), ("a", 1)])
def test_what_is_no_word(encoder, file, asked):
    for condition in (EncoderCondition(encoder), WordVectorCondition(file)):
        with pytest.raises(UserError, match="expected a word, or a pair of word and sentence"):
            condition.vectors([asked])


def test_a_text_in_place_of_a_list(encoder, file):
    for condition in (EncoderCondition(encoder), WordVectorCondition(file), LabelCondition(VALUES)):
        with pytest.raises(UserError, match=r"expected a list .*\['tense=past'\]"):
            condition.vectors("tense=past")
    with pytest.raises(UserError, match="expected a list"):
        LabelCondition(VALUES).vectors({"tense": "past"})  # type: ignore[arg-type]


def test_an_encoder_that_gives_nan(encoder, monkeypatch):
    broken = torch.tensor([[1.0, 2.0], [0.0, float("inf")]])
    monkeypatch.setattr(encoder, "encode", lambda texts: broken)
    with pytest.raises(UserError, match="vector of 'dog' holds NaN or infinity"):
        EncoderCondition(encoder).vectors(["bank", "dog"])


def test_another_encoder(encoder):
    settings = EncoderCondition(encoder).settings()
    with pytest.raises(UserError, match=r"has no sentence encoder.*as a tensor"):
        load_condition(settings)
    other = load_sentence_encoder(tiny.encoder("sentence-t5"))
    with pytest.raises(UserError, match=f"of size {tiny.HIDDEN}; the encoder has size 24"):
        load_condition(settings, other)


def test_an_encoder_of_its_own(encoder, tmp_path, monkeypatch):
    encoder.save(tmp_path / "reader")
    monkeypatch.chdir(tmp_path)
    condition = EncoderCondition.load("reader")
    settings = json.loads(json.dumps(condition.settings()))
    assert settings["source"] == str(tmp_path / "reader")
    again = load_condition(settings)  # the VAE's encoder, or none, does not matter
    torch.testing.assert_close(again.vectors(["dog"]), encoder.encode(["dog"]))
    (tmp_path / "reader").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"does not exist at .*reader. .*--encoder"):
        load_condition(settings)
    moved = load_condition(settings, path=tmp_path / "moved")
    torch.testing.assert_close(moved.vectors(["dog"]), encoder.encode(["dog"]))
    load_sentence_encoder(tiny.encoder("sentence-t5")).save(tmp_path / "other")
    with pytest.raises(UserError, match=r"other is not the sentence encoder .*reader"):
        load_condition(settings, path=tmp_path / "other")
    with pytest.raises(UserError, match="Omit the path"):
        load_condition(EncoderCondition(encoder).settings(), encoder, path=tmp_path / "moved")


# -------------------------------------------------------------------------------- word vectors


def test_word_vectors(file):
    condition = WordVectorCondition(file)
    assert condition.vectors(["dog", "river bank"]).tolist() == [[7, 8, 9], [4, 5, 6]]
    assert condition.has("BANK")
    assert not condition.has("cat")
    few = WordVectorCondition(file, ["dog"])
    assert few.has("dog")
    assert not few.has("bank")
    assert few.dim == 3


def test_words_without_a_vector(file):
    with pytest.raises(UserError, match=r"2 words without a vector .*: 'cat', 'cow'$"):
        WordVectorCondition(file).vectors(["cat", "dog", "cow", "cat"])
    with pytest.raises(UserError, match=r"7 words .*: '0', '1', '2', '3', '4', \.\.\.$"):
        WordVectorCondition(file).vectors([str(i) for i in range(7)])


def test_word_vectors_know_no_context(file):
    with pytest.raises(UserError, match=r"do not support a context\. Pass 'bank' alone"):
        WordVectorCondition(file).vectors([("bank", "she swam to the bank")])


def test_settings_name_the_file(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    condition = WordVectorCondition("words.vec")
    assert condition.settings() == {
        "name": "word-vectors",
        "path": str(file),
        "bytes": file.stat().st_size,
        "dim": 3,
    }


def test_a_file_that_was_moved(file):
    settings = WordVectorCondition(file).settings()
    moved = file.rename(file.with_name("moved.vec"))
    with pytest.raises(UserError, match=r"do not exist at .*words\.vec.* Pass their new location"):
        load_condition(settings)
    with pytest.raises(UserError, match=r"no such file: .*move\.vec\. Did you mean moved\.vec"):
        load_condition(settings, path=file.with_name("move.vec"))
    again = load_condition(settings, path=moved, words=["dog"])
    assert again.vectors(["dog"]).tolist() == [[7, 8, 9]]
    assert not again.has("bank")


def test_another_file(file):
    settings = WordVectorCondition(file).settings()
    file.write_text(file.read_text().replace("dog", "cats"))
    message = rf"words\.vec is not the file .* {settings['bytes'] + 1} bytes, words\.vec had"
    with pytest.raises(UserError, match=message):
        load_condition(settings)
    with pytest.raises(UserError, match=message):
        load_condition(settings, path=file)


# --------------------------------------------------------------------------------------- labels


def test_labels_are_one_hot():
    condition = LabelCondition(VALUES)
    asked = ["tense=present, negation=negative", {"negation": "affirmative", "tense": "future"}]
    assert condition.vectors(asked).tolist() == [[0, 1, 0, 0, 1], [0, 0, 1, 1, 0]]
    assert [condition.text(one) for one in asked] == [
        "tense=present,negation=negative",
        "tense=future,negation=affirmative",
    ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("tense=past", "expected a value for 'negation', one of affirmative, negative"),
        ({"tense": "past"}, r"Every column needs a value, as in 'tense=past,negation=affirmative'"),
        ("tens=past,negation=negative", "unknown column 'tens'. Did you mean 'tense'"),
        ("tense=pats,negation=negative", "unknown tense 'pats'. Did you mean 'past'"),
        ("past", "expected labels such as 'tense=past,negation=affirmative'; got 'past'"),
        ("tense=past,tense=past", "expected labels such as"),
        (7, "expected labels such as .*; got 7"),
    ],
)
def test_what_are_no_labels(asked, message):
    with pytest.raises(UserError, match=message):
        LabelCondition(VALUES).vectors([asked])


@pytest.mark.parametrize("values", [{}, {"a": []}, {"a": ["x", "x"]}])
def test_values_that_tell_nothing_apart(values):
    with pytest.raises(UserError, match=r"expected (at least one column|distinct values)"):
        LabelCondition(values)


def test_labels_of_a_data_set():
    data = Dataset.from_dict({"text": list("abc"), "tense": ["b", "a", "b"], "stars": [10, 2, 2]})
    condition = LabelCondition.from_rows(data, ["stars", "tense"])
    assert condition.values == {"stars": ["10", "2"], "tense": ["a", "b"]}
    assert condition.vectors([{"stars": 2, "tense": "a"}]).tolist() == [[0, 1, 1, 0]]
    with pytest.raises(UserError, match=r"unknown column 'tenses'\. Did you mean 'tense'"):
        LabelCondition.from_rows(data, ["tenses"])


def test_values_with_commas_and_white_space():
    data = Dataset.from_dict({"topic": ["Arts, Film", " Arts,  Film ", "Sports"], "n": [1, 2, 1]})
    condition = LabelCondition.from_rows(data, ["topic", "n"])
    assert condition.values == {"topic": ["Arts, Film", "Sports"], "n": ["1", "2"]}
    for asked in (
        "topic=Arts, Film, n=2",
        " n=2,topic=Arts,  Film",
        {"topic": "Arts, Film", "n": 2},
    ):
        text = condition.text(asked)
        assert text == "topic=Arts, Film,n=2"
        assert condition.vectors([text]).tolist() == [[1, 0, 0, 1]]
    with pytest.raises(UserError, match="expected labels such as"):
        condition.vectors(["Arts, Film"])


def test_a_column_with_a_gap():
    data = Dataset.from_dict({"tense": ["a", None]})
    with pytest.raises(UserError, match="column 'tense': expected a value in each row; row 2"):
        read_column(data, "tense")


# --------------------------------------------------------------------------------------- numbers


def test_numbers_come_back_as_they_are():
    condition = VectorCondition(2)
    rows = [[1.0, 2.5], [3.0, -4.0]]
    for asked in (rows, np.array(rows), torch.tensor(rows), torch.tensor(rows).bfloat16()):
        c = condition.vectors(asked)
        assert c.dtype == torch.float32
        assert c.tolist() == rows
    assert condition.vectors(torch.empty(0, 2)).shape == (0, 2)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([[1.0, 2.0, 3.0]], "expected conditions of 2 numbers; got rows of 3"),
        ([1.0, 2.0], r"the conditions: expected numbers of shape \(N, C\)"),
        ([[1.0, 2.0], [1.0]], "the conditions: the rows differ in size"),
        ([["a", "b"]], "the conditions: expected numbers"),
        (["dog"], r"got a text, 'dog'. In Python, pass a tensor \(B, 2\)"),
        (torch.tensor([[0.0, 1.0], [0.0, float("nan")]]), "the conditions: row 2 holds NaN"),
    ],
)
def test_what_are_no_conditions(asked, message):
    with pytest.raises(UserError, match=message):
        VectorCondition(2).vectors(asked)


def test_no_numbers():
    with pytest.raises(UserError, match="dim must be at least 1"):
        VectorCondition(0)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_weight_of_the_context_is_kept_with_the_condition(weight):
    encoder = load_sentence_encoder(tiny.encoder("bert-mean"), pooling="mean")
    condition = EncoderCondition(encoder, context_weight=weight)
    again = load_condition(condition.settings(), encoder)
    asked = [("bank", "she swam to the bank")]
    word, there = encoder.encode(["bank", "bank: she swam to the bank"])
    expected = ((1 - weight) * word + weight * there)[None]
    for one in (condition, again):
        torch.testing.assert_close(one.vectors(asked), expected)


def test_settings_without_a_weight_mean_the_vector_in_the_context_alone():
    encoder = load_sentence_encoder(tiny.encoder("bert-mean"), pooling="mean")
    settings = EncoderCondition(encoder).settings()
    del settings["context_weight"]
    assert load_condition(settings, encoder).settings()["context_weight"] == 1


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_bad_weight_of_the_context_is_refused(weight):
    encoder = load_sentence_encoder(tiny.encoder("bert-mean"), pooling="mean")
    with pytest.raises(UserError, match="context_weight must be between 0 and 1"):
        EncoderCondition(encoder, context_weight=weight)
