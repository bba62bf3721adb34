from __future__ import annotations

import csv
import io
import json
import shutil

import pytest
from rich.console import Console

from llamavae import LlaMaVAE
from llamavae.demo import run_demo
from llamavae.errors import UserError

SMALL = [
    "corpus.limit=200",
    "encoder.scratch={hidden_size: 16, layers: 1, heads: 2, ffn: 16, vocabulary: 300}",
    "decoder.scratch={hidden_size: 16, layers: 1, heads: 2, kv_heads: 1, ffn: 16, "
    "vocabulary: 300, warmup_steps: 2, warmup_batch_size: 8}",
    "decoder.max_tokens=16",
    "latent={dim: 4, slots: 1, hidden: 8}",
    "optimisation={steps: 4, batch_size: 8}",
    "evaluation={every: 2, sentences: 20, decoded: 4}",
    "output={save_every: 2, log_every: 1}",
]


@pytest.fixture(autouse=True)
def _few_sentences(monkeypatch):
    monkeypatch.setattr("llamavae.demo._SENTENCES", 12)


def demo(folder, overrides=SMALL):
    shown = io.StringIO()
    result = run_demo(folder, overrides, Console(file=shown, width=200), progress=False)
    return result, shown.getvalue()


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_demo_leaves_everything_in_its_folder(tmp_path):
    result, shown = demo(tmp_path / "run")
    folder = tmp_path / "run"
    for name in ("reconstructions", "interpolations", "traversals", "samples", "measures"):
        assert name in shown
    assert f"{folder / 'report.html'}" in shown

    saved = json.loads((folder / "results.json").read_text())
    assert saved["demo"] == result.measures
    assert saved["metrics"]["sentences"] == 20
    assert result.measures["sentences"] == result.measures["samples"] == 12
    assert set(result.measures["factor_accuracy"]) >= {"verb", "tense"}

    assert len(rows(folder / "reconstructions.csv")) == 12
    assert len(rows(folder / "interpolations.csv")) == 27
    assert len(rows(folder / "traversals.csv")) == 21
    samples = rows(folder / "samples.csv")
    assert {"text", "grammatical", "verb"} <= set(samples[0])
    assert {row["grammatical"] for row in samples} <= {"yes", "no"}

    plots = {path.name for path in (folder / "plots").iterdir()}
    assert plots == {
        "training.png",
        "kl-per-dimension.png",
        "schedule.png",
        *(f"map-{name}.png" for name in ("verb", "tense", "number", "order")),
    }
    assert "What survives the way through z" in result.report.read_text(encoding="utf-8")
    assert LlaMaVAE.from_pretrained(folder / "model").sample(1, seed=0)

    again, shown = demo(folder)
    assert "trained already" in shown
    assert again.measures == result.measures

    with pytest.raises(UserError, match="other settings"):
        demo(folder, [*SMALL, "optimisation.steps=6"])


def test_interrupted_demo_goes_on(tmp_path):
    folder = tmp_path / "run"
    whole, _ = demo(folder)
    (folder / "results.json").unlink()
    for name in ("model", "checkpoint-4"):
        shutil.rmtree(folder / name)
    resumed, shown = demo(folder)
    assert "Continuing the interrupted run" in shown
    assert resumed.measures == whole.measures


def test_demo_is_about_factors(tmp_path):
    with pytest.raises(UserError, match="llamavae train"):
        demo(tmp_path, ["corpus.name=wordnet"])
