from __future__ import annotations

import csv
import io
import json
import shutil

import pytest
from rich.console import Console

from llamavae import LlaMaVAE
from llamavae.corpora import factors
from llamavae.demo import run_demo
from llamavae.errors import UserError

SHORT = [
    "optimisation={steps: 4, batch_size: 4}",
    "evaluation={every: 2, sentences: 4, decoded: 2}",
    "output={save_every: 2, log_every: 1}",
]


@pytest.fixture(autouse=True)
def _few_sentences(monkeypatch):
    monkeypatch.setattr("llamavae.demo._OWN", 60)
    monkeypatch.setattr("llamavae.demo._SAMPLES", 8)
    monkeypatch.setattr("llamavae.demo._WORDS", ("lantern", "river"))


def demo(folder, sentences=None, overrides=SHORT):
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    result = run_demo(folder, sentences, overrides, console, progress=False)
    return result, shown.getvalue()


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_demo_leaves_everything_in_its_folder(tmp_path):
    folder = tmp_path / "run"
    result, shown = demo(folder)
    for name in ("reconstruct", "interpolate", "traverse", "sample", "measures"):
        assert name in shown
    assert f"{folder / 'report.html'}" in shown

    lines = (folder / "sentences.txt").read_text().splitlines()
    assert len(set(lines)) == 60
    assert lines[0][0].isupper()
    assert all(factors.parse(line[:-1].lower()) for line in lines)

    saved = json.loads((folder / "results.json").read_text())
    assert saved["demo"] == result.measures
    assert saved["recipe"]["start_from"] == "mini"
    assert result.measures["samples"] == 8
    assert set(result.measures["before"]) == set(result.measures["after"])
    assert "grammatical_samples" in result.measures["after"]

    held_out = rows(folder / "reconstructions.csv")
    assert len(held_out) == result.measures["sentences"] == 3
    assert {"text", "before", "reconstruction", "shuffled"} <= set(held_out[0])
    assert {row["text"] for row in held_out} < set(lines)
    samples = rows(folder / "samples.csv")
    assert {row["grammatical"] for row in samples} <= {"yes", "no"}

    page = result.report.read_text(encoding="utf-8")
    assert "What mini does, before the fine-tune" in page
    assert "grammatical samples" in page
    assert LlaMaVAE.from_pretrained(folder / "model").sample(1, seed=0)

    again, shown = demo(folder)
    assert "trained already" in shown
    assert again.measures == result.measures

    with pytest.raises(UserError, match="other settings"):
        demo(folder, overrides=[*SHORT, "optimisation.steps=6"])


def test_interrupted_demo_goes_on(tmp_path):
    folder = tmp_path / "run"
    whole, _ = demo(folder)
    (folder / "results.json").unlink()
    for name in ("model", "checkpoint-4"):
        shutil.rmtree(folder / name)
    resumed, shown = demo(folder)
    assert "Continuing the interrupted run" in shown
    assert resumed.measures == whole.measures


def test_demo_takes_sentences_of_ones_own(tmp_path):
    file = tmp_path / "mine.csv"
    lines = [f"{i},sentence number {i} is about a dog" for i in range(40)]
    file.write_text("\n".join(["id,review", *lines]))
    result, shown = demo(tmp_path / "run", file, [*SHORT, "corpus.column=review"])
    assert str(file) in shown
    assert not (tmp_path / "run" / "sentences.txt").exists()
    assert "grammatical_samples" not in result.measures["after"]


def test_demo_refuses_a_file_that_is_too_short(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("a dog barks\nan owl reads\nrobots paint\nseven trains leave\n")
    with pytest.raises(UserError, match="some hundreds"):
        demo(tmp_path / "run", file)
