from __future__ import annotations

import csv
import json

import pytest
from tests import tiny

from llamavae.evaluation.predictions import Prediction, Predictions, write_predictions
from llamavae.modeling.loading import load_sentence_encoder

TEXTS = ["a lamp for the hand", "a dog that guards a house", "the sound of rain", "a harsh noise"]
REFERENCES = ["a lamp that fits in the hand", "a dog that guards the house", *TEXTS[2:]]


def predictions(place, name, texts, split="test", **options):
    items = [
        Prediction(str(i), text, (reference,))
        for i, (text, reference) in enumerate(zip(texts, REFERENCES, strict=True))
    ]
    write_predictions(Predictions(items, split=split, **options), place / name)
    return place / name


@pytest.fixture
def first(tmp_path):
    return predictions(tmp_path, "first.jsonl", TEXTS, system="ours")


def test_a_file_is_scored(first, run, tmp_path):
    options = ("--resamples", 20, "-o", tmp_path / "out")
    result = run("score", first, *options)
    assert result.exit_code == 0, result.stderr
    header, bleu, *_ = result.stdout.splitlines()
    assert header.split() == ["metric", "value", "control", "95", "%", "interval", "better"]
    assert bleu.split()[0] == "BLEU"
    with (tmp_path / "out" / "scores.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    saved = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert [metric["name"] for metric in saved["metrics"]] == [row["metric"] for row in table]
    assert saved["systems"][0]["items"] == 4
    assert saved["settings"]["resamples"] == 20
    as_json = run("score", first, *options, "--json")
    rows = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert rows == saved["rows"]
    assert rows[0]["system"] == "ours"
    assert rows[0]["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_files_are_compared(first, run, tmp_path):
    other = predictions(tmp_path, "second.jsonl", REFERENCES)
    result = run("score", first, other, "--resamples", 20)
    assert result.exit_code == 0, result.stderr
    header, *lines = result.stdout.splitlines()
    assert header.split()[:3] == ["metric", "system", "value"]
    assert header.split()[-3:] == ["difference", "p", "verdict"]
    assert lines[1].split()[:2] == ["BLEU", str(other)]  # without a name of its own
    assert "+" in lines[1]
    other = predictions(tmp_path, "second.jsonl", REFERENCES, split="dev")
    result = run("score", first, other)
    assert result.exit_code == 2
    assert "the split of one is 'test', that of the other 'dev'" in result.stderr


def test_an_encoder_adds_the_cosine(first, run):
    folder = tiny.encoder("bert-mean")
    result = run("score", first, "--encoder", folder, "--resamples", 5, "--json")
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    signatures = {row["metric"]: row["signature"] for row in rows if "signature" in row}
    assert {"BLEU", "chrF", "BLEU-1", "encoder cosine"} < set(signatures)
    assert str(folder) in signatures["encoder cosine"]
    assert "|version:llamavae " in signatures["encoder cosine"]
    judges = {row["metric"]: row["judge"] for row in rows if "judge" in row}
    assert judges == {"encoder cosine": load_sentence_encoder(folder).cache_key()}


def test_submissions_in_and_out(first, run, tmp_path):
    made = run("score", first, "--resamples", 5, "--submission", tmp_path / "mine.json")
    assert made.exit_code == 0, made.stderr
    official = [
        {"id": str(i), "word": f"w{i // 2}", "pos": "noun", "gloss": text}
        for i, text in enumerate(REFERENCES)
    ]
    (tmp_path / "gold.json").write_text(json.dumps(official))
    options = ("--references", tmp_path / "gold.json", "--resamples", 5, "--json")
    result = run("score", tmp_path / "mine.json", *options)
    assert result.exit_code == 0, result.stderr
    rows = {r["metric"]: r for r in map(json.loads, result.stdout.splitlines())}
    assert rows["BLEU"]["system"] == "mine"
    assert 0 < rows["sense-BLEU"]["value"] <= rows["lemma-BLEU"]["value"] < 1
    scored = run("score", first, "--resamples", 5, "--json")
    assert json.loads(scored.stdout.splitlines()[0])["value"] == rows["BLEU"]["value"]


def test_mistakes_are_named(first, run, tmp_path):
    for arguments, message in (
        ((first, "--references", first), "--references requires a submission (.json)"),
        ((tmp_path / "mine.json",), "expected --references with the complete file of CODWOE"),
        ((first, first, "--submission", "x.json"), "--submission requires a single file"),
        ((first, first), "expected systems with different names"),
        ((first, "-o", tmp_path), "holds files of something else"),
        ((tmp_path / "fist.jsonl",), "Did you mean"),
    ):
        result = run("score", *arguments)
        assert result.exit_code == 2, arguments
        assert message in result.stderr


def test_a_submission_replaces_no_file(first, run, tmp_path):
    (tmp_path / "mine.json").write_text("mine")
    for place in (tmp_path / "mine.json", first):
        before = place.read_text()
        result = run("score", first, "--submission", place)
        assert result.exit_code == 2
        assert "already exists. Choose another name for --submission" in result.stderr
        assert place.read_text() == before


def test_a_file_whose_name_is_not_in_utf8(first, run, tmp_path):
    path = first.rename(tmp_path / "caf\udce9.jsonl")
    result = run("score", path, "--resamples", 5, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    saved = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert saved["systems"][0]["file"] == str(path)
