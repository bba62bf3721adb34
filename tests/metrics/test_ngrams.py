from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from llamavae.errors import UserError
from llamavae.metrics.metric import AGGREGATES
from llamavae.metrics.ngrams import (
    bleu_1,
    bleu_counts,
    bleu_of_counts,
    chrf_counts,
    chrf_of_counts,
    corpus_bleu,
    distinct_n,
    duplicates,
    exact_match,
    nearest_texts,
    nltk_bleu,
    reference_bleu,
    rouge,
    self_bleu,
    token_f1,
)

TEXTS = st.lists(st.sampled_from(["a", "b", "c,", "d."]), max_size=7).map(" ".join)
SENTENCES = ["a dog is a kind of animal", "the old baker wrote a letter", "she sold the horse"]
WORDS = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=7).map(" ".join),
    min_size=2,
    max_size=6,
)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5)

# ------------------------------------------------------------------------------- BLEU


@settings(max_examples=50)
@given(PAIRS)
def test_bleu_is_sacrebleus(pairs):
    predictions, references = map(list, zip(*pairs, strict=True))
    counts = bleu_counts(predictions, references)
    assert counts.shape == (len(pairs), 10)
    assert (
        bleu_of_counts(counts) == sacrebleu.corpus_bleu(predictions, [references], force=True).score
    )
    for row, text, reference in zip(counts, predictions, references, strict=True):
        single = sacrebleu.sentence_bleu(text, [reference])
        assert bleu_of_counts(row[None], effective_order=True) == single.score
        expected = [single.sys_len, single.ref_len, *single.counts, *single.totals]
        assert row.tolist() == expected


def test_bleu_tokenises_as_sacrebleu_does():
    predictions = ["It's $3.50, isn't it?\n", "a &quot;dog&quot; - 1-2", "  x", "Größe (10 %) "]
    references = ["It's $3,50 isn't it ?", 'a "dog" - 1-2', "x", "größe (10 %)."]
    expected = sacrebleu.corpus_bleu(predictions, [references]).score
    assert bleu_of_counts(bleu_counts(predictions, references)) == expected


@given(TEXTS, TEXTS.filter(bool))
def test_bleu_1_is_nltks(text, reference):
    words = text.split(), reference.split()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk warns where there is no overlap
        expected = sentence_bleu([words[1]], words[0], weights=(1, 0, 0, 0))
    assert bleu_1(text, reference) == pytest.approx(expected, abs=1e-12)


# ------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("a kind of dog", "a kind of dog", 1),
        ("a kind of dog", "a dog of a kind", 2 * 4 / (4 + 5)),
        ("Dog", "dog", 0),  # case counts
        ("a a a", "a", 2 * 1 / (3 + 1)),  # each word as often as both have it
        ("", "dog", 0),
        ("", "", 1),
    ],
)
def test_token_f1(text, reference, expected):
    assert token_f1(text, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [  # what the package rouge-score 0.1.2 says
        ("the cat sat on the mat", "a cat sat, on a Mat!", (2 / 3, 0.4, 2 / 3)),
        ("x y z", "z y x", (1, 0, 1 / 3)),
        ("a b c d e", "a c e b d f", (10 / 11, 0, 6 / 11)),
        ("dog", "dog", (1, 0, 1)),
        ("", "", (0, 0, 0)),
        ("été", "t", (1, 0, 1)),
    ],
)
def test_rouge(text, reference, expected):
    assert rouge(text, reference) == pytest.approx(expected)


def longest(a, b):
    """Length of the longest common subsequence, by its definition."""
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + longest(a[:-1], b[:-1])
    return max(longest(a[:-1], b), longest(a, b[:-1]))


@given(*2 * [st.lists(st.sampled_from("abc"), max_size=6)])
def test_rouge_l_is_the_longest_common_subsequence(a, b):
    expected = 2 * longest(a, b) / max(len(a) + len(b), 1)
    one, two, subsequence = rouge(" ".join(a), " ".join(b))
    assert subsequence == pytest.approx(expected)
    assert two <= 1
    assert subsequence <= one <= 1
    assert one == pytest.approx(token_f1(" ".join(a), " ".join(b))) or not (a or b)


# ------------------------------------------------------------------------------- a corpus


def test_bleu_and_exact_match():
    assert corpus_bleu(SENTENCES, SENTENCES) == pytest.approx(100)
    assert exact_match(SENTENCES, SENTENCES) == 1
    assert corpus_bleu(SENTENCES[1:] + SENTENCES[:1], SENTENCES) < 20
    assert exact_match([f" {SENTENCES[0]} ", "x", ""], SENTENCES) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("texts", "references"), [([""] * 3, SENTENCES), (SENTENCES, [""] * 3)])
def test_bleu_of_empty_texts(texts, references):
    assert corpus_bleu(texts, references) == 0
    assert exact_match(texts, references) == 0


