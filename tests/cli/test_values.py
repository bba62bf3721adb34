"""Values of options are taken as they are, also where YAML reads a date, number or boolean."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import tiny
from tests.experiments.test_sweep import RECIPE

from llamavae.evaluation.results import read_results
from llamavae.modeling import load_prior
from llamavae.training.recipe import load_recipe

VALUES = ("2024-01-01", "2024", "no", "1e3")
NAMES = [(v, VALUES[i - 1], VALUES[i - 2]) for i, v in enumerate(VALUES)]  # no two are equal

pytestmark = pytest.mark.parametrize(("corpus", "output", "column"), NAMES)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str, column: str) -> Path:
    """A working directory with a corpus in a folder of that name, its texts in that column."""
    monkeypatch.chdir(tmp_path)
    rows = [{column: f"{tiny.SENTENCES[i % 8]} {i}", "n": i} for i in range(60)]
    Path(corpus).mkdir()
    (Path(corpus) / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    Path("tiny.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return tmp_path


def succeed(result: Any) -> Any:
    assert result.exit_code == 0, result.stderr
    return result


def test_train(run: Any, corpus: str, output: str, column: str) -> None:
    steps = ("--set", "optimisation.steps=1")
    succeed(run("train", "-r", "tiny.yaml", "--corpus", corpus, "--output", output, *steps))
    recipe = load_recipe(Path(output) / "recipe.yaml")
    assert (recipe.corpus.name, recipe.output.folder) == (corpus, output)
    again = run("train", "--from", output, "-c", corpus, "-o", "tuned", "--check")
    assert yaml.safe_load(succeed(again).stdout)["start_from"] == output


def test_sweep(run: Any, corpus: str, output: str, column: str) -> None:
    options = ("--vary", "objective.beta=0.1", "--set", "optimisation.steps=1")
    succeed(run("sweep", "-r", "tiny.yaml", *options, "--output", output))
    assert (Path(output) / "sweep.csv").is_file()


def test_fit_prior(run: Any, corpus: str, output: str, column: str) -> None:
    options = ("--corpus", corpus, "--column", column, "--output", output)
    succeed(run("fit-prior", *options, "--prior", "gaussian"))
    assert load_prior(Path(output)).report["corpus"] == corpus
    succeed(run("sample", "1", "--prior", output))


def test_fit_condition(run: Any, corpus: str, output: str, column: str) -> None:
    rows = [{"text": f"{tiny.SENTENCES[i % 8]} {i}", column: f"w{i}"} for i in range(60)]
    (Path(corpus) / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    options = ("--corpus", corpus, "--word", column, "--output", output, "--split", "all")
    succeed(run("fit-condition", *options, "--flow", "gaussian", "--steps", "2"))
    assert (Path(output) / "vocabulary.txt").read_text().splitlines()[:2] == ["w0", "w1"]
    succeed(run("define", "w0", "--model", output))


def test_evaluate_report_and_compare(run: Any, corpus: str, output: str, column: str) -> None:
    options = ("--corpus", corpus, "--output", output, "--split", "all", "--limit", "8")
    succeed(run("evaluate", *options, "-e", "latent_usage", "--set", "latent_usage.resamples=20"))
    assert read_results(Path(output)).data["corpus"] == corpus
    succeed(run("report", output))
    shutil.copytree(output, "copy")
    succeed(run("compare", output, "copy", "--output", column))
    assert (Path(column) / "comparison.csv").is_file()


def test_encode_decode_and_neighbours(run: Any, corpus: str, output: str, column: str) -> None:
    file, codes = Path(corpus) / "train.jsonl", f"{output}.parquet"
    source = ("--file", file, "--column", column)
    succeed(run("encode", *source, "--output", codes))
    decoded = succeed(run("decode", "--file", codes)).stdout
    assert decoded == succeed(run("reconstruct", *source)).stdout
    assert len(succeed(run("neighbours", corpus, *source, "-k", "2")).stdout.splitlines()) == 2


def test_texts(run: Any, corpus: str, output: str, column: str) -> None:
    row = json.loads(succeed(run("reconstruct", corpus, "--json")).stdout)
    assert row["text"] == corpus
