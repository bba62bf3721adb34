from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu import corpus_bleu

from llamavae.corpora import factors
from llamavae.errors import UserError

TEXT, LABELS = factors.generate(0)
WORDS = [*TEXT.split(), "an", "bakers", "write", "did", "not", "letters"]


@given(st.integers(0, factors.SIZE - 1))
def test_parse_is_the_inverse_of_generate(index):
    text, labels = factors.generate(index)
    assert list(labels) == list(factors.FACTORS)
    assert factors.realise(labels) == text
    assert factors.parse(text) == labels


def test_no_sentence_comes_from_two_indices():
    texts = [factors.generate(index)[0] for index in range(0, factors.SIZE, 101)]
    assert len(set(texts)) == len(texts)


def test_every_value_occurs_and_parses():
    seen = {name: set() for name in factors.FACTORS}
    for index in random.Random(0).sample(range(factors.SIZE), 5_000):
        text, labels = factors.generate(index)
        assert factors.parse(text) == labels
        assert 6 <= len(text.split()) <= 14
        assert text == text.lower()
        for name, value in labels.items():
            seen[name].add(value)
    assert seen == {name: set(values) for name, values in factors.FACTORS.items()}


def test_content_words_never_collide():
    """A word has one role, so that reading a label off a sentence needs no context."""
    for nouns in (factors._SUBJECTS, factors._OBJECTS):
        assert len({*nouns, *nouns.values()}) == 2 * len(nouns)
    for verb, (third, past, objects, places) in factors._VERBS.items():
        assert len({verb, third, past}) == 3
        assert len(set(objects)) == len(set(objects) & set(factors._OBJECTS)) == 4
        assert len(set(places)) == len(set(places) & set(factors._PLACES)) == 3


def test_no_factor_is_given_away_by_another():
    """Each object goes with several verbs, each place too."""
    for position in (2, 3):
        used = list(itertools.chain(*(entry[position] for entry in factors._VERBS.values())))
        assert all(used.count(value) >= 2 for value in set(used))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "the old baker wrote a letter in the library"),
        ({"tense": "present"}, "the old baker writes a letter in the library"),
        ({"tense": "present", "number": "plural"}, "the old bakers write a letter in the library"),
        (
            {"tense": "future", "negation": "negative"},
            "the old baker will not write a letter in the library",
        ),
        ({"negation": "negative"}, "the old baker did not write a letter in the library"),
        (
            {"negation": "negative", "tense": "present"},
            "the old baker does not write a letter in the library",
        ),
        (
            {"negation": "negative", "tense": "present", "number": "plural", "subject": "woman"},
            "the old women do not write a letter in the library",
        ),
        (
            {"definiteness": "indefinite", "object_number": "plural"},
            "an old baker wrote letters in the library",
        ),
        (
            {"definiteness": "indefinite", "adjective": "honest", "order": "place_first"},
            "in the library an honest baker wrote a letter",
        ),
        (
            {"definiteness": "indefinite", "adjective": "tall", "number": "plural"},
            "tall bakers wrote a letter in the library",
        ),
        (
            {"verb": "eat", "object": "egg", "place": "kitchen"},
            "the old baker ate an egg in the kitchen",
        ),
        (
            {"verb": "carry", "object": "box", "place": "beach", "tense": "present"},
            "the old baker carries a box on the beach",
        ),
    ],
)
def test_agreement(changes, text):
    assert factors.realise(LABELS | changes) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the old baker",
        "the old baker wrote a letter in the kitchen",  # not a place to write
        "the old baker ate a letter in the library",  # not an object to eat
        "the old bakers writes a letter in the library",
        "a old baker wrote a letter in the library",
        "an old bakers wrote a letter in the library",
        "the old baker wrote an letter in the library",
        "the old baker wrote letter in the library",
        "the old baker wrote a letter at the library",
        "The old baker wrote a letter in the library",
        "the old baker wrote a letter in the library.",
        "the green baker wrote a letter in the library",
        "a b c d e f g h",
    ],
)
def test_other_texts_are_not_parsed(text):
    assert factors.parse(text) is None


def test_white_space_does_not_count():
    assert factors.parse(" the old  baker wrote a letter in the library\n") == LABELS


@given(st.text())
def test_parse_takes_any_text(text):
    assert factors.parse(text) is None


@given(st.lists(st.sampled_from(WORDS)))
def test_whatever_parses_is_a_sentence(words):
    labels = factors.parse(" ".join(words))
    assert labels is None or factors.realise(labels) == " ".join(words)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verb": "wriet"}, "unknown verb 'wriet'. Did you mean 'write'"),
        ({"object": "boat"}, "'write' does not take the object 'boat'"),
        ({"place": "barn"}, "'write' does not take the place 'barn'"),
    ],
)
def test_realise_refuses(changes, message):
    with pytest.raises(UserError, match=message):
        factors.realise(LABELS | changes)


def test_realise_names_the_missing_factor():
    with pytest.raises(UserError, match="lack the factor 'place'"):
        factors.realise({k: v for k, v in LABELS.items() if k != "place"})


@pytest.mark.parametrize("index", [-1, factors.SIZE])
def test_index_out_of_range(index):
    with pytest.raises(UserError, match="does not exist"):
        factors.generate(index)


def test_load():
    data = factors.load(500, seed=3)
    assert data.column_names == ["text", *factors.FACTORS]
    assert len(set(data["text"])) == 500
    assert data[7] == factors.load(500, seed=3)[7]
    assert data[7] != factors.load(500, seed=4)[7]
    assert factors.parse(data[0]["text"]) == {name: data[0][name] for name in factors.FACTORS}
    with pytest.raises(UserError, match="size must be"):
        factors.load(0)


def test_random_sentences_share_little():
    """Reconstruction BLEU means something only when two random sentences score low."""
    texts = list(factors.load(4_000)["text"])
    assert corpus_bleu(texts[:2_000], [texts[2_000:]]).score <= 12
    starts = Counter(" ".join(text.split()[:3]) for text in texts)
    assert max(starts.values()) < 0.1 * len(texts)
