"""Latent spaces that are evaluated beside those of the models."""

from __future__ import annotations

import sys

import pytest
import torch
from results import spaces
from results.fluency import MIXED, MiddleFluency
from tests import tiny

from llamavae.errors import UserError
from llamavae.evaluation import EvaluationData, read_results
from llamavae.evaluation.evaluator import missing
from llamavae.modeling import TextDecoder

ENCODER = str(tiny.encoder("bert-mean"))
SENTENCES = tiny.SENTENCES


@pytest.fixture(scope="module")
def space() -> spaces.Space:
    return spaces.source_space(None, ENCODER)


def test_one_source_is_required():
    for model, encoder, refine in ((None, None, 0), ("mini", ENCODER, 0), (None, ENCODER, 5)):
        with pytest.raises(UserError, match="expected --model, or --encoder"):
            spaces.source_space(model, encoder, refine)


def test_a_vae_is_a_space_of_its_posterior_means(tmp_path):
    vae = tiny.vae().eval()
    vae.save_pretrained(tmp_path / "vae")
    own = spaces.source_space(str(tmp_path / "vae"), None)
    z = vae.encode(SENTENCES).mean
    torch.testing.assert_close(own.encode(SENTENCES), z)
    assert own.decode is not None
    assert own.decode(z) == vae.decode(z)
    refined = spaces.source_space(str(tmp_path / "vae"), None, refine=1)
    assert not torch.allclose(refined.encode(SENTENCES), z)


def test_principal_components_keep_the_variance_of_the_texts(space):
    whole = spaces.reduced(space, SENTENCES, len(SENTENCES) - 1).encode(SENTENCES)
    x = space.encode(SENTENCES)
    torch.testing.assert_close(whole.square().sum(), (x - x.mean(0)).square().sum())
    two = spaces.reduced(space, SENTENCES, 2)
    torch.testing.assert_close(two.encode(SENTENCES), whole[:, :2])
    assert two.decode is None
    assert "2 principal components" in two.system_fingerprint()


def test_a_training_vector_is_decoded_to_its_text(space):
    known = spaces.nearest(space, SENTENCES)
    assert known.decode is not None
    assert known.decode(2 * space.encode(SENTENCES)) == SENTENCES


def test_evaluators_have_their_settings():
    first, second = spaces.evaluators(
        ["interpolation", "middle_fluency"], ["interpolation.pairs=3", "middle_fluency.limit=9"]
    )
    assert (vars(first)["pairs"], vars(second)["limit"]) == (3, 9)
    with pytest.raises(UserError, match=r"--set geometry.limit=9: expected"):
        spaces.evaluators(["sts"], ["geometry.limit=9"])
    with pytest.raises(UserError, match="unknown evaluator 'stz'"):
        spaces.evaluators(["stz"], [])


def test_fluency_is_that_of_the_language_model(space):
    decoder = str(tiny.decoder("llama"))
    evaluator = MiddleFluency(pairs=3, language_model=decoder)
    data = EvaluationData(SENTENCES)
    assert "generates text" in missing(evaluator, space, data)
    found = evaluator(spaces.nearest(space, SENTENCES), data)
    assert found.value("perplexity of the middle") > 1
    assert found.value("perplexity of the middle", MIXED) > 1
    assert found.rows[0]["control"] > 1
    table = found.tables["middles"]
    assert len(table) == 3
    assert all(row["start"] in SENTENCES and row["middle"] in SENTENCES for row in table)


def test_the_command_writes_a_folder_of_evaluations(tmp_path, monkeypatch):
    corpus = tmp_path / "corpus.txt"
    lines = [f"{sentence} {i}" for i in range(12) for sentence in SENTENCES]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    options = ["--encoder", ENCODER, "--nearest", "--decoder", str(tiny.decoder("llama"))]
    options += ["-e", "interpolation", "--set", "interpolation.pairs=2", "--corpus", str(corpus)]
    output = tmp_path / "made"
    monkeypatch.setattr(sys, "argv", ["spaces", *options, "--output", str(output)])
    spaces.main()
    found = read_results(output).found["interpolation"].evaluation
    assert {row["text"] for row in found.tables["interpolations"]} <= set(lines)
    vectors, *_ = found.tables["settings"]
    assert vectors["value"].startswith("input embeddings of the decoder")


def test_a_failed_evaluator_is_an_error(tmp_path, monkeypatch):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(SENTENCES), encoding="utf-8")
    options = ["--encoder", ENCODER, "-e", "geometry", "--corpus", str(corpus), "--split", "all"]
    monkeypatch.setattr(sys, "argv", ["spaces", *options, "--output", str(tmp_path / "made")])
    with pytest.raises(UserError, match="geometry: needs a system that generates text"):
        spaces.main()


def test_the_token_vectors_are_those_of_the_named_decoder(space):
    decoder = TextDecoder.load(str(tiny.decoder("llama")))
    assert spaces.with_decoder(space, decoder, "llama").decoder is decoder
