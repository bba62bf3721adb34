from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.evaluation.systems import Letters

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import Evaluator
from llamavae.evaluation.registry import EVALUATORS, SUITES, load_evaluator


@pytest.mark.parametrize("name", EVALUATORS)
def test_every_evaluator_says_what_it_measures(name):
    found = load_evaluator(name)
    assert isinstance(found, Evaluator)
    assert found.name == name
    assert found.primary is found.metrics[0]
    assert len({metric.name for metric in found.metrics}) == len(found.metrics)
    for metric in found.metrics:
        assert metric.definition
        assert metric.direction in ("higher", "lower", "")


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_can_be_made(suite):
    for name, settings in SUITES[suite].items():
        load_evaluator(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("samples", {"n": "many"}, r"samples\.n takes a whole number; got 'many'"),
        (
            "latent_usage",
            {"resamples": 0.5},
            r"latent_usage\.resamples takes a whole number; got 0\.5",
        ),
        (
            "latent_usage",
            {"resamples": None},
            r"latent_usage\.resamples takes a whole number; got None",
        ),
        ("sts", {"tasks": "stsb"}, r"sts\.tasks takes a list, such as \[a, b\]; got 'stsb'"),
        ("sts", {"tasks": 5}, r"sts\.tasks takes a list, such as \[a, b\]; got 5"),
        ("sts", {"tasks": [2012]}, r"sts\.tasks takes a text; got 2012 in \[2012\]"),
        (
            "sts",
            {"files": "x.csv"},
            r"files takes names with values, such as \{a: b\}; got 'x.csv'",
        ),
        ("sts", {"files": {"a": 5}}, r"files takes a text or a path; got 5 in \{'a': 5\}"),
        ("interpolation", {"path": ["a"]}, r"path takes 'linear' or 'slerp'; got \['a'\]"),
        ("probes", {"folder": 5}, r"probes\.folder takes a text or a path; got 5"),
        ("reconstruction", {"encoder": 5}, r"a text or a path or an instance of Encoder; got 5"),
    ],
)
def test_values_of_another_kind_are_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        load_evaluator(name, **settings)


def test_a_setting_may_be_none_where_it_says_so():
    load_evaluator("probes", limit=None)


class Still:
    """A prior that draws the same point."""

    def sample(self, n, *, seed):
        return torch.zeros(n, 2)


def test_values_are_taken_as_they_are():
    encoder, prior, files = Letters(), Still(), {"x": Path("x.csv"), "y": "y.csv"}
    assert vars(load_evaluator("reconstruction", encoder=encoder))["encoder"] is encoder
    assert vars(load_evaluator("sts", tasks=("x",), files=files))["tasks"] == ("x",)
    assert vars(load_evaluator("samples", prior=prior))["prior"] is prior


def test_all_is_all():
    assert set(SUITES["all"]) == set(EVALUATORS)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"unknown evaluator 'probs'. Did you mean 'probes'"):
        load_evaluator("probs")
    with pytest.raises(UserError, match=r"unknown evaluator"):
        EVALUATORS["probs"]
    with pytest.raises(
        UserError,
        match=r"unknown likelihood setting 'sample'. Did you mean 'samples'",
    ):
        load_evaluator("likelihood", sample=3)
