from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats
from tests import tiny

from llamavae.errors import UserError
from llamavae.metrics.bootstrap import (
    bootstrap_interval,
    bootstrap_sums,
    paired_bootstrap,
    percentile_interval,
)


def mean_of(values):
    return lambda items: values[items].mean()


def normal(n, seed=0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, size=n)


# ------------------------------------------------------------------------------- intervals


def test_interval_is_scipys():
    values = normal(200)
    low, high = bootstrap_interval(mean_of(values), 200, resamples=4000)
    expected = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1)
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.01)
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.01)


def test_interval_holds_the_truth_about_95_times_in_100():
    held = 0
    for seed in range(200):
        low, high = bootstrap_interval(mean_of(normal(50, seed)), 50, resamples=300, seed=seed)
        held += low <= 0 <= high
    assert 180 <= held <= 199


def test_interval_is_the_same_each_time_and_of_the_seed():
    values = normal(20)
    first = bootstrap_interval(mean_of(values), 20)
    assert bootstrap_interval(mean_of(values), 20) == first
    assert bootstrap_interval(mean_of(values), 20, seed=1) != first


def test_interval_of_equal_items_is_a_point():
    assert bootstrap_interval(mean_of(np.full(7, 0.5)), 7) == (0.5, 0.5)


@pytest.mark.parametrize(("n", "resamples"), [(0, 10), (10, 0)])
def test_nothing_to_draw(n, resamples):
    with pytest.raises(UserError, match=f"got {n} and {resamples}"):
        bootstrap_interval(mean_of(normal(10)), n, resamples=resamples)
    with pytest.raises(UserError, match=f"got {n} and {resamples}"):
        bootstrap_sums(np.ones((n, 1)), resamples=resamples)


# ------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("seed", [0, 5])
def test_sums_are_of_the_same_draws_as_intervals(seed):
    values = np.stack([normal(30), normal(30, 1), np.arange(30)], 1)
    sums = bootstrap_sums(values, resamples=200, seed=seed)
    assert sums.shape == (200, 3)
    for column, each in zip(sums.T, values.T, strict=True):
        expected = bootstrap_interval(mean_of(each), 30, resamples=200, seed=seed)
        assert percentile_interval(column / 30) == pytest.approx(expected)
    ratio = bootstrap_interval(
        lambda i: values[i, 0].sum() / values[i, 2].sum(), 30, resamples=200, seed=seed
    )
    assert percentile_interval(sums[:, 0] / sums[:, 2]) == pytest.approx(ratio)


def test_sums_of_counts_are_whole():
    sums = bootstrap_sums(np.full((9, 2), 7), resamples=5)
    assert (sums == 63).all()


# ------------------------------------------------------------------------------- differences


@pytest.mark.parametrize("shift", [0.05, 0.15, 0.3])
def test_p_is_that_of_the_paired_t_test(shift):
    a, b = normal(300, 1, shift) + normal(300, 2), normal(300, 1)
    found = paired_bootstrap(mean_of(a), mean_of(b), 300, resamples=4000)
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval()
    assert found.value == pytest.approx((a - b).mean())
    assert found.p == pytest.approx(expected.pvalue, abs=0.03)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.02)


def test_p_of_bleu_is_twice_that_of_sacrebleu():
    rng = np.random.default_rng(0)
    words = " ".join(tiny.SENTENCES).split()
    references = [" ".join(rng.choice(words, 8)) for _ in range(120)]

    def predictions(changed):
        texts = [text.split() for text in references]
        for text in texts:
            text[5] = "fish" if rng.random() < changed else text[5]
        return [" ".join(text) for text in texts]

    systems = {"a": predictions(0.5), "b": predictions(0.4)}
    bleu = BLEU()
    test = PairedTest(list(systems.items()), {"BLEU": bleu}, [references], "bs", 4000)
    theirs: Any = test()[1]["BLEU"][1]
    assert 0.005 < theirs.p_value < 0.2

    def corpus_bleu(texts):
        counts = np.array(BLEU()._extract_corpus_statistics(texts, [references]))
        return lambda items: bleu._compute_score_from_stats(counts[items].sum(0)).score

    a, b = (corpus_bleu(texts) for texts in systems.values())
    found = paired_bootstrap(a, b, 120, resamples=4000)
    assert found.p == pytest.approx(2 * theirs.p_value, abs=0.05)  # theirs has no fixed seed
    assert found.p == paired_bootstrap(b, a, 120, resamples=4000).p


def test_a_system_does_not_differ_from_itself():
    values = normal(50)
    assert paired_bootstrap(mean_of(values), mean_of(values), 50) == (0, 0, 0, 1)


def test_a_sure_difference():
    values = normal(50)
    found = paired_bootstrap(mean_of(values + 1), mean_of(values), 50, resamples=99)
    assert found.value == pytest.approx(1)
    assert (found.low, found.high) == pytest.approx((1, 1))
    assert found.p == 0.01
