from __future__ import annotations

import numpy as np

from llamavae.evaluation.evaluator import EvaluationData
from llamavae.metrics.bootstrap import bootstrap_interval
from llamavae.metrics.metric import Items, Metric

MEASURE = Metric("words", "words", "higher", "Mean number of words per text.")


def test_a_mean_is_a_row_with_its_interval():
    values = np.array([3, 5, 4, 8])
    row = MEASURE.mean(values, 7, control=np.array([1, 2]), group="nouns")
    low, high = bootstrap_interval(lambda i: values[i].mean(), 4, seed=7)
    assert row.pop("items") == Items(values, np.array([1, 2]))
    assert row == MEASURE.row(5, 4, control=1.5, interval=(low, high), group="nouns")
    assert low < row["value"] < high
    assert MEASURE.mean(values, 7)["control"] is None


def test_sample():
    """A seeded choice in the given order, with the labels of the chosen sentences."""
    texts = [f"text {i}" for i in range(20)]
    data = EvaluationData(texts, {"number": list(range(20))}, seed=3)
    chosen = data.sample(5)
    numbers = [texts.index(text) for text in chosen.texts]
    assert numbers == list(chosen.labels["number"]) == sorted(numbers)
    assert len(numbers) == 5
    assert numbers != [0, 1, 2, 3, 4]
    assert data.sample(5).texts == chosen.texts
    assert data.sample(None) is data.sample(20) is data
