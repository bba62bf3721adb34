from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import llamavae.training.run
from llamavae.training.recipe import (
    Recipe,
    describe_groups,
    describe_settings,
    load_recipe,
    recipe_names,
)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, bool]]:
    """What `train` is called with, in place of training."""
    calls: list[tuple[Recipe, bool]] = []

    class Result:
        folder = Path("runs/x")

    def train(recipe: Recipe, *, resume: bool = False, evaluator: Any = None) -> Result:
        assert evaluator is None
        calls.append((recipe, resume))
        return Result()

    monkeypatch.setattr(llamavae.training.run, "train", train)
    return calls


def test_train_is_a_call_of_train(run: Any, trained: list[tuple[Recipe, bool]]) -> None:
    result = run("train", "--recipe", "demo", "--set", "latent.dim=8", "--set", "output.keep=1")
    assert result.exit_code == 0, result.stderr
    assert trained == [(load_recipe("demo", ["latent.dim=8", "output.keep=1"]), False)]
    assert result.stdout == ""
    assert "the model is in runs/x/model" in result.stderr


def test_resume_and_output(run: Any, trained: list[tuple[Recipe, bool]], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert run("recipes", "copy", "demo", file).exit_code == 0
    assert run("train", "-r", file, "--resume", "--output", tmp_path / "a b").exit_code == 0
    ((recipe, resume),) = trained
    assert recipe.output.folder == str(tmp_path / "a b")
    assert resume


def test_from_and_corpus(run: Any, trained: list[tuple[Recipe, bool]], tmp_path: Path) -> None:
    assert run("train", "--from", "runs/x", "--corpus", "mine.txt").exit_code == 0
    assert run("train", "-r", "demo", "-c", "mine.txt").exit_code == 0
    tuned = load_recipe("fine-tune", ["start_from=runs/x", "corpus.name=mine.txt"])
    assert [call[0] for call in trained] == [tuned, load_recipe("demo", ["corpus.name=mine.txt"])]
    refused = run("train", "-r", "demo", "--from", "runs/x")
    assert refused.exit_code == 2
    assert "Omit encoder.training, encoder.scratch" in refused.stderr


def test_other_processes_of_a_launcher_are_silent(
    run: Any, trained: list[tuple[Recipe, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run("train", "-r", "demo").stderr == ""


def test_check_prints_the_resolved_recipe(run: Any) -> None:
    result = run("train", "--recipe", "paper", "--set", "latent.dim=7", "--check")
    assert result.exit_code == 0
    values = yaml.safe_load(result.stdout)
    assert Recipe.model_validate(values) == load_recipe("paper", ["latent.dim=7"])


def test_check_reports_all_mistakes(run: Any) -> None:
    result = run(
        "train", "-r", "demo", "--check", "--set", "latent.dimm=7", "--set", "latent.slots=0"
    )
    assert result.exit_code == 2
    assert "2 mistakes" in result.stderr
    assert "did you mean 'dim'" in result.stderr


def test_train_without_a_recipe_lists_them(run: Any) -> None:
    result = run("train")
    assert result.exit_code == 2
    assert "demo" in result.stderr


def test_help_of_train_fits_one_screen(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("train", "--help").stdout.splitlines()
    assert len(lines) <= 50
    for name, summary in describe_groups():
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert line.split(maxsplit=1)[1].rstrip() == summary
    assert any("--help-all" in line for line in lines)


def test_help_all_lists_every_setting(run: Any) -> None:
    result = run("train", "--help-all")
    assert result.exit_code == 0
    assert "--recipe" in result.stdout
    for key, *_ in describe_settings():
        assert f"\n{key} " in result.stdout


def test_recipes(run: Any) -> None:
    rows = [json.loads(line) for line in run("recipes", "--json").stdout.splitlines()]
    assert [row["name"] for row in rows] == recipe_names()
    assert run("recipes").stdout.splitlines()[0].startswith(recipe_names()[0])


def test_show_and_copy(run: Any, tmp_path: Path) -> None:
    text = run("recipes", "show", "optimus").stdout
    assert text.startswith("# Optimus")
    run("recipes", "copy", "optimus", tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text() == text
    again = run("recipes", "copy", "demo", tmp_path / "mine.yaml")
    assert again.exit_code == 2
    assert "already exists" in again.stderr
    assert (tmp_path / "mine.yaml").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recipes", "show", "dem"], "Did you mean 'demo'"),
        (["recipes", "copy", "demo", "mine.txt"], "ends in .yaml"),
        (["recipes", "copy", "demo", "/nowhere/mine.yaml"], "could not write"),
        (["train", "-r", "missing.yaml"], "there is no recipe file missing.yaml"),
    ],
)
def test_bad_recipes(run: Any, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_corpora(run: Any) -> None:
    rows = [json.loads(line) for line in run("corpora", "--json").stdout.splitlines()]
    assert {"factors", "wordnet"} <= {row["name"] for row in rows}
    assert all(row["description"] and row["licence"] for row in rows)
    assert len(run("corpora").stdout.splitlines()) == len(rows)


def test_demo_is_a_call_of_run_demo(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("llamavae.demo.run_demo", lambda *args, model: calls.append((*args, model)))
    given = ["--output", "x", "--sentences", "y.txt", "-m", "mini", "--set", "objective.beta=1"]
    assert run("demo", *given).exit_code == 0
    assert run("demo").exit_code == 0  # LLAMAVAE_MODEL is set here and does not count
    assert calls == [
        (Path("x"), Path("y.txt"), ["objective.beta=1"], "mini"),
        (Path("runs/demo"), None, [], None),
    ]
