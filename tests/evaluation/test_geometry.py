from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
import torch
from tests import tiny

from llamavae.corpora import factors
from llamavae.errors import UserError
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.geometry import BETWEEN, CEILING, SHARED, UNCHANGED, Geometry

CORPUS = factors.load(40)
TEXTS = list(CORPUS["text"])
LABELS = {name: list(CORPUS[name]) for name in factors.FACTORS}
VALUES = [(name, value) for name, values in factors.FACTORS.items() for value in values]
QUICK: dict[str, Any] = {"pairs": 6, "steps": 5, "dimensions": 3, "starts": 4, "analogies": 6}


class Grammar:
    """A perfect space: a coordinate for each value of each factor, written by the largest.

    Where they would be no sentence, since a verb limits its objects and places, it writes them
    as a list of words. What is no sentence has a point by chance.
    """

    def encode(self, texts):
        return torch.stack([self.point(text) for text in texts])

    def point(self, text):
        labels = factors.parse(text)
        if labels is None:
            return torch.randn(
                len(VALUES), generator=torch.Generator().manual_seed(zlib.crc32(text.encode()))
            )
        return torch.tensor([float(labels[name] == value) for name, value in VALUES])

    def decode(self, z):
        texts = []
        for point in z:
            best: dict[str, tuple[float, str]] = {}
            for coordinate, (name, value) in zip(point.tolist(), VALUES, strict=True):
                if name not in best or coordinate > best[name][0] + 1e-4:
                    best[name] = (coordinate, value)
            labels = {name: value for name, (_, value) in best.items()}
            try:
                texts.append(factors.realise(labels))
            except UserError:
                texts.append(" ".join(labels.values()))
        return texts


class Deaf(Grammar):
    """Writes the same whatever the point."""

    def decode(self, z):
        return [TEXTS[0]] * len(z)


def measured(system, labels=LABELS, **settings):
    data = EvaluationData(TEXTS, labels, seed=1)
    return Geometry(**{**QUICK, **settings})(system, data)


@pytest.fixture(scope="module")
def found():
    return measured(Grammar(), factors=["tense", "order"], dimensions=8)


def test_every_measure_has_rows_with_the_primary_first(found):
    names = [measure.name for measure in Geometry.measures]
    assert [row["measure"] for row in found.rows if not row["group"]] == names
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
    control = next(row["control"] for row in found.rows if row["measure"] == "analogy exact match")
    assert control < 0.5
    table = found.tables["analogies"]
    assert [row["factor"] for row in table] == ["tense", "order"] * 3
    assert all(row["text"] == row["answer"] and row["exact"] for row in table)


def test_its_paths_are_smoother_than_their_controls(found):
    rows = {(row["measure"], row["group"]): row for row in found.rows}
    for name in ("interpolation smoothness", "sentence smoothness"):
        assert rows[name, ""]["value"] > 1.2 * rows[name, ""]["control"]
        assert rows[name, ""]["value"] > 1.2 * rows[name, BETWEEN]["value"]
    assert found.value("degenerate paths") == 0
    table = found.tables["interpolations"]
    assert len(table) == 6 * 5
    assert [row["position"] for row in table[:5]] == [0, 0.25, 0.5, 0.75, 1]
    assert {row["text"] for row in table if row["position"] in (0, 1)} <= set(TEXTS)


def test_traversals_are_tabled(found):
    table = found.tables["traversals"]
    assert len(table) == 8 * 4 * 2
    assert len({row["dimension"] for row in table}) == len(found.tables["consistency"]) == 8
    value = sum(row["consistency"] for row in found.tables["consistency"]) / 8
    assert value == pytest.approx(found.value("traversal consistency"))
    assert -1 <= found.value("traversal consistency", SHARED) <= 1


def test_a_decoder_that_ignores_z_scores_nothing():
    found = measured(Deaf())
    for name in ("interpolation smoothness", "sentence smoothness", "traversal consistency"):
        assert found.value(name) == 0
    assert found.value("degenerate paths") == found.value("repeated steps") == 1
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
    row = next(row for row in found.rows if row["measure"] == "traversal consistency")
    assert row["value"] == pytest.approx(1)
    assert row["control"] < 0.6
    assert found.value("traversal consistency", SHARED) < 0.95
    assert not [row for row in found.rows if row["measure"].startswith("analogy")]
    assert "analogies" not in found.tables


def test_a_real_model_with_its_own_vectors_or_given_ones():
    model = tiny.vae()
    data = EvaluationData(tiny.SENTENCES)
    found = Geometry(**QUICK, path="slerp")(model, data)
    settings = {row["setting"]: row["value"] for row in found.tables["settings"]}
    assert settings["path"] == "slerp"
    assert settings["sentence vectors"] == "the system's own encoder"
    assert settings["token vectors of word mover's distance"].startswith("input embeddings")
    assert found == Geometry(**QUICK, path="slerp")(model, data)
    other = Geometry(**QUICK, path="slerp", encoder=tiny.encoder("bert-cls"))(model, data)
    assert other.value("interpolation smoothness") == found.value("interpolation smoothness")
    assert other.tables["settings"] != found.tables["settings"]


def test_one_dimension_has_no_iso_score():
    class Line:
        def encode(self, texts):
            return torch.tensor([[float(len(text))] for text in texts])

        def decode(self, z):
            return ["a " * max(1, round(float(v))) for v in z[:, 0]]

    found = Geometry(**QUICK)(Line(), EvaluationData(tiny.SENTENCES))
    assert "IsoScore" not in [row["measure"] for row in found.rows]


def test_what_it_cannot_measure():
    class Reader:
        def encode(self, texts):
            return torch.ones(len(texts), 3)

    with pytest.raises(UserError, match="cannot decode"):
        Geometry()(Reader(), EvaluationData(TEXTS))
    with pytest.raises(UserError, match="unknown path 'arc'"):
        Geometry(path="arc")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"needs at least .*; got 500, 50, 2, 6, 12, 120 and 3"):
        Geometry(steps=2)
    with pytest.raises(UserError, match="free of the others"):
        measured(Grammar(), factors=["object"])
