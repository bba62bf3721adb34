from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tests.evaluation.systems import Deaf, Grammar

from llamavae.corpora import factors
from llamavae.corpora.vectors import read_word_vectors
from llamavae.errors import UserError
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.evaluators.interpolation import BETWEEN, Interpolation
from llamavae.metrics.smoothness import WordMover, smoothness

TEXTS = list(factors.load(40)["text"])
DATA = EvaluationData(TEXTS, seed=1)
QUICK: dict[str, Any] = {"pairs": 6, "steps": 5}


@pytest.fixture(scope="module")
def found():
    return Interpolation(**QUICK)(Grammar(), DATA)


def test_every_measure_has_rows_with_the_primary_first(found):
    names = [metric.name for metric in Interpolation.metrics]
    assert [row["metric"] for row in found.rows if not row["group"]] == names
    for row in found.rows:
        assert row["low"] <= row["value"] <= row["high"]
    json.dumps([found.rows, found.tables], allow_nan=False)


def test_paths_of_a_perfect_space_are_smoother_than_their_controls(found):
    rows = {(row["metric"], row["group"]): row for row in found.rows}
    for name in ("interpolation smoothness", "sentence smoothness"):
        assert rows[name, ""]["value"] > 1.2 * rows[name, ""]["control"]
        assert rows[name, ""]["value"] > 1.2 * rows[name, BETWEEN]["value"]
    assert found.value("degenerate paths") == 0
    table = found.tables["interpolations"]
    assert len(table) == 6 * 5
    assert [row["position"] for row in table[:5]] == [0, 0.25, 0.5, 0.75, 1]
    assert {row["text"] for row in table if row["position"] in (0, 1)} <= set(TEXTS)


def test_a_decoder_that_ignores_z_scores_nothing():
    found = Interpolation(**QUICK)(Deaf(), DATA)
    for name in ("interpolation smoothness", "sentence smoothness"):
        assert found.value(name) == 0
    assert found.value("degenerate paths") == found.value("repeated steps") == 1


def test_a_real_model_with_its_own_vectors_or_given_ones():
    model = tiny.vae()
    data = EvaluationData(tiny.SENTENCES)
    found = Interpolation(**QUICK, path="slerp")(model, data)
    settings = {row["setting"]: row["value"] for row in found.tables["settings"]}
    assert settings["path"] == "slerp"
    assert settings["sentence vectors"] == "the system's own encoder"
    assert settings["token vectors of word mover's distance"].startswith("input embeddings")
    assert found == Interpolation(**QUICK, path="slerp")(model, data)
    other = Interpolation(**QUICK, path="slerp", encoder=tiny.encoder("bert-cls"))(model, data)
    assert other.value("interpolation smoothness") == found.value("interpolation smoothness")
    assert other.tables["settings"] != found.tables["settings"]


def test_what_it_cannot_measure():
    class Reader:
        def encode(self, texts):
            return torch.ones(len(texts), 3)

    with pytest.raises(UserError, match="cannot decode"):
        Interpolation()(Reader(), DATA)
    with pytest.raises(UserError, match="unknown path 'arc'"):
        Interpolation(path="arc")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"expected at least .*; got 500, 50 and 2"):
        Interpolation(steps=2)


def test_word_vectors_of_a_file(tmp_path):
    words = sorted({word for text in TEXTS for word in text.split()})
    rng = np.random.default_rng(0)
    path = tmp_path / "vectors.txt"
    lines = [f"{word} {' '.join(map(str, rng.normal(size=3).round(3)))}\n" for word in words]
    path.write_text("".join(lines))
    found = Interpolation(**QUICK, vectors=path)(Grammar(), DATA)
    [named] = [row["value"] for row in found.tables["settings"] if "mover" in row["setting"]]
    assert named.startswith("vectors.txt, 3 dimensions, for ")
    texts = [row["text"] for row in found.tables["interpolations"]]
    paths = [texts[i : i + 5] for i in range(0, len(texts), 5)]
    distance = WordMover.of_words(read_word_vectors(path).get)
    expected = smoothness(paths, distance).mean()
    assert found.value("interpolation smoothness") == pytest.approx(expected)
    assert expected != Interpolation(**QUICK)(Grammar(), DATA).value("interpolation smoothness")
    path.write_text("zzz 1 2 3\nyyy 1 2 3\n")
    with pytest.raises(UserError, match=r"vectors\.txt has a vector for none of the \d+ words"):
        Interpolation(**QUICK, vectors=path)(Grammar(), DATA)
