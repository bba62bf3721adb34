from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import cdist
from tests import tiny

from llamavae.errors import UserError
from llamavae.metrics.smoothness import SentenceAngle, WordMover, smoothness

PLANE = {"a": [0.0, 0.0], "b": [3.0, 4.0], "c": [0.0, 8.0], "d": [1.0, 0.0]}


def in_the_plane(tokens):
    return torch.tensor([PLANE[token] for token in tokens])


mover = WordMover(str.split, in_the_plane)
words = st.lists(st.sampled_from(list(PLANE)), max_size=4).map(" ".join)


# ------------------------------------------------------------------------------- smoothness


def numbers(texts, others):
    return np.array([abs(float(a) - float(b)) for a, b in zip(texts, others, strict=True)])


def test_smoothness_by_hand():
    straight, back, nowhere, still, kept = ["024", "0424", "020", "000", "02224"]
    paths = [list(path) for path in (straight, back, nowhere, still, kept)]
    assert smoothness(paths, numbers).tolist() == [1, 4 / 8, 0, 0, 1]


@given(st.lists(st.lists(words, min_size=2, max_size=5), min_size=1, max_size=4))
def test_a_metric_keeps_it_below_1(paths):
    found = smoothness(paths, mover)
    assert ((found >= 0) & (found <= 1 + 1e-9)).all()


def test_paths_that_are_none():
    for paths in ([], [["a"]]):
        with pytest.raises(UserError, match="at least 2 texts"):
            smoothness(paths, mover)


# ------------------------------------------------------------------------------- word mover's


def test_word_mover_by_hand():
    # one word to one; both words of the second text get half of the first; the best of two ways
    assert mover(["a", "a", "a b"], ["b", "b c", "b a"]) == pytest.approx([5, (5 + 8) / 2, 0])
    # "a a b" has two thirds of a: a third of it moves to b
    assert mover(["a a b"], ["a b b"]) == pytest.approx([5 / 3])
    assert mover(["", ""], ["b", ""]) == pytest.approx([5, 0])
    assert mover([""], [""]).tolist() == [0]


@given(st.permutations("abcd"), st.permutations("dcba"), st.integers(1, 4))
def test_word_mover_of_different_words_is_the_best_assignment(ours, theirs, n):
    a, b = ours[:n], theirs[:n]
    cost = torch.cdist(in_the_plane(a), in_the_plane(b)).numpy()
    best = cost[linear_sum_assignment(cost)].mean()
    assert mover([" ".join(a)], [" ".join(b)]) == pytest.approx([best], abs=1e-6)


@given(words, words, words)
def test_word_mover_is_a_metric(a, b, c):
    ab, ba, bc, ac, aa = mover([a, b, b, a, a], [b, a, c, c, a])
    assert aa == 0
    assert ab == pytest.approx(ba, abs=1e-9)
    assert ac <= ab + bc + 1e-9


def test_word_mover_of_a_model_takes_its_input_embeddings():
    decoder = tiny.text_decoder()
    distance = WordMover.of_model(decoder.lm, decoder.tokenizer)
    texts = ["a dog", "a river"]
    ids = [decoder.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    a, b = (decoder.embeddings.weight.detach()[torch.tensor(row)] for row in ids)
    cost = torch.cdist(a, b).numpy()
    assert len(set(ids[0])) == len(set(ids[1])) == len(a) == len(b)
    expected = cost[linear_sum_assignment(cost)].mean()
    assert distance([texts[0]], [texts[1]]) == pytest.approx([expected], rel=1e-5)


def earth_mover(a, b, cost):
    """The minimum of a linear program; a and b are weights."""
    rows = np.kron(np.eye(len(a)), np.ones(len(b)))
    columns = np.kron(np.ones(len(a)), np.eye(len(b)))
    found = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b]))
    return found.fun


VECTORS = {
    word: np.random.default_rng(i).normal(size=4)
    for i, word in enumerate(["owl", "reads", "letter", "baker", "sold"])
}


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("The owl reads a letter", "the baker sold the owl"),
        ("owl owl letter", "baker reads unknown owl"),
        ("Owl", "owl"),
    ],
)
def test_word_mover_of_words_is_that_of_a_linear_program(text, other):
    bags = []
    for each in (text, other):
        words = [word for word in each.lower().split() if word in VECTORS]
        kinds = sorted(set(words))
        units = [VECTORS[word] / np.linalg.norm(VECTORS[word]) for word in kinds]
        bags.append((np.array([words.count(word) / len(words) for word in kinds]), units))
    (a, first), (b, second) = bags
    expected = earth_mover(a, b, cdist(first, second))
    [found] = WordMover.of_words(VECTORS.get)([text], [other])
    assert found == pytest.approx(expected, abs=1e-9)


def test_a_text_without_known_words_is_empty():
    distance = WordMover.of_words(VECTORS.get)
    assert distance(["of the", "unknown"], ["what is", "owl"]).tolist() == pytest.approx([0, 1])


# ------------------------------------------------------------------------------- angle


def test_angle_by_hand():
    vectors = {"east": [2.0, 0.0], "north": [0.0, 1.0], "west": [-3.0, 0.0], "near": [1.0, 1e-7]}
    angle = SentenceAngle(lambda texts: torch.tensor([vectors[t] for t in texts]))
    found = angle(["east", "east", "east", "east"], ["north", "west", "east", "near"])
    assert found == pytest.approx([np.pi / 2, np.pi, 0, 1e-7], rel=1e-5)


def test_an_arc_is_smooth_however_many_steps_it_has():
    def on_the_circle(texts):
        return torch.tensor([[np.cos(float(t)), np.sin(float(t))] for t in texts])

    for steps in (3, 30):
        path = [str(t) for t in np.linspace(0, 2, steps)]
        assert smoothness([path], SentenceAngle(on_the_circle)) == pytest.approx([1])
