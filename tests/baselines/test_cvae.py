from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests import tiny

from llamavae.baselines import ConditionalVAE, cvae
from llamavae.data.sentences import prepare
from llamavae.errors import UserError
from llamavae.guidance.conditions import LabelCondition, VectorCondition
from llamavae.guidance.pairs import Pairs
from llamavae.modeling import Injection
from llamavae.training.measure import measure

LABELS = LabelCondition({"topic": ["animal", "water"], "language": ["en"]})
ANIMAL, WATER = (f"topic={topic},language=en" for topic in ("animal", "water"))
BEGINNINGS = {ANIMAL: ("a dog", "an owl"), WATER: ("the river", "the harbour")}
ENDS = ("is quiet", "paints letters", "did not sell any bread today", "at dawn")
ROWS = [(c, f"{a} {b}") for c in BEGINNINGS for a, b in itertools.product(BEGINNINGS[c], ENDS)]
NAMES, TEXTS = map(list, zip(*ROWS, strict=True))
PAIRS = Pairs(TEXTS, LABELS.vectors(NAMES), NAMES)
"""Sentences of two topics begin differently and end alike; a third number is always 1."""

INJECTIONS = Injection.NAMES


def small(injection: str = "memory", **settings) -> ConditionalVAE:
    settings = {"decoder_training": "heads", "max_tokens": 24, **settings}
    return ConditionalVAE(tiny.vae(injection, **settings), LABELS)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before, after) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


# ------------------------------------------------------------------------------- where it starts


@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize("injection", INJECTIONS)
def test_it_starts_as_the_vae_whatever_the_condition(injection, hidden):
    baseline = small(injection, injection_hidden=hidden)
    baseline.fit(PAIRS, steps=0, progress=False)
    data = prepare(PAIRS.texts, baseline.vae.decoder, baseline.vae.encoder, progress=False)
    of_vae = measure(baseline.vae, data, decoded=0, seed=3)
    found = baseline.evaluate(PAIRS, seed=3)
    for name in ("nll", "kl", "elbo"):
        assert found[name] == pytest.approx(of_vae[name], rel=1e-5)
    assert found["nll_shuffled_condition"] == pytest.approx(found["nll"], rel=1e-6)
    z = baseline.vae.sample_codes(4, spread=0.7, seed=1)
    expected = baseline.vae.decode(z)
    for label in BEGINNINGS:
        assert baseline.generate([label], n=4, spread=0.7, seed=1) == expected


def test_the_first_gradient_reaches_the_condition():
    baseline = small()
    baseline.fit(PAIRS, steps=1, batch_size=8, progress=False)
    assert baseline.model is not None
    first = next(baseline.model.injection.parameters())
    assert first.shape == (8, tiny.LATENT + 3)
    assert first[:, tiny.LATENT : tiny.LATENT + 2].abs().min() > 0


# ------------------------------------------------------------------------------- what it learns


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    baseline = small("memory+add")
    before = weights(baseline.vae)
    baseline.fit(PAIRS, steps=300, batch_size=16, learning_rate=1e-2, seed=1, progress=False)
    return baseline, before


def test_it_follows_the_condition(fitted):
    baseline, _ = fitted
    c = LABELS.vectors([WATER, ANIMAL]).repeat_interleave(8, dim=0)
    wrong = Pairs(TEXTS, c, NAMES)
    right, swapped = (baseline.evaluate(pairs) for pairs in (PAIRS, wrong))
    assert right["nll"] + 1 < swapped["nll"]
    assert right["nll_shuffled_condition"] == pytest.approx(swapped["nll"])
    assert right["kl"] == pytest.approx(swapped["kl"])  # q does not read c
    for label, beginnings in BEGINNINGS.items():
        texts = baseline.generate([label], n=20, seed=0)
        assert all(text.startswith(beginnings) for text in texts)


def test_it_costs_less_than_any_model_that_ignores_the_condition(fitted):
    """Of 16 equally frequent sentences 8 are left once the label is known."""
    baseline, _ = fitted
    bound = baseline.evaluate(PAIRS)["elbo"]
    assert math.log(8) - 0.1 < bound < math.log(16) - 0.2


def test_the_vae_stays_as_it_was(fitted):
    baseline, before = fitted
    assert not changed(before, weights(baseline.vae))
    assert baseline.vae.config.latent_dim == tiny.LATENT
    assert not any(p.grad is not None for p in baseline.vae.parameters())
    assert not baseline.vae.training


def test_frozen_parts_stay_as_they_were(fitted):
    baseline, before = fitted
    after = weights(baseline.model)
    names = {name for name in before if not name.startswith("injection.")}
    trained = changed({name: before[name] for name in names}, after)
    assert trained == {
        "posterior.linear.weight",
        "posterior.linear.bias",
        "decoder.lm.model.embed_tokens.weight",
        "decoder.lm.lm_head.weight",
    }


@pytest.mark.parametrize("training", ["lora", "full"])
def test_what_else_of_the_decoder_trains(training):
    baseline = small(decoder_training=training, encoder_training="full")
    before = weights(baseline.vae)
    baseline.fit(PAIRS, steps=2, batch_size=4, learning_rate=0.01, progress=False)
    after = weights(baseline.model)
    moved = changed({n: v for n, v in before.items() if not n.startswith("injection.")}, after)
    assert not any(name.startswith("encoder.") for name in moved)
    hidden = {name for name in moved if ".layers." in name}
    assert hidden
    assert all("lora_" in name for name in hidden) == (training == "lora")
    assert not changed(before, weights(baseline.vae))


