"""The systems that are compared on reconstruction."""

from __future__ import annotations

import json
import sys

import torch
from results import systems
from tests import tiny

from llamavae.baselines import PromptedDecoder
from llamavae.evaluation import read_predictions

SENTENCES = ["a dog runs in a park", "an owl reads a letter", "two old bakers sell bread"]


def test_a_vae_decodes_the_posterior_means():
    model = tiny.vae().eval()
    assert systems.vae_system(model)(SENTENCES) == model.reconstruct(SENTENCES)


def test_codes_are_refined_with_and_without_the_encoder():
    model = tiny.vae().eval()
    refined = systems.vae_system(model, refine=3)(SENTENCES)
    assert refined == model.decode(model.refine(SENTENCES, 3).mean)
    start = torch.zeros(len(SENTENCES), model.config.latent_dim)
    expected = model.decode(model.refine(SENTENCES, 3, start=start).mean)
    assert systems.vae_system(model, refine=3, from_prior=True)(SENTENCES) == expected


def test_sampled_tokens_are_those_of_the_seed():
    model = tiny.vae().eval()
    first, again, other = (
        systems.vae_system(model, sample=True, seed=seed)(SENTENCES) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_prompted_language_model_continues_the_prompt_with_the_sentence():
    decoder = PromptedDecoder(tiny.text_decoder(max_tokens=40), systems.PROMPTS["bare"])
    written = decoder.generate(SENTENCES, max_new_tokens=40)
    texts = systems.prompted_system(str(tiny.decoder()), "bare")(SENTENCES)
    assert texts == [text.strip() for text in written]


def test_the_nearest_training_sentence_of_a_training_sentence_is_itself():
    nearest = systems.nearest_system(str(tiny.encoder("bert-mean")), SENTENCES)
    assert nearest(SENTENCES[::-1]) == SENTENCES[::-1]


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
    texts = [item.prediction for item in predictions.items]
    controls = [item.control or "" for item in predictions.items]
    assert sorted(controls) == sorted(texts)
    assert all(control != text for control, text in zip(controls, texts, strict=True))
    assert controls != [*texts[1:], texts[0]], "the next sentence may be about the same"
    cost = json.loads(output.with_suffix(".cost.json").read_text())
    assert cost["peak memory"] > 10
