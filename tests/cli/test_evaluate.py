from __future__ import annotations

import csv
import json
from itertools import pairwise

import pytest
from tests import tiny

from llamavae.evaluation.results import read_results
from llamavae.folders import MARKER
from llamavae.modeling.loading import load_sentence_encoder


@pytest.fixture
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    rows = [{"text": f"{tiny.SENTENCES[i % 8]} {i}", "kind": "ab"[i % 2]} for i in range(24)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def evaluation(corpus, output, *options):
    return (
        *("evaluate", "--corpus", corpus, "--split", "all", "--limit", 12, "-o", output),
        *("-e", "latent_usage", *options),
    )


def test_evaluate_report_compare(corpus, run, tmp_path):
    result = run(*evaluation(corpus, tmp_path / "a", "--set", "latent_usage.resamples=20"))
    assert result.exit_code == 0, result.stderr
    header, first, *_ = result.stdout.splitlines()
    assert header.split() == ["metric", "value", "control", "95", "%", "interval", "better"]
    assert first.split()[:3] == ["latent_usage", "active", "units"]
    assert "[1/1] latent_usage" in result.stderr
    assert "llamavae report" in result.stderr
    results = read_results(tmp_path / "a")
    assert results.data["corpus"] == str(corpus)
    assert results.data["labels"] == ["kind"]
    assert results.found["latent_usage"].settings["resamples"] == 20
    assert results.model["run"] is None

    again = run(*evaluation(corpus, tmp_path / "a", "--set", "latent_usage.resamples=20", "--json"))
    assert "already complete" in again.stderr
    rows = [json.loads(line) for line in again.stdout.splitlines()]
    assert rows == results.rows

    assert run("report", tmp_path / "a").exit_code == 0
    assert "active units" in (tmp_path / "a" / "report.html").read_text(encoding="utf-8")

    run(*evaluation(corpus, tmp_path / "b", "--set", "latent_usage.resamples=20"))
    compared = run("compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "c")
    assert compared.exit_code == 0, compared.stderr
    names = [str(tmp_path / "a"), str(tmp_path / "b")]  # both are of the model "run0"
    assert compared.stdout.splitlines()[0].split() == ["metric", *names]
    with (tmp_path / "c" / "comparison.csv").open(encoding="utf-8") as file:
        assert {row["system"] for row in csv.DictReader(file)} == set(names)
    assert (tmp_path / "c" / "report.html").is_file()


def test_refined_codes_are_named_in_the_results(corpus, run, tmp_path):
    options = ("--limit", 4, "--refine", 1)
    assert run(*evaluation(corpus, tmp_path, *options)).exit_code == 0
    results = read_results(tmp_path)
    assert results.system.endswith("-refined-1")
    assert results.model["refine"]["steps"] == 1
    assert run("report", tmp_path).exit_code == 0
    assert "refined" in (tmp_path / "report.html").read_text(encoding="utf-8")
    other = run(*evaluation(corpus, tmp_path, "--limit", 4))
    assert "holds an evaluation with another model" in other.stderr
    result = run(*evaluation(corpus, tmp_path, *options, "--encoder", tiny.encoder("bert-mean")))
    assert "--refine requires a model" in result.stderr


def test_a_plain_sentence_encoder_is_skipped_where_it_cannot_do_it(corpus, run, tmp_path):
    options = ("--encoder", tiny.encoder("bert-mean"))
    result = run(*evaluation(corpus, tmp_path, *options))
    assert result.exit_code == 0, result.stderr
    assert "skipped: latent_usage: needs a system with a posterior" in result.stderr


def test_a_plain_sentence_encoder_is_placed_like_a_model(corpus, run, tmp_path):
    folder = tiny.encoder("bert-mean")
    options = ("--encoder", folder, "--device", "cpu", "--dtype", "bfloat16", "-e", "probes")
    result = run(*evaluation(corpus, tmp_path, *options))
    assert result.exit_code == 0, result.stderr
    half = load_sentence_encoder(folder, dtype="bfloat16")
    assert read_results(tmp_path).model["fingerprint"] == half.cache_key()
    result = run(*evaluation(corpus, tmp_path, "--encoder", folder, "--device", "tpu9"))
    assert result.exit_code == 2
    assert "unknown device 'tpu9'" in result.stderr


def test_an_evaluator_that_fails_is_no_success(corpus, run, tmp_path):
    options = ("-e", "probes", "--set", "probes.tasks=[Depth]", "--set", "probes.folder=nowhere")
    result = run(*evaluation(corpus, tmp_path, *options))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].startswith("latent_usage")
    assert "failed: probes: no file nowhere/tree_depth.txt" in result.stderr
    assert result.stderr.splitlines()[-1] == "error: 1 of 2 evaluators failed: probes"
    assert list(read_results(tmp_path).failed) == ["probes"]
    # what failed before is no failure of this command
    assert run(*evaluation(corpus, tmp_path)).exit_code == 0


def test_benchmarks_that_are_not_found_are_named(corpus, run, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("".join(f"{a},{b},{i}\n" for i, (a, b) in enumerate(pairwise("abcdef"))))
    options = ("--corpus", corpus, "--split", "all", "--suite", "paper", "-e", "sts")
    files = ("--set", f"sts.files={{stsb: {pairs}}}")
    result = run("evaluate", *options, *files, "-o", tmp_path / "a")
    assert result.exit_code == 0, result.stderr
    assert "STS Spearman" in result.stdout
    assert "not found: sts, STS12: STS12 is the split 'test' of 'mteb/sts12-sts'" in result.stderr
    assert next(iter(read_results(tmp_path / "a").not_found)) == "sts, STS-B test"


def test_probes_without_sentevals_files_are_a_success(corpus, run, tmp_path, monkeypatch):
    monkeypatch.delenv("LLAMAVAE_SENTEVAL", raising=False)
    options = ("--corpus", corpus, "--split", "all", "--suite", "paper", "-e", "probes")
    result = run("evaluate", *options, "-o", tmp_path / "a")
    assert result.exit_code == 0, result.stderr
    assert "accuracy above majority" in result.stdout
    assert "accuracy above majority, length in words" in result.stdout
    [line] = [line for line in result.stderr.splitlines() if line.startswith("not found: ")]
    assert line.startswith("not found: probes, SentEval Length; probes, SentEval WordContent; ")
    assert line.endswith("or set LLAMAVAE_SENTEVAL to it")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "quik"], "unknown suite 'quik'. Did you mean 'quick'"),
        (["-e", "latent_usge"], "unknown evaluator 'latent_usge'. Did you mean 'latent_usage'"),
        (["-e", "latent_usage", "--set", "latent_usage.resample=1"], "Did you mean 'resamples'"),
        (
            ["-e", "latent_usage", "--set", "probes.k=1"],
            "evaluator probes is not selected; selected: latent_usage",
        ),
        (["-e", "latent_usage", "--set", "resamples=1"], "expected EVALUATOR.SETTING=VALUE"),
        (
            ["-e", "latent_usage", "--set", "latent_usage.resamples=[1"],
            "is not valid YAML",
        ),
        (["-e", "sts", "--set", "sts.files=x.csv"], "sts.files takes names with values"),
        (["-m", "mini", "--encoder", "x"], "expected --model or --encoder, not both"),
        (["-e", "latent_usage"], "Pass a corpus, a file of sentences or a hub id"),
    ],
)
def test_mistakes_are_named(options, message, run, tmp_path):
    result = run("evaluate", *options, "-o", tmp_path / "x")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "x").exists()


def test_the_folder_of_a_sweep_is_refused_before_anything_is_loaded(corpus, run, tmp_path):
    (tmp_path / MARKER).write_text('{"kind": "a sweep"}')
    result = run(*evaluation(corpus, tmp_path, "--model", "no-such-model"))
    assert result.exit_code == 2
    assert f"{tmp_path} holds a sweep" in result.stderr
    assert "Choose another folder with --output" in result.stderr


def test_folders_without_an_evaluation(run, tmp_path):
    for arguments in (["report", tmp_path], ["compare", tmp_path, tmp_path]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "holds no evaluation" in result.stderr


def test_an_unknown_evaluator_ends_before_training(run, tmp_path):
    result = run("train", "--recipe", "demo", "--select", "latent_usge", "-o", tmp_path / "run")
    assert result.exit_code == 2
    assert "unknown evaluator 'latent_usge'. Did you mean 'latent_usage'" in result.stderr
    assert not (tmp_path / "run").exists()
