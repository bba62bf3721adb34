from __future__ import annotations

import math

import numpy as np
import pytest
from sacrebleu import __version__ as SACREBLEU
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

import llamavae
from llamavae.evaluation.evaluators.reconstruction import Reconstruction
from llamavae.metrics.definitions import SCORES
from llamavae.metrics.metric import AGGREGATES, Metric


@pytest.mark.parametrize(
    ("unit", "bounds"),
    [
        ("0 to 1", (0, 1)),
        ("−1 to 1", (-1, 1)),
        ("0 to 100", (0, 100)),
        ("0 to D", (-math.inf, math.inf)),
        ("about 0 to 1", (-math.inf, math.inf)),
        ("words", (-math.inf, math.inf)),
    ],
)
def test_bounds_are_those_of_the_unit(unit, bounds):
    assert Metric("score", unit, "higher", "A score.").bounds == bounds


def test_intervals_stay_in_the_range_of_the_metric():
    accuracy = Metric("accuracy", "0 to 1", "higher", "A score.")
    row = accuracy.row(0.99, 10, interval=(0.95, 1.03))
    assert (row["low"], row["high"]) == (0.95, 1)
    row = accuracy.row(0.01, 10, interval=(-0.02, 0.04))
    assert (row["low"], row["high"]) == (0, 0.04)
    correlation = Metric("correlation", "−1 to 1", "higher", "A score.")
    row = correlation.row(1.0, 3, interval=(1.0 - 1e-9, 1.0 + 1e-15))
    assert row["high"] == 1
    assert type(row["high"]) is float
    words = Metric("words", "words", "", "A number.")
    assert words.row(3.0, 3, interval=(-1.0, 9.0))["low"] == -1
    assert accuracy.row(0.5, 3)["low"] is None


@pytest.mark.parametrize(("name", "theirs"), [("BLEU", BLEU()), ("chrF", CHRF())])
@pytest.mark.parametrize("metrics", [Reconstruction.metrics, [SCORES["BLEU"]]])
def test_signatures_are_those_of_sacrebleu(name, theirs, metrics):
    theirs.corpus_score(["a dog"], [["a cat"]])
    for metric in metrics:
        if metric.name == name:
            expected = theirs.get_signature().format().removesuffix(f"|version:{SACREBLEU}")
            assert metric.settings == expected


def test_a_signature_has_settings_and_versions():
    bleu = Metric("BLEU", "0 to 100", "higher", "BLEU.", library="sacrebleu", settings="tok:13a")
    assert bleu.signature({"sample": 5, "encoder": None, "tasks": ["a"]}) == (
        'tok:13a|sample:5|tasks:["a"]|'
        f"version:sacrebleu {SACREBLEU}, llamavae {llamavae.__version__}"
    )
    own = Metric("words", "words", "", "Words.")
    assert own.signature() == f"version:llamavae {llamavae.__version__}"
    missing = Metric("MAUVE", "0 to 1", "higher", "MAUVE.", library="no-such-distribution")
    assert "no-such-distribution not installed" in missing.signature()


def test_ratios_of_sums():
    items = np.array([[1.0, 2], [5.0, 4]])
    assert AGGREGATES["ratio"](items) == 1
    assert AGGREGATES["perplexity"](items) == math.e
    assert AGGREGATES["perplexity"](np.zeros((2, 2))) == 1  # empty texts


def test_values_are_not_changed():
    assert Metric("accuracy", "0 to 1", "higher", "A score.").mean(np.array([2.0]), 0)["value"] == 2
