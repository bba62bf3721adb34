from __future__ import annotations

import numpy as np
import pytest

from llamavae.corpora import factors
from llamavae.errors import UserError
from llamavae.evaluation.analogies import (
    FREE,
    analogy_rows,
    draw_analogies,
    has_factors,
    score_analogies,
)

CORPUS = factors.load(60)
TEXTS = list(CORPUS["text"])
LABELS = {name: list(CORPUS[name]) for name in factors.FACTORS}


def test_analogies_differ_in_exactly_one_factor():
    asked = draw_analogies(TEXTS, FREE, 40)
    assert [each.factor for each in asked] == list(FREE) * 5
    for each in asked:
        a, b, c, answer = (factors.parse(text) or {} for text in each[2:])
        assert each.b in TEXTS
        assert each.c in TEXTS
        assert each.b != each.c
        for one, other in ((a, b), (answer, c)):
            assert [name for name in one if one[name] != other[name]] == [each.factor]
        assert a[each.factor] == answer[each.factor] == each.value
        assert b[each.factor] == c[each.factor]


def test_draws_repeat():
    assert draw_analogies(TEXTS, ["tense"], 5, 1) == draw_analogies(TEXTS, ["tense"], 5, 1)
    assert draw_analogies(TEXTS, ["tense"], 5, 1) != draw_analogies(TEXTS, ["tense"], 5, 2)


def test_scores_by_hand():
    text = "the old baker wrote a letter in the library"
    (analogy,) = draw_analogies([text, text.replace("old", "young")], ["negation"], 1)
    subject = "old" if "old" in analogy.c else "young"
    answer = f"the {subject} baker did not write a letter in the library"
    assert analogy.answer == answer
    predictions = {
        answer: (1, 1, 1),
        analogy.c: (0, 0, 1),
        answer.replace("letter", "poem"): (0, 1, 0.9),
        answer.replace("letter", "dog"): (0, 0, 0),
        "": (0, 0, 0),
    }
    scores = score_analogies([analogy] * 5, list(predictions))
    np.testing.assert_allclose(np.array(scores).T, list(predictions.values()))
    row = analogy_rows([analogy], [answer], score_analogies([analogy], [answer]))[0]
    assert (row["factor"], row["text"], row["exact"], row["kept"]) == ("negation", answer, True, 1)


def test_labels_of_the_grammar_are_recognised():
    assert has_factors(LABELS, TEXTS)
    assert has_factors(LABELS | {"length": [1] * 60}, TEXTS)
    assert not has_factors({"tense": LABELS["tense"]}, TEXTS)
    assert not has_factors(LABELS, [*TEXTS[:-1], "a dog"])
    assert not has_factors(LABELS | {"verb": LABELS["verb"][::-1]}, TEXTS)


def test_what_cannot_be_asked():
    with pytest.raises(UserError, match=r"independent of the others: adjective.*; got 'verb'"):
        draw_analogies(TEXTS, ["verb"], 1)
    with pytest.raises(
        UserError, match="expected a sentence of the grammar 'factors'; got 'a dog'"
    ):
        draw_analogies(["a dog"], ["tense"], 1)
    with pytest.raises(
        UserError, match="expected two sentences with the same tense; found none among 1"
    ):
        draw_analogies(TEXTS[:1], ["tense"], 1)
