from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest
import torch
from tests import tiny
from tests.evaluation.systems import check_items

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.evaluators.samples import Samples
from llamavae.metrics.fluency import KneserNey, load_language_model, text_nll, token_ids
from llamavae.metrics.metric import perplexity
from llamavae.metrics.ngrams import distinct_n
from llamavae.modeling.backbones import fingerprint
from llamavae.modeling.likelihood import sentence_nll
from llamavae.training import fit_prior


class Planted:
    """Whose samples are given: the first n of `texts`."""

    def __init__(self, texts):
        self.texts = texts

    def sample_codes(self, n, seed):
        return torch.arange(n)[:, None].float()

    def decode(self, z):
        return [self.texts[int(i)] for i in z[:, 0]]


# ------------------------------------------------------------------------------- the evaluator

REAL = tiny.SENTENCES


def test_held_out_sentences_as_samples_equal_their_control():
    found = Samples(resamples=20)(Planted(REAL), EvaluationData(REAL, training_texts=["a river"]))
    assert found.rows[0]["metric"] == Samples().primary.name == "self-BLEU"
    for row in found.rows:
        if row["metric"] != "BLEU against held-out text":
            assert row["value"] == pytest.approx(row["control"])
    assert found.value("BLEU against held-out text") > 0.9
    assert found.value("words") == pytest.approx(np.mean([len(text.split()) for text in REAL]))
    spread = np.std([len(text.split()) for text in REAL])
    assert found.value("deviation of words") == pytest.approx(spread)
    assert found.value("distinct-2") == distinct_n(REAL, 2)


def test_samples_that_repeat_training_sentences():
    training = [REAL[0], "robots paint"]
    samples = [REAL[0]] * 6 + ["robots  paint", "robots paint well"]
    found = Samples(resamples=50)(
        Planted(samples), EvaluationData(REAL[2:], training_texts=training)
    )
    rows = {row["metric"]: row for row in found.rows}
    assert rows["self-BLEU"]["value"] == 1  # of six samples, as many as there are other sentences
    assert rows["self-BLEU"]["control"] < 0.3
    assert rows["duplicates"]["value"] == pytest.approx(5 / 6)
    assert rows["duplicates"]["control"] == 0
    assert rows["distinct-1"]["value"] < 0.5 * rows["distinct-1"]["control"]
    assert rows["novelty"]["value"] == 0
    assert rows["novelty"]["control"] == 1
    assert rows["nearest training text"]["value"] == 1
    assert rows["nearest training text"]["control"] < 0.7
    assert found.tables["samples"][0] == {
        "text": REAL[0],
        "self-BLEU": 1,
        "nearest": REAL[0],
        "similarity": 1,
    }


def test_forward_and_reverse_perplexity():
    folder = tiny.decoder("llama")
    judge = load_language_model(folder)
    ids = {text: token_ids([text], judge[1])[0] for text in REAL}
    data = EvaluationData(REAL[:6], training_texts=REAL[6:])
    samples = [REAL[0]] * 5 + [REAL[3]]
    found = Samples(judge=folder, resamples=50)(Planted(samples), data)
    rows = {row["metric"]: row for row in found.rows}
    forward, reverse = (rows[f"{name} perplexity"] for name in ("forward", "reverse"))
    for row, value, control in (
        (forward, perplexity(text_nll(samples, judge)), perplexity(text_nll(REAL[:6], judge))),
        (
            reverse,
            *(
                perplexity(
                    KneserNey([ids[text] for text in fitted], len(judge[1])).nll(
                        [ids[text] for text in REAL[:6]]
                    )
                )
                for fitted in (samples, REAL[6:])
            ),
        ),
    ):
        assert row["value"] == pytest.approx(value)
        assert row["control"] == pytest.approx(control)
        assert row["low"] <= row["value"] <= row["high"]
        assert row["judge"] == fingerprint(judge[0])
    # without training sentences there is no control
    alone = Samples(judge=judge, resamples=9)(Planted(samples), EvaluationData(REAL[:6]))
    assert next(r for r in alone.rows if r["metric"] == "reverse perplexity")["control"] is None
    # real sentences give a better model of real sentences than one that repeats
    diverse = Samples(judge=judge, resamples=9)(Planted(REAL[:6]), data)
    assert diverse.value("reverse perplexity") < reverse["value"]
    check_items(Samples(), found, {"distinct-1", "distinct-2", "duplicates"})


def test_equal_numbers_are_compared():
    found = Samples(n=3, resamples=20)(Planted(REAL), EvaluationData(REAL))
    assert {row["n"] for row in found.rows} == {3}
    assert len(found.tables["samples"]) == 3
    assert "novelty" not in {row["metric"] for row in found.rows}
    assert "nearest" not in found.tables["samples"][0]


