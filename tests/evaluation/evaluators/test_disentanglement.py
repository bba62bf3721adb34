from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.metrics.test_disentanglement import VALUES, planted

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.evaluators.disentanglement import ROTATED, Disentanglement

NAMES = ("tense", "number", "verb", "place")
QUICK = {"seeds": 2, "trees": 5, "votes": 200}


class Planted:
    """Encodes the number in each text to a planted point."""

    def __init__(self, points):
        self.points = points

    def encode(self, texts):
        return torch.tensor(self.points[[int(text) for text in texts]])


def data_of(factors, **more):
    labels = {
        name: [f"value {v}" for v in column] for name, column in zip(NAMES, factors.T, strict=False)
    }
    return EvaluationData([str(i) for i in range(len(factors))], labels | more, seed=1)


@pytest.fixture(scope="module")
def found():
    points, factors = planted(300)
    return Disentanglement(**QUICK)(Planted(points), data_of(factors, language=["en"] * 300))


def test_every_measure_stands_beside_random_labels(found):
    names = [metric.name for metric in Disentanglement.metrics]
    assert [row["metric"] for row in found.rows if not row["group"]] == names
    assert found.rows[0]["metric"] == "MIG"
    for row in found.rows:
        assert row["n"] == 300
        assert row["direction"] == "higher"
        if row["group"]:
            continue
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert row["value"] > row["control"] + (0 if row["metric"] == "modularity" else 0.5)


def test_planted_axes_are_found_and_lost_on_rotation(found):
    for name in ("MIG", "DCI disentanglement", "DCI completeness", "z-diff", "z-min-var"):
        assert found.value(name) == pytest.approx(1, abs=0.06)
    assert found.value("DCI informativeness") == pytest.approx(1, abs=0.02)
    assert found.value("MIG", ROTATED) < 0.4


def test_tables_name_dimensions_and_what_was_left_out(found):
    factors = found.tables["factors"]
    assert [row["factor"] for row in factors] == [*NAMES, "language"]
    assert [row["values"] for row in factors] == [*VALUES, None]
    assert [row["dimension"] for row in factors[:4]] == [0, 1, 2, 3]
    assert factors[4]["left_out"] == "all sentences have the value en"
    dimensions = found.tables["dimensions"]
    assert set(found.plots["dimensions"].columns) <= set(dimensions[0])
    assert len(dimensions) == 4 * 4
    own = [row["importance"] for row in dimensions if row["factor"] == NAMES[row["dimension"]]]
    assert min(own) > 0.95


def test_numbers_are_plain(found):
    values = [v for row in [*found.rows, *found.tables["factors"]] for v in row.values()]
    assert not any(isinstance(v, np.generic) for v in values)


def test_it_repeats_and_takes_the_first_sentences():
    points, factors = planted(80)
    system, data = Planted(points), data_of(factors)
    first = Disentanglement(60, **QUICK)(system, data)
    assert first == Disentanglement(60, **QUICK)(system, data)
    assert {row["n"] for row in first.rows} == {60}


def test_one_factor_and_one_seed():
    points, factors = planted(120)
    found = Disentanglement(seeds=1, trees=2)(Planted(points), data_of(factors[:, :1]))
    assert [row["metric"] for row in found.rows if not row["group"]] == [
        *("MIG", "DCI completeness", "DCI informativeness", "SAP")
    ]
    assert [row["low"] is None for row in found.rows] == [False, True, True, True, True]


def test_what_it_cannot_measure():
    points, factors = planted(30)
    evaluator = Disentanglement()
    with pytest.raises(UserError, match="labelled sentences"):
        evaluator(Planted(points), EvaluationData(["0", "1"]))
    with pytest.raises(UserError, match="encodes texts"):
        evaluator(object(), data_of(factors))
    own = EvaluationData(["0", "1"], {"id": ["a", "b"]})
    with pytest.raises(UserError, match=r"usable label; found none\. id: 2 values"):
        evaluator(Planted(points), own)
    with pytest.raises(UserError, match="at least 2 dimensions"):
        evaluator(Planted(points[:, :1]), data_of(factors))
    with pytest.raises(UserError, match="at least 1 and at least 2 bins; got 500, 0, 20, 1000"):
        Disentanglement(seeds=0)
