from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from llamavae.errors import UserError
from llamavae.metrics.probes import (
    GRID,
    Split,
    cross_validate,
    fit_probe,
    random_labels,
    split_texts,
)

SPLIT = Split(np.arange(0, 120), np.arange(120, 160), np.arange(160, 200))


def noisy(n=200, d=4, noise=0.7, seed=0):
    """Points of three classes that overlap."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n)
    z = rng.normal(size=(n, d)) * [1, 10, 100, 0.01] + 3
    z[:, 1] += 10 * labels + noise * rng.normal(size=n)
    return z, labels.tolist()


# ------------------------------------------------------------------------------- SentEval's way


def test_cross_validation_is_that_of_senteval():
    """The protocol of SentEval's InnerKFoldClassifier, step by step, with scikit-learn."""
    z, labels = noisy(60, noise=9)
    z = z / 10
    y = np.array(labels)
    folds = StratifiedKFold(2, shuffle=True, random_state=5)
    accuracies, strengths = [], []
    for train, test in folds.split(z, y):
        scores = []
        for c in GRID:
            inner = []
            for fitted, held_out in folds.split(z[train], y[train]):
                model = LogisticRegression(C=c).fit(z[train][fitted], y[train][fitted])
                inner.append(model.score(z[train][held_out], y[train][held_out]))
            scores.append(round(100 * float(np.mean(inner)), 2))
        strengths.append(GRID[int(np.argmax(scores))])
        model = LogisticRegression(C=strengths[-1]).fit(z[train], y[train])
        accuracies.append(model.score(z[test], y[test]))
    found = cross_validate(z, labels, folds=2, seed=5)
    assert found.strengths == tuple(strengths)
    assert len(set(strengths)) > 1  # the choice matters
    for fold, accuracy in enumerate(accuracies):
        assert found.correct[found.folds == fold].mean() == pytest.approx(accuracy)
    assert found.weighted().mean() == pytest.approx(np.mean(accuracies))
    assert 0.4 < np.mean(accuracies) < 0.95
    assert found.majority == np.bincount(y).max() / len(y)


def test_cross_validation_needs_enough_of_each_label():
    z = np.ones((20, 2))
    for labels in (["a"] * 20, ["a"] * 17 + ["b"] * 3):
        with pytest.raises(UserError, match="at least 2 labels with 5 sentences each for 3 folds"):
            cross_validate(z, labels, folds=3)


# ------------------------------------------------------------------------------- a probe


def test_probe_is_the_best_pipeline_of_scikit_learn():
    z, labels = noisy()
    y = np.array(labels)
    scores = []
    for c in GRID:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=200))
        model.fit(z[SPLIT.train], y[SPLIT.train])
        right = model.predict(z[SPLIT.test]) == y[SPLIT.test]
        scores.append((model.score(z[SPLIT.validation], y[SPLIT.validation]), -c, right.tolist()))
    expected = max(scores)
    probe = fit_probe(z, labels, SPLIT)
    assert probe.strength == -expected[1]
    assert probe.correct.tolist() == expected[2]
    assert probe.converged


def test_majority_is_that_of_the_training_part():
    labels = ["a"] * 100 + ["b"] * 20 + ["b"] * 40 + ["b"] * 30 + ["a"] * 10
    z = np.random.default_rng(0).normal(size=(200, 2))
    probe = fit_probe(z, labels, SPLIT)
    assert probe.majority.tolist() == [False] * 30 + [True] * 10


def test_the_test_part_does_not_matter_for_the_fit():
    z, labels = noisy()
    other = z.copy()
    other[SPLIT.test[20:]] *= 1e6
    a, b = fit_probe(z, labels, SPLIT), fit_probe(other, labels, SPLIT)
    assert a.strength == b.strength
    assert (a.correct[:20] == b.correct[:20]).all()


def test_planted_label_is_read_and_a_random_one_is_not():
    z, labels = noisy(noise=0.01)
    probe = fit_probe(np.hstack([z, np.eye(3)[labels]]), labels, SPLIT)
    assert probe.correct.all()
    random = np.random.default_rng(1).integers(3, size=200).tolist()
    assert fit_probe(z, random, SPLIT).correct.mean() < 0.55


def test_a_solver_that_does_not_end_is_reported(monkeypatch):
    monkeypatch.setattr("llamavae.metrics.probes._ITERATIONS", 2)
    assert not fit_probe(*noisy(), SPLIT).converged


def test_a_label_that_is_not_in_the_training_part():
    z, labels = noisy()
    probe = fit_probe(z, [*labels[:199], 7], SPLIT)
    assert not probe.correct[-1]
    with pytest.raises(UserError, match="at least 2 distinct labels"):
        fit_probe(z, [0] * 120 + labels[120:], SPLIT)


def test_points_that_are_all_the_same():
    probe = fit_probe(np.ones((200, 3)), noisy()[1], SPLIT)
    assert (probe.correct == probe.majority).all()


# ------------------------------------------------------------------------------- labels and splits


@given(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=30), st.integers(0, 9))
def test_random_labels_belong_to_the_sentence(texts, seed):
    labels = random_labels(texts, list(range(len(texts))), seed)
    assert len(set(zip(texts, labels, strict=True))) == len(set(texts))
    assert set(labels) <= set(range(len(texts)))


def test_random_labels_keep_their_shares():
    labels = ["a"] * 30 + ["b"] * 10
    random = random_labels([str(i) for i in range(40)], labels, 3)
    assert random != labels
    assert sorted(random) == labels  # type: ignore[type-var]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=80), st.integers(0, 9))
def test_split(numbers, seed):
    texts = [str(n) for n in numbers]
    n = len(set(texts))
    if n < 5:
        with pytest.raises(UserError, match="at least 5 distinct"):
            split_texts(texts, seed)
        return
    split = split_texts(texts, seed)
    parts = [split.train, split.validation, split.test]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(texts)))
    different = [{texts[i] for i in part} for part in parts]
    assert sum(map(len, different)) == n  # none is in two parts
    assert [len(part) for part in different] == pytest.approx([0.6 * n, 0.2 * n, 0.2 * n], abs=1)