def test_a_model_and_its_plain_decoder():
    torch.manual_seed(3)
    model = tiny.vae()
    data = EvaluationData(REAL, seed=5)
    found = Samples(resamples=20)(model, data)
    samples = model.sample(8, seed=5)
    assert [row["text"] for row in found.tables["samples"]] == samples
    row = next(row for row in found.rows if row["metric"] == "plain perplexity")
    for texts, value in ((samples, row["value"]), (REAL, row["control"])):
        ids, _ = model.decoder.tokenize(texts)
        nats, tokens = sentence_nll(model, ids, None).sum().item(), sum(map(len, ids)) - len(ids)
        assert value == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert Samples(resamples=20)(model, data) == found
    check_items(Samples(), found, {"distinct-1", "distinct-2", "duplicates"})


def test_a_fitted_prior():
    class Fitted:
        def sample(self, n, *, seed):
            return torch.full((n, 1), float(seed))

    found = Samples(prior=Fitted(), resamples=20)(Planted(REAL), EvaluationData(REAL, seed=2))
    assert {row["text"] for row in found.tables["samples"]} == {REAL[2]}


def test_a_saved_prior_of_the_model(tmp_path):
    model = tiny.vae()
    data = EvaluationData(tiny.SENTENCES)
    prior = fit_prior(5 + torch.randn(40, model.config.latent_dim), "gaussian", vae=model)
    prior.save(tmp_path)
    found = Samples(prior=str(tmp_path), resamples=20)(model, data)
    assert found == Samples(prior=prior, resamples=20)(model, data)
    with pytest.raises(UserError, match="there is no prior mixture"):
        Samples(prior="mixture")(model, data)


def test_each_prior_of_a_model(tmp_path):
    tiny.vae().save_pretrained(tmp_path)
    model = LlaMaVAE.from_pretrained(tmp_path)
    codes = 5 + torch.randn(40, model.config.latent_dim)
    model.default_prior = fit_prior(codes, "mixture", components=1, vae=model)
    fit_prior(codes, "gaussian", vae=model).save(tmp_path / "priors" / "gaussian")
    data = EvaluationData(tiny.SENTENCES)
    evaluator = Samples(prior="all", resamples=20)
    found = evaluator(model, data)
    groups = ["", "gaussian", "standard"]
    assert list(dict.fromkeys(row["group"] for row in found.rows)) == groups
    n = len(tiny.SENTENCES)
    drawn = [row["prior"] for row in found.tables["samples"]]
    assert drawn == ["mixture"] * n + ["gaussian"] * n + ["standard"] * n
    for group, prior in zip(groups, (None, "gaussian", "standard"), strict=True):
        alone = Samples(prior=prior, resamples=20)(model, data)
        assert found.value("self-BLEU", group) == alone.value("self-BLEU")
    priors = evaluator.depends_on(model)["priors"]
    assert list(priors) == ["mixture", "gaussian", "standard"]
    assert priors["mixture"] == model.default_prior.report["nll"]
    assert Samples(prior="flow").depends_on(model) == {}
    assert Samples().depends_on(Planted(REAL)) == {}


def test_mistakes():
    class Decodes:
        def decode(self, z):
            return []

    with pytest.raises(UserError, match=r"Samples\(prior"):
        Samples()(Decodes(), EvaluationData(REAL))
    with pytest.raises(UserError, match="name of a prior of a LlaMaVAE"):
        Samples(prior="mixture")(Planted(REAL), EvaluationData(REAL))
    with pytest.raises(UserError, match=r"at least 2, .* got 1"):
        Samples(n=1)
    with pytest.raises(UserError, match="cannot decode"):
        Samples()(object(), EvaluationData(REAL))


# ------------------------------------------------------------------------------- MAUVE


class Lengths:
    def encode(self, texts):
        return torch.tensor([[float(len(text)), 1.0] for text in texts])


def test_mauve_is_asked_for_vectors(monkeypatch):
    asked = []

    def compute(p, q, seed, verbose):
        asked.append((p.tolist(), q.tolist(), seed, verbose))
        return types.SimpleNamespace(mauve=0.5)

    package = types.ModuleType("mauve")
    package.__dict__["compute_mauve"] = compute
    monkeypatch.setitem(sys.modules, "mauve", package)
    data = EvaluationData(REAL, training_texts=REAL, seed=3)
    found = Samples(mauve=Lengths(), resamples=20)(Planted(REAL), data)
    assert (found.rows[-1]["value"], found.rows[-1]["control"]) == (0.5, 0.5)
    lengths = sorted([len(text), 1] for text in REAL)
    assert [(sorted(p), sorted(q), *rest) for p, q, *rest in asked] == [
        (lengths, lengths, 3, False)
    ] * 2
    found = Samples(mauve=str(tiny.encoder()), resamples=20)(Planted(REAL), data)
    assert found.rows[-1]["value"] == 0.5
    assert len(asked[-1][0][0]) == tiny.HIDDEN
    with pytest.raises(UserError, match="there is no folder"):
        Samples(mauve="./missing")(Planted(REAL), data)
