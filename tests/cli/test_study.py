from __future__ import annotations

import csv
import json
import shutil

import pytest
from tests import tiny

from llamavae import InvertibleCVAE
from llamavae.flows.fitting import _Run
from llamavae.folders import MARKER


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("study")
    tiny.vae(max_tokens=8).save_pretrained(place / "vae")
    rows = [{"text": f"{tiny.SENTENCES[i % 8]} {i}", "word": f"word{i}"} for i in range(80)]
    (place / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return place


def command(folder, verb, output, *options):
    return (
        *("study", verb, "--model", str(folder / "vae"), "--corpus", str(folder / "pairs.jsonl")),
        *("--steps", "2", "--texts", "3", "-o", str(output), *options),
    )


GAUSSIANS = ("--flow", "gaussian", "--flow", "linear-gaussian", "--form", "reference")


@pytest.fixture
def done(folder, run, tmp_path):
    """A copy of a study of `GAUSSIANS`, which is made once."""
    place = folder / "gaussians"
    if not place.is_dir():
        result = run(*command(folder, "flows", place, *GAUSSIANS))
        assert result.exit_code == 0, result.stderr
    return shutil.copytree(place, tmp_path / "study")


def test_flows(folder, run, tmp_path):
    options = ("--flow", "linear-gaussian", "--flow", "glow", "--form", "reference")
    result = run(*command(folder, "flows", tmp_path, *options))
    assert result.exit_code == 0, result.stderr
    files = {MARKER, "study.json", "scores.csv", "scores.png", "models", "predictions"}
    assert {p.name for p in tmp_path.iterdir()} == files | {"differences.csv"}
    model = str(tmp_path / "models" / "glow-reference-0")
    assert run("reverse", "some words", "-k", "2", "--model", model).exit_code == 0
    with (tmp_path / "scores.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert {row["system"] for row in table} == {"linear-gaussian", "glow reference"}
    assert len(result.stdout.splitlines()) == len(table)
    saved = json.loads((tmp_path / "study.json").read_text())
    assert saved["made by"]["command"]
    assert saved["settings"]["steps"] == 2


def test_a_study_goes_on_where_it_was_interrupted(folder, run, done):
    saved = json.loads((done / "study.json").read_text())
    first = saved["systems"].pop("gaussian/0")
    (done / "study.json").write_text(json.dumps(saved))
    result = run(*command(folder, "flows", done, *GAUSSIANS))
    again = json.loads((done / "study.json").read_text())["systems"]
    assert again["linear-gaussian/0"] == saved["systems"]["linear-gaussian/0"]  # kept, times too
    nll = {row["metric"]: row["value"] for row in again["gaussian/0"]}["held-out NLL"]
    assert nll == {row["metric"]: row["value"] for row in first}["held-out NLL"]
    assert "linear-gaussian/0 is done" not in result.stderr


def test_other_settings_are_refused(folder, run, done):
    other = run(*command(folder, "flows", done, *GAUSSIANS, "--candidates", "3"))
    assert other.exit_code == 2
    assert "other settings" in other.stderr


def test_an_interrupted_study_says_how_to_go_on_and_keeps_its_folder(
    folder, run, tmp_path, monkeypatch
):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    options = ("--flow", "glow", "--form", "reference")
    with monkeypatch.context() as patched:
        patched.setattr(_Run, "_train_and_evaluate", interrupted)
        stopped = run(*command(folder, "flows", tmp_path, *options))
    assert stopped.exit_code == 130
    assert "repeat the command to resume" in stopped.stderr
    other = run(*command(folder, "flows", tmp_path, *options, "--candidates", "3"))
    assert other.exit_code == 2
    assert "other settings" in other.stderr
    assert run(*command(folder, "flows", tmp_path, *options)).exit_code == 0


@pytest.mark.parametrize("damaged", ["{", "{}", "[]"])
def test_a_damaged_study_is_refused_and_left_as_it_is(folder, run, tmp_path, damaged):
    (tmp_path / MARKER).touch()
    (tmp_path / "study.json").write_text(damaged)
    result = run(*command(folder, "flows", tmp_path, "--flow", "gaussian"))
    assert result.exit_code == 2
    assert "is damaged" in result.stderr
    assert (tmp_path / "study.json").read_text() == damaged


def test_a_study_that_is_done_keeps_what_made_it(folder, run, done, monkeypatch):
    before = (done / "study.json").read_bytes()
    monkeypatch.setattr("llamavae.provenance.provenance", lambda: {"commit": "later"})
    assert run(*command(folder, "flows", done, *GAUSSIANS)).exit_code == 0
    assert (done / "study.json").read_bytes() == before


def test_a_folder_that_cannot_be_made(folder, run, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(*command(folder, "flows", tmp_path / "file" / "x", "--flow", "gaussian"))
    assert result.exit_code == 2
    assert "a file is in the way. Choose another --output" in result.stderr


def test_definitions(folder, run, tmp_path):
    options = ("--cvae-steps", "2", "--tuned-steps", "2")
    result = run(*command(folder, "definitions", tmp_path, *options))
    assert result.exit_code == 0, result.stderr
    assert "reconstruction (ceiling)" in result.stdout
    assert " minus nearest neighbour, " in result.stderr
    with (tmp_path / "differences.csv").open(encoding="utf-8") as file:
        tests = list(csv.DictReader(file))
    assert {row["metric"] for row in tests} >= {"sense-BLEU", "lemma-BLEU", "encoder cosine"}
    against = {(row["metric"], row["against"]) for row in tests}
    assert ("sense-BLEU", "nearest neighbour") in against
    assert ("median rank", "linear-gaussian") in against
    assert {reference for _, reference in against} == {"nearest neighbour", "linear-gaussian"}
    assert all(0 < float(row["p"]) <= 1 for row in tests)
    assert "items" not in (tmp_path / "scores.csv").read_text().splitlines()[0]
    assert len(list((tmp_path / "predictions").iterdir())) == 9
    assert (tmp_path / "predictions" / "tuned-decoder-0.jsonl").is_file()
    assert json.loads((tmp_path / "study.json").read_text())["settings"]["tuned_steps"] == 2
    again = run(*command(folder, "definitions", tmp_path, *options))  # a study that is done
    assert again.exit_code == 0, again.stderr
    assert "is done" not in again.stderr
    other = run(*command(folder, "definitions", tmp_path, "--cvae-steps", "2"))
    assert "other settings" in other.stderr

    # the metrics of the saved definitions are those of the study
    with (tmp_path / "scores.csv").open(encoding="utf-8") as file:
        expected = {
            row["metric"]: [float(row["value"]), float(row["control"])]
            for row in csv.DictReader(file)
            if row["system"] == "nearest neighbour" and row["control"]
        }
    saved = tmp_path / "predictions" / "nearest-neighbour-0.jsonl"
    scored = run("score", saved, "--resamples", "5", "--json")
    assert scored.exit_code == 0, scored.stderr
    rows = [json.loads(line) for line in scored.stdout.splitlines()]
    found = {row["metric"]: [row["value"], row["control"]] for row in rows}
    assert rows[0]["system"] == "nearest neighbour/0"
    for name in ("sense-BLEU", "lemma-BLEU", "BLEU"):
        assert found[name] == pytest.approx(expected[name])


def test_definitions_of_words_in_sentences_by_several_draws(folder, run, tmp_path):
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    rows = [{**row, "sentence": f"look, {row['word']}!"} for row in rows]
    corpus = tmp_path / "sentences.jsonl"
    corpus.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    options = ("--corpus", str(corpus), "--context", "sentence", "--cvae-steps", "2")
    asked = ("--draws", "3", "--spread", "0.5", "--tuned-steps", "0")
    result = run(*command(folder, "definitions", tmp_path / "out", *options, *asked))
    assert result.exit_code == 0, result.stderr
    assert "tuned decoder" not in result.stdout
    settings = json.loads((tmp_path / "out" / "study.json").read_text())["settings"]
    assert (settings["draws"], settings["context"]) == (3, "sentence")
    wrong = run(*command(folder, "definitions", tmp_path / "none", "--draws", "3"))
    assert wrong.exit_code == 2
    assert "--spread above 0" in wrong.stderr
    assert not (tmp_path / "none" / "models").exists()


def test_an_unknown_flow_is_refused(folder, run, tmp_path):
    options = ("--flow", "gaussian", "--flow", "glw")
    result = run(*command(folder, "flows", tmp_path, *options))
    assert result.exit_code == 2
    assert "'glow'" in result.stderr
    assert not (tmp_path / "study.json").exists()  # before any is fitted
    result = run(*command(folder, "flows", tmp_path, "--form", "refrence"))
    assert "Did you mean 'reference'" in result.stderr


@pytest.mark.parametrize("verb", ["flows", "definitions"])
def test_contrast_is_for_the_reference_form(folder, run, tmp_path, verb, monkeypatch):
    asked = []
    plain = InvertibleCVAE.build
    monkeypatch.setattr(
        InvertibleCVAE, "build", lambda *given, **kw: asked.append(kw) or plain(*given, **kw)
    )
    options = ("--contrastive-weight", "2", "--base-hidden", "4", "--ensemble-size", "3")
    wrong = run(*command(folder, verb, tmp_path, *options, "--form", "conditional"))
    assert wrong.exit_code == 2
    assert "require the reference form" in wrong.stderr
    options = (*options, "--form", "reference")
    if verb == "flows":
        options = (*options, "--flow", "glow", "--flow", "linear-gaussian")
    else:
        options = (*options, "--cvae-steps", "2", "--tuned-steps", "0")
    result = run(*command(folder, verb, tmp_path, *options, "--train-batch-size", "8"))
    assert result.exit_code == 0, result.stderr
    assert asked
    assert all(given == {"base_hidden": [4], "ensemble_size": 3, "dropout": 0.0} for given in asked)


def test_words_have_one_vector(folder, run, tmp_path):
    options = ("--encoder", "e", "--word-vectors", "w.vec")
    result = run(*command(folder, "definitions", tmp_path, *options))
    assert result.exit_code == 2
    assert "--word-vectors or --encoder, not both" in result.stderr


def test_a_scorer_that_is_not_there_is_refused_before_anything_is_fitted(folder, run, tmp_path):
    options = ("--flow", "gaussian", "--mover", str(tmp_path / "none"))
    result = run(*command(folder, "flows", tmp_path / "out", *options))
    assert result.exit_code == 2
    assert "MoverScore" in result.stderr
    assert not (tmp_path / "out").exists()
