from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tests import tiny
from tests.evaluation.systems import Deaf, Grammar

from llamavae.corpora import factors
from llamavae.errors import UserError
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.evaluators.geometry import CEILING, SHARED, UNCHANGED, Geometry

CORPUS = factors.load(40)
TEXTS = list(CORPUS["text"])
LABELS = {name: list(CORPUS[name]) for name in factors.FACTORS}
QUICK: dict[str, Any] = {"dimensions": 3, "starts": 4, "analogies": 6}


def measured(system, labels=LABELS, **settings):
    data = EvaluationData(TEXTS, labels, seed=1)
    return Geometry(**{**QUICK, **settings})(system, data)


@pytest.fixture(scope="module")
def found():
    return measured(Grammar(), factors=["tense", "order"], dimensions=8)


def test_every_measure_has_rows_with_the_primary_first(found):
    names = [metric.name for metric in Geometry.metrics]
    assert [row["metric"] for row in found.rows if not row["group"]] == names
    for row in found.rows:
        if row["low"] is not None:
            assert row["low"] <= row["value"] <= row["high"]
    json.dumps([found.rows, found.tables], allow_nan=False)


def test_a_perfect_space_answers_analogies(found):
    assert found.value("analogy exact match") == 1
    assert found.value("analogy factor", "tense") == found.value("analogy rest") == 1
    assert found.value("analogy exact match", CEILING) == 1
    assert found.value("analogy exact match", UNCHANGED) == 0
    assert found.value("analogy factor", UNCHANGED) == 0
    assert found.value("analogy rest", UNCHANGED) == 1
    control = next(row["control"] for row in found.rows if row["metric"] == "analogy exact match")
    assert control < 0.5
    table = found.tables["analogies"]
    assert [row["factor"] for row in table] == ["tense", "order"] * 3
    assert all(row["text"] == row["answer"] and row["exact"] for row in table)


def test_traversals_are_tabled(found):
    table = found.tables["traversals"]
    assert len(table) == 8 * 4 * 2
    assert len({row["dimension"] for row in table}) == len(found.tables["consistency"]) == 8
    value = sum(row["consistency"] for row in found.tables["consistency"]) / 8
    assert value == pytest.approx(found.value("traversal consistency"))
    assert -1 <= found.value("traversal consistency", SHARED) <= 1


def test_a_decoder_that_ignores_z_scores_nothing():
    found = measured(Deaf())
    assert found.value("traversal consistency") == 0
    assert found.value("unmoved traversals") == 1
    assert found.value("analogy exact match") == 0


class Axes:
    """Each coordinate is a word of its own; the text says which are positive."""

    def encode(self, texts):
        return torch.tensor(
            [[float(f"w{i}" in text.split()) * 2 - 1 for i in range(6)] for text in texts]
        )

    def decode(self, z):
        return [" ".join(f"w{i}" for i, on in enumerate(row) if on) for row in (z > 0).tolist()]


def test_axes_that_mean_something_are_consistent_and_random_directions_are_not():
    system = Axes()
    texts = system.decode(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)))
    found = Geometry(**QUICK)(system, EvaluationData(texts))
    row = next(row for row in found.rows if row["metric"] == "traversal consistency")
    assert row["value"] == pytest.approx(1)
    assert row["control"] < 0.6
    assert found.value("traversal consistency", SHARED) < 0.95
    assert not [row for row in found.rows if row["metric"].startswith("analogy")]
    assert "analogies" not in found.tables


def test_a_real_model_with_its_own_vectors_or_given_ones():
    model = tiny.vae()
    data = EvaluationData(tiny.SENTENCES)
    found = Geometry(**QUICK)(model, data)
    assert found.tables["settings"] == [
        {"setting": "sentence vectors", "value": "the system's own encoder"}
    ]
    assert found == Geometry(**QUICK)(model, data)
    other = Geometry(**QUICK, encoder=tiny.encoder("bert-cls"))(model, data)
    assert other.value("IsoScore") == found.value("IsoScore")
    assert other.tables["settings"] != found.tables["settings"]


def test_one_dimension_has_no_iso_score():
    class Line:
        def encode(self, texts):
            return torch.tensor([[float(len(text))] for text in texts])

        def decode(self, z):
            return ["a " * max(1, round(float(v))) for v in z[:, 0]]

    found = Geometry(**QUICK)(Line(), EvaluationData(tiny.SENTENCES))
    assert "IsoScore" not in [row["metric"] for row in found.rows]


def test_what_it_cannot_measure():
    class Reader:
        def encode(self, texts):
            return torch.ones(len(texts), 3)

    with pytest.raises(UserError, match="cannot decode"):
        Geometry()(Reader(), EvaluationData(TEXTS))
    with pytest.raises(UserError, match=r"expected at least .*; got 500, 6, 1, 120 and 3"):
        Geometry(starts=1)
    with pytest.raises(UserError, match="independent of the others"):
        measured(Grammar(), factors=["object"])
