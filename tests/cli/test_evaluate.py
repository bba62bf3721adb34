from __future__ import annotations

import csv
import json

import pytest
from tests import tiny

from llamavae.evaluation.results import read_results


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    rows = [{"text": f"{tiny.SENTENCES[i % 8]} {i}", "kind": "ab"[i % 2]} for i in range(24)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def evaluation(corpus, output, *options):
    return (
        *("evaluate", "--corpus", corpus, "--split", "all", "--limit", 12, "-o", output),
        *("-e", "usage", *options),
    )


def test_evaluate_report_compare(corpus, run, tmp_path):
    result = run(*evaluation(corpus, tmp_path / "a", "--set", "usage.resamples=20"))
    assert result.exit_code == 0, result.stderr
    header, first, *_ = result.stdout.splitlines()
    assert header.split() == ["measure", "value", "control", "95", "%", "interval", "better"]
    assert first.split()[:3] == ["usage", "active", "units"]
    assert "[1/1] usage" in result.stderr
    assert "llamavae report" in result.stderr
    results = read_results(tmp_path / "a")
    assert results.data["corpus"] == str(corpus)
    assert results.data["labels"] == ["kind"]
    assert results.found["usage"].settings["resamples"] == 20
    assert results.model["run"] is None

    again = run(*evaluation(corpus, tmp_path / "a", "--set", "usage.resamples=20", "--json"))
    assert "is done already" in again.stderr
    rows = [json.loads(line) for line in again.stdout.splitlines()]
    assert rows == results.rows

    assert run("report", tmp_path / "a").exit_code == 0
    assert "active units" in (tmp_path / "a" / "report.html").read_text(encoding="utf-8")

    run(*evaluation(corpus, tmp_path / "b", "--set", "usage.resamples=20"))
    compared = run("compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "c")
    assert compared.exit_code == 0, compared.stderr
    names = [str(tmp_path / "a"), str(tmp_path / "b")]  # both are of the model "run0"
    assert compared.stdout.splitlines()[0].split() == ["measure", *names]
    with (tmp_path / "c" / "comparison.csv").open(encoding="utf-8") as file:
        assert {row["system"] for row in csv.DictReader(file)} == set(names)
    assert (tmp_path / "c" / "report.html").is_file()


def test_a_plain_sentence_encoder_is_skipped_where_it_cannot_do_it(corpus, run, tmp_path):
    options = ("--encoder", tiny.encoder("bert-mean"))
    result = run(*evaluation(corpus, tmp_path, *options))
    assert result.exit_code == 0, result.stderr
    assert "skipped: usage: needs a system with a posterior" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "quik"], "unknown suite 'quik'. Did you mean 'quick'"),
        (["-e", "usge"], "unknown evaluator 'usge'. Did you mean 'usage'"),
        (["-e", "usage", "--set", "usage.resample=1"], "Did you mean 'resamples'"),
        (["-e", "usage", "--set", "probes.k=1"], "probes is not run"),
        (["-e", "usage", "--set", "resamples=1"], "expected EVALUATOR.SETTING=VALUE"),
        (["-e", "usage", "--set", "usage.resamples=[1"], "the value is not YAML"),
        (["-e", "usage"], "name a corpus, a file of sentences or a hub id"),
    ],
)
def test_mistakes_are_named(options, message, run, tmp_path):
    result = run("evaluate", *options, "-o", tmp_path / "x")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "x").exists()


def test_folders_without_an_evaluation(run, tmp_path):
    for arguments in (["report", tmp_path], ["compare", tmp_path, tmp_path]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "holds no evaluation" in result.stderr


def test_an_unknown_evaluator_ends_before_training(run, tmp_path):
    result = run("train", "--recipe", "demo", "--select", "usge", "-o", tmp_path / "run")
    assert result.exit_code == 2
    assert "unknown evaluator 'usge'. Did you mean 'usage'" in result.stderr
    assert not (tmp_path / "run").exists()
