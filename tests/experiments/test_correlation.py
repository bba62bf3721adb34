from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from tests.experiments.rows import rows_of

from llamavae.errors import UserError
from llamavae.experiments.correlation import correlate


def spearman(x, y):
    return np.asarray(spearmanr(x, y))[0]


@settings(max_examples=10)
@given(st.lists(st.integers(0, 4), min_size=4, max_size=5), st.randoms(use_true_random=False))
def test_correlation_and_exact_p(x, random):
    y = random.sample(range(10), len(x))
    (row,) = correlate(rows_of(MIG=x, BLEU=y), ["MIG"], ["BLEU"])
    if len(set(x)) == 1:
        assert (row["spearman"], row["p"], row["n"]) == (None, None, len(x))
        return
    expected = spearman(x, y)
    assert row["spearman"] == pytest.approx(expected)
    all_of_them = np.array([spearman(p, y) for p in permutations(x)])
    low, high = np.mean(all_of_them <= expected + 1e-9), np.mean(all_of_them >= expected - 1e-9)
    assert row["p"] == pytest.approx(min(1, 2 * min(low, high)))


def test_what_few_models_can_show():
    """As the module says: 5 models can show something, 4 cannot."""
    p = [correlate(rows_of(a=range(n), b=range(n)), ["a"], ["b"])[0]["p"] for n in (4, 5)]
    assert p[1] < 0.05 < p[0]
    nearly = correlate(rows_of(a=range(5), b=[0, 1, 2, 4, 3]), ["a"], ["b"])[0]
    assert nearly["p"] > 0.05


def test_models_with_both_measures_count_and_groups_do_not():
    rows = rows_of(MIG=[1, 2, 3, None, 5], BLEU=[5, 4, 3, 2, None])
    rows += [{**row, "group": "words 1 to 5", "value": 0} for row in rows]
    (row,) = correlate(rows, ["MIG"], ["BLEU"])
    assert (row["spearman"], row["n"]) == (pytest.approx(-1), 3)
    assert correlate(rows[:2] + rows[5:7], ["MIG"], ["BLEU"])[0]["spearman"] is None


def test_many_models_repeat_with_their_seed():
    rng = np.random.default_rng(0)
    rows = rows_of(a=rng.normal(size=20), b=rng.normal(size=20))
    first = correlate(rows, ["a"], ["b"], resamples=200, seed=1)
    assert first == correlate(rows, ["a"], ["b"], resamples=200, seed=1)


def test_the_interval_covers_the_true_correlation_as_often_as_it_says():
    """The rank correlation of Gaussian variables is known, see Bonett and Wright (2000)."""
    rng, r, covered = np.random.default_rng(0), 0.6, []
    true = 6 / np.pi * np.arcsin(r / 2)
    for _ in range(300):
        x = rng.normal(size=30)
        y = r * x + np.sqrt(1 - r**2) * rng.normal(size=30)
        (row,) = correlate(rows_of(a=x, b=y), ["a"], ["b"], resamples=1)
        covered.append(row["low"] <= true <= row["high"])
    assert 0.91 <= np.mean(covered) <= 0.98


def test_the_interval_of_few_models_and_of_a_perfect_correlation():
    three, four = (correlate(rows_of(a=range(n), b=range(n)), ["a"], ["b"])[0] for n in (3, 4))
    assert (three["spearman"], three["low"]) == (pytest.approx(1), None)
    assert (four["low"], four["high"]) == (pytest.approx(1), pytest.approx(1))


def test_rows_that_do_not_fit():
    rows = rows_of(MIG=[1, 2], BLEU=[1, 2])
    with pytest.raises(UserError, match=r"unknown metric 'MG'\. Did you mean 'MIG'"):
        correlate(rows, ["MG"], ["BLEU"])
    with pytest.raises(UserError, match="'m0' has two values of 'MIG'"):
        correlate(rows + rows[:1], ["MIG"], ["BLEU"])
