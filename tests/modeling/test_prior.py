"""Priors: what they draw, how they are saved and found, and what they refuse."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
import torch
from scipy.stats import multivariate_normal
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.flows import build_flow
from llamavae.modeling.backbones import latent_fingerprint
from llamavae.modeling.prior import (
    FlowPrior,
    MixturePrior,
    Prior,
    StandardPrior,
    choose_prior,
    load_prior,
    prior_names,
)

D = tiny.LATENT
KINDS = ["standard", "mixture", "flow"]


def make(kind: str, vae: LlaMaVAE | None = None, features: int = D) -> Prior:
    """A prior that differs from N(0, I) where it can."""
    torch.manual_seed(1)
    if kind == "standard":
        prior: Prior = StandardPrior(features)
    elif kind == "flow":
        prior = FlowPrior(build_flow("glow", features, blocks=2, hidden=(16,)))
    else:
        means = torch.stack([torch.full((features,), 3.0), torch.full((features,), -2.0)])
        factors = torch.stack([0.5 * torch.eye(features), torch.eye(features).add(0.3).tril()])
        prior = MixturePrior(torch.tensor([0.7, 0.3]), means, factors)
    prior.fingerprint = None if vae is None else latent_fingerprint(vae)
    return prior


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(3)
    return tiny.vae()


@pytest.fixture
def saved(tmp_path):
    """A model that was loaded from a folder."""
    tiny.vae().save_pretrained(tmp_path / "model")
    return LlaMaVAE.from_pretrained(tmp_path / "model")


# ------------------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("kind", KINDS)
def test_draws_follow_the_density(kind):
    prior = make(kind)
    z = prior.sample(4000, seed=1)
    assert z.shape == (4000, D)
    p = prior.distribution()
    if kind != "flow":
        torch.testing.assert_close(z.mean(0), p.mean, atol=0.2, rtol=0)
        torch.testing.assert_close(z.var(0), p.variance, atol=0.3, rtol=0.1)
    torch.testing.assert_close(prior.log_prob(z), p.log_prob(z))
    assert prior.nll(z) == pytest.approx(-p.log_prob(z).mean().item() / D, rel=1e-5)
    torch.testing.assert_close(z, prior.sample(4000, seed=1))
    assert not torch.equal(z, prior.sample(4000, seed=2))
    state = torch.get_rng_state()
    prior.sample(2, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_density_of_a_mixture_is_scipys():
    prior = make("mixture")
    assert isinstance(prior, MixturePrior)
    z = prior.sample(50, seed=0)
    covariances = prior.scale_tril @ prior.scale_tril.mT
    parts = [
        weight * torch.from_numpy(multivariate_normal.pdf(z, mean, cast(Any, covariance.numpy())))
        for weight, mean, covariance in zip(prior.weights, prior.means, covariances, strict=True)
    ]
    density = torch.stack(parts).sum(0)
    torch.testing.assert_close(prior.log_prob(z).double(), density.log(), atol=1e-3, rtol=1e-4)


def test_a_spread_of_0_draws_the_centres():
    mixture = make("mixture")
    assert isinstance(mixture, MixturePrior)
    z = mixture.sample(50, spread=0, seed=0)
    assert torch.cdist(z, mixture.means).amin(1).max() == 0
    assert make("flow").sample(50, spread=0, seed=0).std(0).max() < 1e-5
    assert make("standard").sample(50, spread=0, seed=0).abs().max() == 0


def test_without_a_seed_torchs_generator_is_used():
    torch.manual_seed(5)
    first = make("standard").sample(3)
    torch.manual_seed(1)  # what `make` does
    assert torch.equal(first, torch.randn(3, D))


# ------------------------------------------------------------------------------- saving, finding


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_as_it_was(vae, tmp_path, kind):
    prior = make(kind, vae)
    prior.report = {"kind": kind, "nll": 1.5}
    prior.save(tmp_path / "a" / "prior")
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"prior"}
    again = load_prior(tmp_path / "a" / "prior", vae)
    assert (again.report, again.kind) == (prior.report, kind)
    assert torch.equal(again.sample(7, seed=3), prior.sample(7, seed=3))
    make("mixture", vae).save(tmp_path / "a" / "prior")  # in its place
    assert load_prior(tmp_path / "a" / "prior", vae).kind == "mixture"
    assert {p.suffix for p in (tmp_path / "a" / "prior").iterdir()} == {".json", ".safetensors"}
    assert len(vae.decode(again.sample(2, seed=0))) == 2


def test_priors_by_name(saved, tmp_path):
    assert prior_names(saved) == ["standard"]
    assert isinstance(load_prior("standard", saved), StandardPrior)
    make("flow", saved).save(tmp_path / "model" / "priors" / "flow")
    assert load_prior("flow", saved).kind == "flow"
    assert prior_names(saved) == ["flow", "standard"]
    saved.default_prior = make("mixture", saved)
    assert load_prior("mixture", saved) is saved.default_prior
    assert prior_names(saved) == ["mixture", "flow", "standard"]
    with pytest.raises(UserError, match=r"no prior gaussian .*mixture, flow, standard.*fit-prior"):
        load_prior("gaussian", saved)


def test_which_prior_is_drawn_from(saved):
    assert isinstance(choose_prior(saved), StandardPrior)
    saved.default_prior = make("mixture", saved)
    assert choose_prior(saved) is saved.default_prior
    assert isinstance(choose_prior(saved, "standard"), StandardPrior)
    other = make("flow", saved)
    assert choose_prior(saved, other) is other


# ------------------------------------------------------------------------------- what is refused


def test_another_vae_is_refused(vae, tmp_path):
    prior = make("mixture", vae)
    prior.save(tmp_path)
    prior.check(vae)
    torch.manual_seed(9)
    other = tiny.vae()
    with pytest.raises(UserError, match="other weights"):
        load_prior(tmp_path, other)
    with pytest.raises(UserError, match="other weights"):
        other.sample(1, prior)
    with pytest.raises(UserError, match="codes of size 6; the VAE has D = 4"):
        load_prior(tmp_path, tiny.vae(latent_dim=4))
    load_prior(tmp_path)  # nothing to compare with


def test_wrong_arguments():
    prior = make("mixture")
    with pytest.raises(UserError, match="n must be at least 1; got 0"):
        prior.sample(0)
    with pytest.raises(UserError, match="n must be at most 2147483647"):
        prior.sample(10**30)
    with pytest.raises(UserError, match="not enough memory for 2,147,483,647 latent codes"):
        StandardPrior(10**6).sample(2**31 - 1)  # more bytes than there are addresses
    with pytest.raises(UserError, match="spread must be at least 0; got -1"):
        prior.sample(1, spread=-1)
    with pytest.raises(UserError, match=r"shape \(B, 6\); got \(2, 5\)"):
        prior.log_prob(torch.zeros(2, 5))
    with pytest.raises(UserError, match="without a context"):
        FlowPrior(build_flow("glow", 3, 2))
    with pytest.raises(UserError, match="Cholesky"):
        MixturePrior(torch.ones(1), torch.zeros(1, 3), torch.zeros(1, 2, 2))


def test_damaged_folders(tmp_path):
    with pytest.raises(UserError, match="there is no prior"):
        load_prior(tmp_path)
    places: list[Any] = ["", "x" * 5000, "a\0b", 3]
    for place in places:
        with pytest.raises(UserError, match="expected a prior, its kind or its folder; got"):
            load_prior(place)
    make("mixture").save(tmp_path)
    tiny.unsealed(tmp_path)
    settings = json.loads((tmp_path / "prior.json").read_text())
    for values, message in (
        (settings | {"format_version": 99}, "Upgrade"),
        (settings | {"type": "oracle"}, "unknown type 'oracle'"),
        ([], r"prior\.json is damaged"),
        (settings | {"type": "standard"}, r"prior\.safetensors is damaged"),
    ):
        (tmp_path / "prior.json").write_text(json.dumps(values))
        with pytest.raises(UserError, match=message):
            load_prior(tmp_path)
    (tmp_path / "prior.json").write_text(json.dumps(settings))
    (tmp_path / "prior.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"prior\.safetensors is damaged"):
        load_prior(tmp_path)
    (tmp_path / "prior.safetensors").unlink()
    with pytest.raises(UserError, match=r"prior\.safetensors is damaged or missing"):
        load_prior(tmp_path)


# ------------------------------------------------------------------------------- with a checkpoint


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_prior_travels_with_the_checkpoint(tmp_path, kind):
    model = tiny.vae()
    model.default_prior = make(kind, model)
    model.save_pretrained(tmp_path / "a")
    again = LlaMaVAE.from_pretrained(tmp_path / "a")
    assert again.default_prior is not None
    assert again.default_prior.kind == kind
    assert again.sample(3, seed=2) == model.decode(model.default_prior.sample(3, seed=2))
    assert again.sample(3, "standard", seed=2) == model.sample(3, "standard", seed=2)
    again.save_pretrained(tmp_path / "b")
    assert load_prior(tmp_path / "b" / "prior", again).kind == kind
    again.default_prior = None
    again.save_pretrained(tmp_path / "b")
    assert not (tmp_path / "b" / "prior").exists()
    assert LlaMaVAE.from_pretrained(tmp_path / "b").default_prior is None


def test_a_prior_of_other_weights_is_not_saved(tmp_path):
    model = tiny.vae()
    model.default_prior = make("mixture", model)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        model.posterior.linear.weight.add_(1)
    with pytest.warns(UserWarning, match="weights have changed"):
        model.save_pretrained(tmp_path)
    assert not (tmp_path / "prior").exists()


def test_a_prior_of_other_weights_is_not_loaded(tmp_path):
    tiny.vae().save_pretrained(tmp_path / "model")
    torch.manual_seed(9)
    make("mixture", tiny.vae()).save(tmp_path / "model" / "prior")
    with pytest.warns(UserWarning, match="fitted for other weights"):
        assert LlaMaVAE.from_pretrained(tmp_path / "model").default_prior is None


def test_a_damaged_default_prior_is_named(tmp_path):
    model = tiny.vae()
    model.default_prior = make("mixture", model)
    model.save_pretrained(tmp_path)
    (tmp_path / "prior" / "prior.safetensors").write_bytes(b"no weights")
    tiny.unsealed(tmp_path)
    with pytest.raises(UserError, match=r"prior/prior\.safetensors is damaged"):
        LlaMaVAE.from_pretrained(tmp_path)
