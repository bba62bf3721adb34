"""The systems that are compared on reconstruction."""

from __future__ import annotations

import json
import sys

from results import systems
from tests import tiny

from llamavae.evaluation import read_predictions

SENTENCES = ["a dog runs in a park", "an owl reads a letter", "two old bakers sell bread"]


def test_a_vae_decodes_the_posterior_means():
    model = tiny.vae().eval()
    texts, control = systems.vae_system(model)(SENTENCES)
    assert texts == model.reconstruct(SENTENCES)
    assert control == [*texts[1:], texts[0]]


def test_the_nearest_training_sentence_of_a_training_sentence_is_itself():
    nearest = systems.nearest_system(str(tiny.encoder("bert-mean")), SENTENCES)
    assert nearest(SENTENCES[::-1])[0] == SENTENCES[::-1]


def test_predictions_of_a_sample_keep_the_numbers_of_the_lines(tmp_path, monkeypatch):
    corpus = tmp_path / "corpus.txt"
    lines = [f"{sentence} {i}" for i in range(10) for sentence in SENTENCES]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    output = tmp_path / "made" / "texts.jsonl"
    options = ["--corpus", str(corpus), "--split", "all", "--limit", "5", "--output", str(output)]
    encoder = str(tiny.encoder("bert-mean"))
    monkeypatch.setattr(sys, "argv", ["systems", "nearest", "--encoder", encoder, *options])
    systems.main()
    predictions = read_predictions(output)
    assert [item.references[0] for item in predictions.items] == [
        lines[int(item.id)] for item in predictions.items
    ]
    assert len(predictions.items) == 5
    cost = json.loads(output.with_suffix(".cost.json").read_text())
    assert cost["peak memory"] > 10
