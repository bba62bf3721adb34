"""A sweep over tiny models: what is trained, kept, refused and shown."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import Evaluation, Evaluator
from llamavae.experiments import sweep as sweeps
from llamavae.experiments.sweep import (
    Sweep,
    SweepRun,
    geometry_and_quality,
    parse_vary,
    run_sweep,
    sweep_runs,
    trade_off,
)
from llamavae.folders import MARKER
from llamavae.metrics.metric import Metric
from llamavae.report.sweep import write_sweep_report
from llamavae.training import load_recipe

WIDTH = {"hidden_size": 16, "layers": 1, "heads": 2, "ffn": 16, "vocabulary": 300}
RECIPE = {
    "name": "tiny",
    "corpus": {"name": "factors", "limit": 80},
    "encoder": {"scratch": WIDTH, "training": "full"},
    "decoder": {"scratch": {**WIDTH, "warmup_steps": 0}, "max_tokens": 16},
    "latent": {"dim": 4, "slots": 1, "hidden": 8},
    "optimisation": {"steps": 10, "batch_size": 4, "warmup_steps": 2},
    "evaluation": {"every": 10, "sentences": 6, "decoded": 2},
    "output": {"save_every": 5},
}


class Spread(Evaluator):
    """A measure of the space that costs nothing, under a name that is related to quality."""

    name: ClassVar = "spread"
    needs: ClassVar = frozenset({"encode"})
    metrics: ClassVar = (Metric("IsoScore", "0 to 1", "higher", "a test's own"),)
    calls: ClassVar[list[str]] = []

    def evaluate(self, system, data):
        self.calls.append(system.name_or_path)
        with torch.no_grad():
            value = system.encode(list(data.texts)).mean.std().item()
        first = self.metrics[0]
        rows = [first.row(value, len(data.texts), control=0.5, interval=(value - 1, value + 1))]
        return Evaluation([*rows, first.row(0.0, 1, group="a part")])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------- which runs


def test_values_are_divided_by_commas_outside_of_brackets():
    texts = ["a.b=1, 2,1", "c.d=[x, y],z", "e.f=1e-3"]
    assert parse_vary(texts) == {"a.b": ["1", "2"], "c.d": ["[x, y]", "z"], "e.f": ["1e-3"]}


@pytest.mark.parametrize("text", ["a.b", "a.b=", "=1", "a.b=1,,2"])
def test_malformed_values(text):
    with pytest.raises(UserError, match=r"expects section.key=value"):
        parse_vary([text])


def test_a_setting_is_given_once():
    with pytest.raises(UserError, match="twice"):
        parse_vary(["a.b=1", "a.b=2"])


def test_all_combinations_each_in_its_folder(recipe, tmp_path):
    vary = {"objective.beta": ["0.1", "1e-3"], "latent.dim": ["4", "8"]}
    runs = sweep_runs(recipe, ["latent.slots=2"], vary, tmp_path)
    assert [run.name for run in runs] == [
        "beta=0.1, dim=4",
        "beta=0.1, dim=8",
        "beta=1e-3, dim=4",
        "beta=1e-3, dim=8",
    ]
    assert [(r.recipe.objective.beta, r.recipe.latent.dim) for r in runs] == [
        (0.1, 4),
        (0.1, 8),
        (0.001, 4),
        (0.001, 8),
    ]
    assert {run.recipe.latent.slots for run in runs} == {2}
    folders = [Path(run.recipe.output.folder) for run in runs]
    assert len(set(folders)) == 4
    assert all(folder.parent == tmp_path for folder in folders)
    assert not any(folder.exists() for folder in folders)


def test_keys_with_the_same_ending_stay_apart(recipe, tmp_path):
    vary = {"encoder.training": ["full"], "decoder.training": ["heads", "full"]}
    first, _ = sweep_runs(recipe, [], vary, tmp_path)
    assert first.name == "encoder.training=full, decoder.training=heads"


@pytest.mark.parametrize(
    ("overrides", "vary", "message"),
    [
        ([], {}, "expected at least one --vary"),
        ([], {"objective.bta": ["1"]}, "did you mean 'beta'"),
        ([], {"objective.beta": ["0.1", "much"]}, "objective.beta"),
        (["objective.beta=1"], {"objective.beta": ["1"]}, "both --set and --vary"),
        ([], {"output.folder": ["a", "b"]}, "--output"),
        (["output.folder=a"], {"objective.beta": ["1"]}, "--output"),
    ],
)
def test_mistakes_are_found_before_anything_trains(recipe, tmp_path, overrides, vary, message):
    with pytest.raises(UserError, match=message):
        sweep_runs(recipe, overrides, vary, tmp_path)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------- from end to end


@pytest.fixture(scope="module")
def done(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    runs = sweep_runs(recipe, [], {"objective.beta": ["0.1", "1"]}, folder)
    return folder, runs, run_sweep(runs, [Spread()], folder, limit=20, progress=False)


def test_rows_and_files(done):
    folder, runs, found = done
    assert found.runs == runs
    with (folder / "sweep.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(found.rows)
    assert {row["model"] for row in table} == {"beta=0.1", "beta=1"}
    assert {row["evaluator"] for row in table} == {"training", "spread"}
    saved = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert saved["rows"] == found.rows
    assert [m["settings"] for m in saved["models"]] == [
        {"objective.beta": "0.1"},
        {"objective.beta": "1"},
    ]
    assert saved["made by"]["version"]
    for run, model in zip(runs, saved["models"], strict=True):
        results = json.loads((folder / model["folder"] / "results.json").read_text())
        assert results["recipe"]["objective"]["beta"] == float(run.values["objective.beta"])
        for key in ("kl", "nll", "bleu"):
            assert found.value(run, key) == results["metrics"][key]
        assert found.control(run, "nll") == results["metrics"]["nll_shuffled"]
        (value,) = [
            row
            for row in found.rows
            if (row["model"], row["metric"], row["group"]) == (run.name, "IsoScore", "")
        ]
        assert value["objective.beta"] == run.values["objective.beta"]
        assert value["n"] > 2


def test_an_interrupted_sweep_goes_on_and_keeps_what_is_done(done, recipe, tmp_path, monkeypatch):
    folder, _, whole = done
    shutil.copytree(folder / "beta=0.1", tmp_path / "beta=0.1")
    runs = sweep_runs(recipe, [], {"objective.beta": ["0.1", "1"]}, tmp_path)
    train, begun, calls = sweeps.train, [], len(Spread.calls)

    def interrupted_once(settings, **options):
        name = Path(settings.output.folder).name
        begun.append((name, Path(settings.output.folder, "results.json").is_file()))
        if begun.count(("beta=1", False)) == 1 and name == "beta=1":
            raise KeyboardInterrupt
        return train(settings, **options)

    monkeypatch.setattr(sweeps, "train", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(runs, [Spread()], tmp_path, limit=20, progress=False)
    partly = json.loads((tmp_path / "sweep.json").read_text())
    assert [model["model"] for model in partly["models"]] == ["beta=0.1"]
    found = run_sweep(runs, [Spread()], tmp_path, limit=20, progress=False)
    assert begun == 2 * [("beta=0.1", True), ("beta=1", False)]
    assert len(Spread.calls) == calls + 1  # that of beta=1
    assert found.rows == whole.rows


def test_a_failure_says_in_which_run(recipe, tmp_path):
    runs = sweep_runs(recipe, [], {"objective.beta": ["0.1"]}, tmp_path)
    folder = Path(runs[0].recipe.output.folder)
    folder.mkdir()
    other = load_recipe(recipe, ["objective.beta=3"])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(other.model_dump(mode="json")))
    (folder / "log.jsonl").write_text("{}\n")
    (folder / MARKER).touch()
    with pytest.raises(UserError, match=r"(?s)^beta=0.1: .*was 3.0, now 0.1"):
        run_sweep(runs, [], tmp_path, progress=False)


def test_the_page(done, tmp_path):
    _, _, found = done
    page = write_sweep_report(found, tmp_path).read_text(encoding="utf-8")
    assert (tmp_path / "trade-off.png").is_file()
    for text in ("Rate and distortion", "beta=0.1", "negative ELBO", "spread", "control 0.5"):
        assert text in page
    assert "objective.beta" in page
    assert "Geometry against quality" in page
    with (tmp_path / "correlations.csv").open(encoding="utf-8") as file:
        pairs = {(row["geometry"], row["quality"], row["n"]) for row in csv.DictReader(file)}
    assert pairs == {("IsoScore", "BLEU", "2"), ("IsoScore", "negative ELBO", "2")}


# ------------------------------------------------------------------------------- without training


def planted(values):
    """A sweep with these measures: model -> evaluator and measure -> value."""
    runs = [SweepRun(tuple(name.split(", ")), {}, load_recipe("demo")) for name in values]
    rows = [
        {"model": name, "evaluator": evaluator}
        | Metric(metric, "", "higher", "").row(value, 5, control=1.0)
        for name, found in values.items()
        for (evaluator, metric), value in found.items()
    ]
    return Sweep(runs, rows)


def test_trade_off_has_a_line_for_each_value_of_the_other_settings():
    measured = {("training", "KL"): 3.0, ("training", "NLL"): 9.0}
    with_bleu = measured | {("training", "BLEU"): 50.0, ("reconstruction", "BLEU"): 51.0}
    found = trade_off(planted({"beta=1, dim=2": with_bleu, "beta=1, dim=4": measured}))
    assert found == [
        {"label": "beta=1", "line": "dim=2", "kl": 3.0, "nll": 9.0}
        | {"bleu": 50.0, "bleu_shuffled": 1.0},
        {"label": "beta=1", "line": "dim=4", "kl": 3.0, "nll": 9.0}
        | {"bleu": None, "bleu_shuffled": None},
    ]


def test_geometry_is_related_to_what_evaluators_say_of_quality():
    values = {
        f"beta={i}": {
            ("reconstruction", "BLEU"): 10.0 * i,
            ("training", "BLEU"): -1.0,
            ("training", "KL"): 0.0,
            ("interpolation", "interpolation smoothness"): 0.1 * i,
        }
        for i in range(3)
    }
    rows, geometry, quality = geometry_and_quality(planted(values))
    assert (geometry, quality) == (["interpolation smoothness"], ["BLEU"])
    assert sorted(row["value"] for row in rows if row["metric"] == "BLEU") == [0, 10, 20]
