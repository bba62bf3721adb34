from __future__ import annotations

import json

import pytest
import torch
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.modeling import load_prior


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    texts = [f"{text} {i}" for i in range(10) for text in tiny.SENTENCES]
    path = tmp_path_factory.mktemp("prior") / "sentences.txt"
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


@pytest.fixture
def model(tmp_path):
    tiny.vae().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def texts(result):
    assert result.exit_code == 0, result.stderr
    return [json.loads(line)["text"] for line in result.stdout.splitlines()]


@pytest.mark.parametrize("kind", ["standard", "gaussian", "mixture", "flow"])
def test_a_prior_is_fitted_and_drawn_from(run, model, corpus, kind):
    options = ("--model", model, "--prior", kind)
    fit = ("fit-prior", *options, "--corpus", corpus, "--steps", 5, "--components", 1)
    result = run(*fit, "--no-default")
    assert result.exit_code == 0, result.stderr
    names = {line.split("\t")[1] for line in result.stdout.splitlines()}
    assert names == {"standard", "gaussian", kind}
    vae = LlaMaVAE.from_pretrained(model)
    assert vae.default_prior is None
    place = model / "priors" / kind
    prior = load_prior(place, vae)
    assert prior.report["corpus"] == str(corpus)
    expected = vae.sample(3, prior, 0.5, seed=1)
    command = ("sample", 3, "--spread", 0.5, "--seed", 1, "--json")
    assert texts(run(*command, *options)) == expected
    assert texts(run(*command, "--model", model, "--prior", place)) == expected
    standard = vae.sample(3, "standard", 0.5, seed=1)
    assert texts(run(*command, "--model", model)) == standard
    if kind != "flow":  # now as the default
        assert run(*fit).exit_code == 0
        assert texts(run(*command, "--model", model)) == expected
        assert texts(run(*command, "--model", model, "--prior", "standard")) == standard


def test_the_best_of_all_becomes_the_default(run, model, corpus):
    command = ("fit-prior", "--model", model, "--corpus", corpus, "--steps", 5, "--components", 1)
    result = run(*command)
    assert result.exit_code == 0, result.stderr
    prior = LlaMaVAE.from_pretrained(model).default_prior
    assert prior is not None
    found = prior.report["candidates"]
    assert set(found) == {"standard", "gaussian", "mixture", "flow"}
    assert f"Selected: {prior.kind}" in result.stderr
    again = run(*command)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    assert run(*command, "--overwrite", "--prior", "standard").exit_code == 0
    fitted = LlaMaVAE.from_pretrained(model).default_prior
    assert fitted is not None
    assert fitted.kind == "standard"


def test_what_is_there_is_not_replaced_unasked(run, model, corpus, tmp_path):
    command = ("fit-prior", "--model", model, "--corpus", corpus, "--prior", "gaussian")
    command = (*command, "-o", tmp_path / "prior")
    assert run(*command).exit_code == 0
    again = run(*command, "--posterior-scale", 0)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    first = load_prior(tmp_path / "prior").sample(2, seed=0)
    assert run(*command, "--posterior-scale", 0, "--overwrite").exit_code == 0
    assert not torch.equal(load_prior(tmp_path / "prior").sample(2, seed=0), first)


def test_mistakes(run, model, corpus):
    missing = run("sample", 2, "--model", model, "--prior", "mixture")
    assert missing.exit_code == 2
    assert "llamavae fit-prior" in missing.stderr
    wrong = run("fit-prior", "--model", model, "--corpus", corpus, "--flow", "glw")
    assert wrong.exit_code == 2
    assert "'glow'" in wrong.stderr
    unnamed = run("fit-prior", "--model", model, "--corpus", corpus, "--no-default")
    assert unnamed.exit_code == 2
    assert "--prior" in unnamed.stderr
    assert not (model / "prior").exists()
    assert not (model / "priors").exists()
