from __future__ import annotations

from typing import ClassVar

import pytest
import yaml
from tests.experiments.test_sweep import RECIPE

from llamavae.errors import UserError
from llamavae.evaluation import registry
from llamavae.evaluation.evaluators.latent_usage import LatentUsage
from llamavae.folders import MARKER


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return path


class Unfit(LatentUsage):
    """Ends with an error that the user can act on."""

    name: ClassVar = "unfit"

    def evaluate(self, system, data):
        raise UserError("the evaluator is a test's")


def test_sweep(run, recipe, tmp_path, monkeypatch):
    places = {**registry.EVALUATORS, "unfit": Unfit}
    monkeypatch.setattr(registry, "EVALUATORS", places)
    options = ("--vary", "objective.beta=0.1", "--set", "optimisation.steps=1")
    result = run(
        "sweep", "-r", recipe, *options, "-e", "latent_usage", "-e", "unfit", "-o", tmp_path
    )
    assert result.exit_code == 0, result.stderr
    head, model = result.stdout.splitlines()
    assert head.split("\t") == ["model", "KL", "NLL", "BLEU"]
    assert model.split("\t")[0] == "beta=0.1"
    assert "[1/1] beta=0.1" in result.stderr
    assert "beta=0.1: unfit: the evaluator is a test's" in result.stderr
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {MARKER, "beta=0.1", "sweep.csv", "sweep.json", "report.html", "trade-off.png"}
    assert "Gaussian KL" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--vary", "objective.bta=1,2"), "did you mean 'beta'"),
        (("--vary", "objective.beta=1,2", "-e", "latent_usge"), "Did you mean 'latent_usage'"),
        (("--vary", "objective.beta"), "--vary expects"),
    ],
)
def test_mistakes_are_found_before_anything_trains(run, recipe, tmp_path, options, message):
    result = run("sweep", "-r", recipe, *options, "-o", tmp_path / "sweep")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "sweep").exists()
