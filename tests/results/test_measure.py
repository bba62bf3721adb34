"""Running experiments: what is run again, and which values are kept."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from results import experiments, measure
from results.experiments import Experiment, read_results

from llamavae.errors import UserError
from llamavae.evaluation import Prediction, Predictions, Scorer, write_predictions


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Results are written to a temporary folder, and nothing is encoded."""
    monkeypatch.setattr(experiments, "HERE", tmp_path)
    monkeypatch.setattr(measure, "_scorer", lambda seed: Scorer(seed=seed, resamples=10))


def runs(folder: Path, experiment: Experiment) -> list[str]:
    """The commands that were run, in order."""
    with contextlib.suppress(UserError):
        measure.measure("mine", experiment, folder)
    lines = (folder / "mine" / "usage.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["command"] for line in lines]


def write(file: Path, text: str) -> None:
    """Write a file, with its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def test_a_command_that_succeeded_is_not_repeated(tmp_path):
    experiment = Experiment(commands=["mkdir {folder}/one", "ls {folder}/two"])
    folder = tmp_path / "mine"
    first = runs(tmp_path, experiment)
    assert first == [f"mkdir {folder}/one", f"ls {folder}/two"]
    assert read_results("mine") is None  # the second command failed
    (folder / "two").mkdir()
    assert runs(tmp_path, experiment) == [*first, f"ls {folder}/two"]
    results = read_results("mine")
    assert results is not None
    assert results[0]["commands"] == experiment.commands
    assert results[0]["processor_seconds"] >= 0


def test_the_commits_are_those_of_the_commands(tmp_path, monkeypatch):
    experiment = Experiment(commands=["true", "ls {folder}/two"])
    now = measure.provenance()
    monkeypatch.setattr(measure, "provenance", lambda: {**now, "commit": "1111111"})
    runs(tmp_path, experiment)
    (tmp_path / "mine" / "two").mkdir()
    monkeypatch.setattr(measure, "provenance", lambda: {**now, "commit": "2222222"})
    runs(tmp_path, experiment)
    monkeypatch.setattr(measure, "provenance", lambda: {**now, "commit": "3333333"})
    runs(tmp_path, experiment)  # reads the values again
    results = read_results("mine")
    assert results is not None
    assert results[0]["commit"] == "1111111, 2222222"


def test_a_failed_command_is_named(tmp_path):
    with pytest.raises(UserError, match="exit status 2: ls"):
        measure.measure("mine", Experiment(commands=["ls {folder}/nothing"]), tmp_path)


def test_what_it_requires_is_checked_first(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("NO_SUCH_DATA", raising=False)
    experiment = Experiment(commands=["false"], requires=["NO_SUCH_DATA"])
    assert not measure.measure("mine", experiment, tmp_path)
    assert "requires NO_SUCH_DATA" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_files_of_other_experiments_can_be_required(tmp_path, capsys):
    experiment = Experiment(commands=["cat {runs}/other/a.txt"], requires=["{runs}/other/a.txt"])
    assert not measure.measure("mine", experiment, tmp_path)
    assert f"requires {tmp_path}/other/a.txt" in capsys.readouterr().err
    write(tmp_path / "other" / "a.txt", "")
    assert measure.measure("mine", experiment, tmp_path)


def test_predictions_are_scored_with_and_without_lines_of_the_training_set(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "_training", lambda corpus: frozenset({"a dog runs in a park"}))
    texts = ["a dog runs in a park", "one owl reads a letter", "two owls read the letters"]
    items = [
        Prediction(str(i), text if i == 1 else "no", (text,), "no") for i, text in enumerate(texts)
    ]
    (tmp_path / "mine").mkdir()
    write_predictions(Predictions(items, "mine"), tmp_path / "mine" / "texts.jsonl")
    (tmp_path / "mine" / "texts.cost.json").write_text('{"peak memory": 1.5}')
    experiment = Experiment(commands=["true"], predictions={"encoder": "texts.jsonl"}, train="any")
    assert measure.measure("mine", experiment, tmp_path)
    results = read_results("mine")
    assert results is not None
    exact = {r["group"]: r["value"] for r in results[1] if r["metric"] == "exact match"}
    assert exact == {"all": pytest.approx(1 / 3), "not in train": 0.5}
    assert results[1][-1] == {"source": "encoder", "metric": "peak memory", "value": 1.5}


def test_measured_experiments_are_not_repeated_until_their_commands_change(tmp_path, monkeypatch):
    done: list[str] = []
    monkeypatch.setattr(measure, "measure", lambda name, experiment, folder: done.append(name))
    known = {"old": Experiment(commands=["true"]), "new": Experiment(commands=["true"])}
    experiments.write_results("old", {"commands": ["true"]}, [])
    measure.measure_all([], known, tmp_path)
    assert done == ["new"]
    measure.measure_all(["old"], known, tmp_path)
    assert done == ["new", "old"]
    measure.measure_all([], {"old": Experiment(commands=["true", "true"])}, tmp_path)
    assert done == ["new", "old", "old"]


def test_commands_may_have_braces_of_yaml(tmp_path, monkeypatch):
    monkeypatch.setenv("PUBLIC", "some place")
    experiment = Experiment(commands=["echo '{a: {runs}/b}' {folder} '$PUBLIC/c'"])
    expected = f"echo '{{a: {tmp_path}/b}}' {tmp_path}/mine 'some place/c'"
    assert runs(tmp_path, experiment) == [expected]


def test_the_seeds_of_a_study_are_kept(tmp_path):
    rows = [{"system": "glow", "metric": "BLEU", "group": "", "value": 1.0, "control": None}]
    systems = {f"glow/{seed}": [{**row, "seed": seed} for row in rows] for seed in (0, 1)}
    (tmp_path / "mine/study").mkdir(parents=True)
    (tmp_path / "mine/study/study.json").write_text(json.dumps({"systems": systems}))
    assert measure.measure("mine", Experiment(commands=["true"], studies=["study"]), tmp_path)
    results = read_results("mine")
    assert results is not None
    kept = {"source": "study", "metric": "BLEU", "group": "glow", "value": 1.0}
    assert results[1] == [{**kept, "seed": 0}, {**kept, "seed": 1}]


def test_training_sweeps_comparisons_and_studies_are_read(tmp_path):
    folder = tmp_path / "mine"
    write(folder / "run" / "recipe.yaml", "optimisation: {batch_size: 9}")
    write(folder / "run" / "log.jsonl", '{"step": 20, "nll": 30.5}\n{"step": 20, "eval_nll": 1}\n')
    spent = {"llamavae train -r demo": 90, "llamavae train -r other": 1000}  # no longer listed
    lines = [{"command": key, "status": 0, "seconds": value} for key, value in spent.items()]
    write(folder / "usage.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    study = '{"systems": {"glow/0": [{"system": "glow", "seed": 0, "metric": "BLEU", "value": 2}]}}'
    write(folder / "study" / "study.json", study)
    head = "system,seed,metric,against,difference,low,high,p\n"
    write(folder / "study" / "differences.csv", f"{head}glow,0,BLEU,nearest,0.5,0.1,0.9,0.02\n")
    write(folder / "study" / "differences-b.csv", f"{head}glow,0,BLEU,other,0.3,0.2,0.4,0.01\n")
    head = "geometry,quality,spearman,low,high,p,n\n"
    rows = "IsoScore,BLEU,0.5,-0.1,0.8,0.1,12\nMIG,BLEU,,,,,12\n"
    write(folder / "sweep" / "correlations.csv", head + rows)
    head = "evaluator,metric,group,value,low,high,n,difference,difference_low,difference_high,p\n"
    rows = "sts,BLEU,part,2,1,3,50,0.5,0.1,0.9,0.02\nsts,cost,,2,1,3,50,0.5,,,\n"
    write(folder / "comparison" / "comparison.csv", head + rows)
    experiment = Experiment(
        commands=["llamavae train -r demo"],
        studies=["study"],
        sweeps=["sweep"],
        comparisons=["comparison"],
    )
    assert measure.measure("mine", experiment, tmp_path)
    results = read_results("mine")
    assert results is not None
    assert results[1] == [
        {"source": "study", "metric": "BLEU", "value": 2, "seed": 0, "group": "glow"},
        {"source": "study/differences", "metric": "BLEU", "group": "glow", "seed": 0}
        | {"value": 0.5, "low": 0.1, "high": 0.9, "p": 0.02},
        {"source": "study/differences-b", "metric": "BLEU", "group": "glow", "seed": 0}
        | {"value": 0.3, "low": 0.2, "high": 0.4, "p": 0.01},
        {"source": "comparison/sts/differences", "metric": "BLEU", "group": "part", "value": 0.5}
        | {"low": 0.1, "high": 0.9, "p": 0.02, "n": 50},
        {"source": "sweep", "metric": "correlation with BLEU", "group": "IsoScore", "value": 0.5}
        | {"low": -0.1, "high": 0.8, "p": 0.1, "n": 12},
        {"source": "training", "metric": "processor minutes", "value": 1.5},
        {"source": "training", "metric": "sentences", "value": 180},
        {"source": "training", "metric": "sentences per processor second", "value": 2.0},
        {"source": "training", "metric": "NLL", "step": 20, "value": 30.5}
        | {"unit": "nats per sentence"},
    ]


def test_the_training_of_langvae_is_read(tmp_path):
    record = {
        "training": {"steps": 12},
        "settings": {"batch": 50},
        "processor_seconds": {"training": 120.0},
    }
    write(tmp_path / "mine" / "run.json", json.dumps(record))
    write(tmp_path / "mine" / "usage.jsonl", "")
    assert measure.measure("mine", Experiment(commands=[]), tmp_path)
    results = read_results("mine")
    assert results is not None
    assert {line["metric"]: line["value"] for line in results[1]} == {
        "processor minutes": 2.0,
        "sentences": 600,
        "sentences per processor second": 5.0,
    }