def test_tied_embeddings_stay_tied():
    baseline = small(family="gemma").fit(PAIRS, steps=1, progress=False)
    assert baseline.model is not None
    decoder = baseline.model.decoder
    assert decoder.head.weight is decoder.embeddings.weight
    assert not torch.equal(decoder.head.weight, baseline.vae.decoder.head.weight)


def test_a_vae_that_was_frozen_by_its_user_can_be_used():
    baseline = small()
    baseline.vae.requires_grad_(False)
    baseline.fit(PAIRS, steps=1, progress=False)
    assert baseline.evaluate(PAIRS)["nll_shuffled_condition"] != baseline.evaluate(PAIRS)["nll"]
    assert not any(p.requires_grad for p in baseline.vae.parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_seed_gives_one_result(family):
    """Also where dropout is at work (gpt2), whatever was drawn before, and in a second fit."""
    vae = tiny.vae(family=family, decoder_training="full", max_tokens=24)
    baseline, other = (ConditionalVAE(vae, LABELS) for _ in range(2))
    run = {"steps": 3, "batch_size": 4, "progress": False}
    state = torch.get_rng_state()
    one = weights(baseline.fit(PAIRS, **run).model)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert not changed(one, weights(baseline.fit(PAIRS, **run).model))
    assert not changed(one, weights(other.fit(PAIRS, **run).model))
    assert changed(one, weights(other.fit(PAIRS, seed=1, **run).model))


# ------------------------------------------------------------------------------- text out


def test_unit_and_origin_of_a_condition_do_not_matter(fitted):
    vae = fitted[0].vae
    moved = PAIRS.conditions * torch.tensor([3.0, 0.01, 1.0]) + torch.tensor([-1.0, 7.0, 0.0])
    run = {"steps": 2, "batch_size": 8, "progress": False}
    one = ConditionalVAE(vae, VectorCondition(3)).fit(PAIRS, **run)
    other = ConditionalVAE(vae, VectorCondition(3)).fit(Pairs(TEXTS, moved, NAMES), **run)
    a, b = weights(one.model), weights(other.model)
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-3, atol=1e-5)
    assert one.generate(PAIRS.conditions, seed=0) == other.generate(moved, seed=0)


def test_texts_of_one_condition_lie_side_by_side(fitted):
    baseline, _ = fitted
    both = baseline.generate([ANIMAL, WATER], n=3, seed=4)
    z = baseline.vae.sample_codes(6, seed=4)
    c = torch.tensor([[1.0, -1.0, 0.0]] * 3 + [[-1.0, 1.0, 0.0]] * 3)  # standardised by hand
    assert both == baseline.model.decode(torch.cat([z, c], dim=1))
    assert both == baseline.generate(LABELS.vectors([ANIMAL, WATER]), n=3, seed=4)
    assert both == baseline.generate([ANIMAL, WATER], n=3, seed=4, batch_size=1)


def test_seeds_and_spread(fitted):
    baseline, _ = fitted
    hot = {"n": 4, "spread": 3.0}
    assert baseline.generate([WATER], seed=1, **hot) == baseline.generate([WATER], seed=1, **hot)
    assert baseline.generate([WATER], seed=1, **hot) != baseline.generate([WATER], seed=2, **hot)
    assert len(set(baseline.generate([WATER], n=4, spread=0))) == 1


def test_options_of_decode(fitted):
    baseline, _ = fitted
    samples = baseline.generate(
        [WATER], n=2, do_sample=True, num_return_sequences=2, max_new_tokens=3
    )
    assert len(samples) == 4
    assert baseline.generate([], n=2) == []


# ------------------------------------------------------------------------------- mistakes


def test_not_fitted():
    with pytest.raises(UserError, match="Call fit"):
        small().generate([WATER])
    with pytest.raises(UserError, match="Call fit"):
        small().evaluate(PAIRS)


def test_mistakes(fitted):
    baseline, _ = fitted
    with pytest.raises(UserError, match="n must be at least 1; got 0"):
        baseline.generate([WATER], n=0)
    with pytest.raises(UserError, match=r"\(B, 3\); got \(1, 2\)"):
        baseline.generate(torch.ones(1, 2))
    with pytest.raises(UserError, match="spread must be"):
        baseline.generate([WATER], spread=-1)
    with pytest.raises(UserError, match=r"\(N, 3\); got 16 texts .* \(16, 2\)"):
        baseline.fit(Pairs(TEXTS, torch.ones(16, 2), NAMES), steps=1)
    for wrong in ({"steps": -1}, {"steps": 1, "batch_size": 0}, {"steps": 1, "beta": -0.5}):
        with pytest.raises(UserError, match="expected steps"):
            baseline.fit(PAIRS, **wrong)
    with pytest.raises(UserError, match="needs a VAE with a sentence encoder"):
        ConditionalVAE(tiny.vae(sentence_encoder=None), LABELS)


def test_truncation_is_said(capsys):
    baseline = ConditionalVAE(tiny.vae(max_tokens=4), LABELS)
    capsys.readouterr()
    baseline.fit(PAIRS, steps=0, progress=False)
    assert "sentences are longer than 4 tokens" in capsys.readouterr().err


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops(bad, monkeypatch):
    true, calls = cvae._nll_and_kl, itertools.count()

    def broken(*args):
        nll, kl = true(*args)
        if next(calls) == 2:
            nll = nll * math.nan if bad == "loss" else (nll - nll.detach()).sqrt()
        return nll, kl

    monkeypatch.setattr(cvae, "_nll_and_kl", broken)
    baseline = small()
    with pytest.raises(UserError, match=r"not finite at step 2.*learning_rate"):
        baseline.fit(PAIRS, steps=5, batch_size=4, progress=False)
    with pytest.raises(UserError, match="Call fit"):
        baseline.generate([WATER])