def test_pairs_must_match():
    with pytest.raises(UserError, match="got 3 and 2"):
        corpus_bleu(SENTENCES, SENTENCES[:2])
    with pytest.raises(UserError, match="got 0 and 0"):
        exact_match([], [])


# ------------------------------------------------------------------------------- variety


def test_distinct_n_by_hand():
    texts = ["a b a b", "a b", "", "c"]  # ab ba ab ab
    assert distinct_n(texts, 1) == 3 / 7
    assert distinct_n(texts) == 2 / 4
    assert distinct_n(texts, 4) == 1
    assert distinct_n(["a"], 2) == distinct_n([], 2) == 0


@settings(max_examples=40)
@given(st.lists(TEXTS, min_size=2, max_size=6), st.integers(2, 4))
def test_self_bleu_is_nltks(texts, order):
    words = [text.split() for text in texts]
    smoothing = SmoothingFunction().method1
    expected = [
        sentence_bleu(words[:i] + words[i + 1 :], row, (1 / order,) * order, smoothing)
        for i, row in enumerate(words)
    ]
    assert self_bleu(texts, order).tolist() == pytest.approx(expected)


@settings(max_examples=25)
@given(WORDS, WORDS, st.integers(1, 4))
def test_reference_bleu_is_nltks(texts, references, order):
    smoothing = SmoothingFunction().method1
    words = [reference.split() for reference in references]
    expected = [
        sentence_bleu(words, text.split(), (1 / order,) * order, smoothing) for text in texts
    ]
    assert reference_bleu(texts, references, order).tolist() == pytest.approx(expected)


def test_reference_bleu_at_its_ends():
    assert reference_bleu(SENTENCES, SENTENCES[::-1]).tolist() == pytest.approx([1, 1, 1])
    assert reference_bleu(["", "e f g h"], ["a b c d"]).tolist() == [0, 0]
    with pytest.raises(UserError, match="at least 1 reference"):
        reference_bleu(["a"], [])


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("a kind of big dog", "a kind of big cat", (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25),
        ("a b c d e", "a b c d e f g", math.exp(1 - 7 / 5)),
        ("a b c", "a b c d e", 6.251936247610179e-78),  # no 4-gram and nltk's smallest number
        ("x y z w", "a b c d", 0),
        ("", "a b", 0),
    ],
)
def test_nltk_bleu_has_the_values_of_nltk(prediction, reference, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert sentence_bleu([reference.split()], prediction.split()) == pytest.approx(expected)
    assert nltk_bleu(prediction, reference) == pytest.approx(expected)


def test_self_bleu_at_its_ends():
    assert self_bleu(["a kind of big dog"] * 3).tolist() == pytest.approx([1, 1, 1])
    assert self_bleu(["a b c d", "e f g h", ""]).tolist() == [0, 0, 0]
    with pytest.raises(UserError, match="got 1"):
        self_bleu(["a"])


def test_duplicates():
    assert duplicates(["a b", "a  b", "c", "A b", "c", "c"]) == pytest.approx(3 / 6)
    assert duplicates(["a", "b"]) == 0


# ------------------------------------------------------------------------------- novelty


@settings(max_examples=40)
@given(WORDS, WORDS)
def test_nearest_texts_by_the_definition(texts, training):
    training = ["a e", *training]
    index, alike = nearest_texts(texts, training)
    for i, text in enumerate(texts):
        ours = set(text.split())
        every = []
        for other in training:
            theirs = set(other.split())
            every.append(len(ours & theirs) / max(len(ours | theirs), 1))
        assert alike[i] == pytest.approx(max(every))
        assert index[i] == np.argmax(every)


def test_unknown_words_count():
    index, alike = nearest_texts(["a red dog barks"] * 40, ["robots paint", "a Dog", "a red dog"])
    assert set(index) == {2}
    assert alike == pytest.approx(3 / 4)


UNSEGMENTED = [
    ("一只狗是动物", "一只狗是一种动物"),
    ("犬は動物です", "猫は動物です"),
    ("หมา", "หมาเป็นสัตว์"),
]
SHORT = [("a dog", "a dog"), ("", "a"), ("a", ""), ("dog", "cat"), ("a b", "ab"), ("x", "x y z")]


@pytest.mark.parametrize("pairs", [UNSEGMENTED, SHORT, UNSEGMENTED + SHORT])
def test_chrf_is_that_of_sacrebleu(pairs):
    predictions, references = map(list, zip(*pairs, strict=True))
    ours = chrf_of_counts(chrf_counts(predictions, references))
    assert ours == pytest.approx(sacrebleu.corpus_chrf(predictions, [references]).score)
    for a, b in pairs:
        score = sacrebleu.sentence_chrf(a, [b]).score
        assert chrf_of_counts(chrf_counts([a], [b])) == pytest.approx(score)
    assert AGGREGATES["chrF"](chrf_counts(predictions, references)) == ours
    assert chrf_of_counts(chrf_counts(references, references)) == pytest.approx(100)
