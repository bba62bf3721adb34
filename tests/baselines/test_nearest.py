from __future__ import annotations

import pytest
import torch

from llamavae.baselines import NearestNeighbour
from llamavae.errors import UserError
from llamavae.guidance.conditions import WordVectorCondition
from llamavae.guidance.pairs import Pairs

VECTORS = {"up": (0, 2), "right": (1, 0), "left": (-3, 0), "slope": (2, 1), "steep": (1, 3)}
TRAINING = [
    ("right", "towards the east"),
    ("up", "away from the ground"),
    ("right", "not wrong"),
    ("left", "towards the west"),
    ("slope", "towards the east"),
]


@pytest.fixture(scope="module")
def condition(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "vectors.txt"
    path.write_text("".join(f"{word} {x} {y}\n" for word, (x, y) in VECTORS.items()))
    return WordVectorCondition(path)


@pytest.fixture(scope="module")
def baseline(condition):
    words, texts = map(list, zip(*TRAINING, strict=True))
    return NearestNeighbour(condition, Pairs(texts, condition.vectors(words), words))


def test_the_text_of_the_highest_cosine(baseline):
    """Cosines of "steep" are 0.95 with up, 0.71 with slope, 0.32 with right, -0.32 with left."""
    assert baseline.generate(["steep", "left"]) == ["away from the ground", "towards the west"]


def test_several_are_different_and_best_first(baseline):
    """A text of two words counts once; the texts of one word keep their order."""
    assert baseline.generate(["steep", "right"], n=4) == [
        "away from the ground",
        "towards the east",
        "not wrong",
        "towards the west",
        "towards the east",
        "not wrong",
        "away from the ground",
        "towards the west",
    ]


def test_length_does_not_count(baseline, condition):
    c = condition.vectors(["steep", "left", "up"])
    assert baseline.generate(c * 100, n=2) == baseline.generate(c / 100, n=2)


def test_vectors_answer_like_their_words_in_any_number(baseline, condition):
    words = ["steep", "left", "up"] * 50
    alone = [text for word in words for text in baseline.generate([word], n=2)]
    assert baseline.generate(words, n=2) == alone
    assert baseline.generate(condition.vectors(words), n=2) == alone


def test_what_draws_and_decodes_is_ignored(baseline):
    state = torch.get_rng_state()
    with_all = baseline.generate(["steep"], spread=9.0, seed=3, max_new_tokens=1)
    assert with_all == baseline.generate(["steep"])
    assert torch.equal(state, torch.get_rng_state())


def test_nothing_asked(baseline):
    assert baseline.generate([], n=3) == []
    assert baseline.generate(torch.empty(0, 2), n=3) == []


def test_mistakes(baseline, condition):
    with pytest.raises(UserError, match=r"at most 4, .*; got 5"):
        baseline.generate(["steep"], n=5)
    with pytest.raises(UserError, match="n must be at least 1; got 0"):
        baseline.generate(["steep"], n=0)
    with pytest.raises(UserError, match=r"\(B, 2\); got \(1, 3\)"):
        baseline.generate(torch.ones(1, 3))
    with pytest.raises(UserError, match="NaN"):
        baseline.generate(torch.full((1, 2), torch.nan))
    with pytest.raises(UserError, match="'sideways'"):
        baseline.generate(["sideways"])
    for wrong in (Pairs([], torch.empty(0, 2), []), Pairs(["a"], torch.ones(1, 3), ["a"])):
        with pytest.raises(UserError, match=r"shape \(N, 2\); got"):
            NearestNeighbour(condition, wrong)
