"""Priors that are fitted after training: what they learn, draw, refuse and save."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from tests import tiny

from llamavae.errors import UserError
from llamavae.flows import Fitting, build_flow
from llamavae.guidance import aggregate_posterior, fit_prior, load_prior
from llamavae.guidance.cvae import posterior
from llamavae.guidance.prior import FlowPrior, MixturePrior

KINDS = ["gaussian", "mixture", "flow"]
SHORT = Fitting(steps=20, every=10, learning_rate=3e-3)
MEANS = torch.tensor([[4.0, 0.0, 0.0], [-4.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
WEIGHTS = torch.tensor([0.5, 0.3, 0.2])


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(3)
    return tiny.vae()


def fit(points, kind, **options):
    """With a small flow, where it is one."""
    torch.manual_seed(0)
    small = build_flow("glow", points.shape[1], blocks=2, hidden=(16,))
    return fit_prior(points, kind, flow=small, **{"fitting": SHORT, **options})


@pytest.fixture(scope="module")
def planted():
    """3000 points of three Gaussians of unequal shares, each with one narrow dimension."""
    generator = torch.Generator().manual_seed(0)
    which = torch.multinomial(WEIGHTS, 3000, True, generator=generator)
    scale = torch.tensor([1.0, 1.0, 0.1])
    return MEANS[which] + scale * torch.randn(3000, 3, generator=generator)


# ------------------------------------------------------------------------------- what is fitted


def test_a_planted_mixture_is_recovered(planted):
    prior = fit_prior(planted, "mixture", components=[1, 2, 3, 20])
    assert isinstance(prior, MixturePrior)
    assert prior.report["components"] == 3
    assert list(prior.report["tried"]) == ["1", "2", "3", "20"]
    order = prior.weights.argsort(descending=True)
    torch.testing.assert_close(prior.weights[order], WEIGHTS, atol=0.03, rtol=0)
    torch.testing.assert_close(prior.means[order], MEANS, atol=0.15, rtol=0)
    variance = prior.distribution().component_distribution.variance[0]
    torch.testing.assert_close(variance, torch.tensor([1.0, 1.0, 0.01]), atol=0.1, rtol=0.2)


def test_larger_mixtures_are_not_tried_once_one_is_worse():
    noise = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    prior = fit_prior(noise, "mixture", components=[10, 1, 20])
    assert list(prior.report["tried"]) == ["1", "10"]
    assert prior.report["components"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_it_beats_the_standard_normal_on_shifted_points(kind):
    points = 1 + 0.5 * torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    prior = fit(points, kind, components=[1, 2])
    standard = (np.log(2 * np.pi) + 1.25) / 2  # E z^2 = 1 + 0.5^2
    best = np.log(0.5) + (np.log(2 * np.pi) + 1) / 2
    assert prior.report["references"]["standard"] == pytest.approx(standard, abs=0.15)
    assert prior.report["nll"] == pytest.approx(best, abs=0.15)
    assert prior.report["points"] == 450
    assert prior.report["held_out"] == 50


@pytest.mark.parametrize("kind", ["mixture", "flow"])
def test_what_is_not_gaussian_needs_more_than_a_gaussian(planted, kind):
    fitting = Fitting(steps=200, every=100, learning_rate=1e-2)
    prior = fit(planted, kind, components=3, fitting=fitting)
    assert prior.report["nll"] < prior.report["references"]["gaussian"] - 0.1


def test_held_out_points_may_be_given(planted):
    prior = fit_prior(planted[:2000], "gaussian", valid=planted[2000:])
    assert prior.report["held_out"] == 1000
    train, held_out = planted.double().numpy()[:2000], planted.double().numpy()[2000:]
    covariance = np.cov(train.T, bias=True)
    density = multivariate_normal(train.mean(0), covariance).logpdf(held_out)  # type: ignore[arg-type]
    expected = -density.mean() / 3
    assert prior.report["nll"] == pytest.approx(expected, abs=1e-4)
    assert prior.nll(planted[2000:]) == prior.report["nll"]


def test_density_is_that_of_scikit_learn(planted):
    prior = fit_prior(planted, "mixture", valid=planted[:5], components=3, seed=4)
    reference = GaussianMixture(3, random_state=4).fit(planted.double().numpy())
    expected = torch.from_numpy(reference.score_samples(planted.double().numpy())).float()
    torch.testing.assert_close(prior.log_prob(planted), expected, atol=1e-3, rtol=1e-4)


# ------------------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("kind", KINDS)
def test_draws_follow_the_density(planted, kind):
    prior = fit(planted, kind, components=3)
    z = prior.sample(4000, seed=1)
    assert z.shape == (4000, 3)
    torch.testing.assert_close(z.mean(0), planted.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(z.std(0), planted.std(0), atol=0.3, rtol=0.1)
    torch.testing.assert_close(z, prior.sample(4000, seed=1))
    assert not torch.equal(z, prior.sample(4000, seed=2))
    state = torch.get_rng_state()
    prior.sample(2, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_scale_of_0_draws_the_centres(planted):
    mixture = fit_prior(planted, "mixture", components=3)
    assert isinstance(mixture, MixturePrior)
    z = mixture.sample(50, scale=0, seed=0)
    assert torch.cdist(z, mixture.means).amin(1).max() == 0
    flow = fit(planted, "flow")
    assert flow.sample(50, scale=0, seed=0).std(0).max() < 1e-5


def test_a_fit_repeats_and_leaves_the_random_numbers_alone(planted):
    state = torch.get_rng_state()
    fitting = Fitting(steps=2, every=1)
    first, second = (fit_prior(planted, "flow", fitting=fitting, seed=5) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.sample(5, seed=0), second.sample(5, seed=0))


def test_points_of_sentences(vae):
    texts = [*tiny.SENTENCES, tiny.SENTENCES[0]]
    q = posterior(vae, texts, progress=False)
    torch.testing.assert_close(aggregate_posterior(vae, texts, noise=0), q.mean)
    z = aggregate_posterior(vae, texts, noise=0.5, seed=1)
    deviation = (z - q.mean) / (0.5 * q.stddev)
    expected = torch.randn(9, tiny.LATENT, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(deviation, expected, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_as_it_was(vae, tmp_path, kind):
    points = torch.randn(200, tiny.LATENT, generator=torch.Generator().manual_seed(0))
    prior = fit(points, kind, components=2, vae=vae)
    prior.save(tmp_path / "a" / "prior")
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"prior"}
    again = load_prior(tmp_path / "a" / "prior", vae)
    assert again.report == prior.report
    assert torch.equal(again.sample(7, seed=3), prior.sample(7, seed=3))
    torch.testing.assert_close(again.log_prob(points), prior.log_prob(points))
    again.save(tmp_path / "a" / "prior")  # over itself
    assert {p.suffix for p in (tmp_path / "a" / "prior").iterdir()} == {".json", ".safetensors"}
    assert len(vae.decode(again.sample(2, seed=0))) == 2


def test_one_in_the_folder_of_the_model_is_found_by_name(tmp_path):
    saved = tiny.vae()
    saved.save_pretrained(tmp_path)
    vae = type(saved).from_pretrained(tmp_path)
    prior = fit_prior(torch.randn(50, tiny.LATENT), "gaussian", vae=vae)
    prior.save(tmp_path / "priors" / "gaussian")
    assert load_prior("gaussian", vae).report == prior.report
    with pytest.raises(UserError, match=r"priors/mixture.*fit-prior"):
        load_prior("mixture", vae)


# ------------------------------------------------------------------------------- what is refused


def test_another_vae_is_refused(vae, tmp_path):
    prior = fit_prior(torch.randn(50, tiny.LATENT), "gaussian", vae=vae)
    prior.save(tmp_path)
    prior.check(vae)
    torch.manual_seed(9)
    other = tiny.vae()
    with pytest.raises(UserError, match="another VAE"):
        load_prior(tmp_path, other)
    with pytest.raises(UserError, match="points of size 6; the VAE has D = 4"):
        load_prior(tmp_path, tiny.vae(latent_dim=4))
    load_prior(tmp_path)  # nothing to compare with


def test_points_of_another_size_are_refused(vae):
    with pytest.raises(UserError, match=r"shape \(N, 6\); got \(50, 5\)"):
        fit_prior(torch.randn(50, 5), "gaussian", vae=vae)
    prior = fit_prior(torch.randn(50, 5), "gaussian")
    with pytest.raises(UserError, match=r"shape \(N, 5\); got \(2, 6\)"):
        prior.log_prob(torch.zeros(2, 6))
    with pytest.raises(UserError, match="held-out points"):
        fit_prior(torch.randn(50, 5), "gaussian", valid=torch.zeros(4, 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mixtur"}, "Did you mean 'mixture'"),
        ({"kind": "flow", "flow": "glw"}, "Did you mean 'glow'"),
        ({"components": 0}, "from 1 to as many"),
        ({"components": []}, "got none"),
        ({"components": 46}, "there are points, 45"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(UserError, match=message):
        fit_prior(torch.randn(50, 3), **options)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.full((9, 2), torch.nan), "NaN or infinity"),
        (torch.zeros(2, 2), "at least 2 points"),
        (torch.zeros(2), "shape"),
    ],
)
def test_unusable_points(points, message):
    with pytest.raises(UserError, match=message):
        fit_prior(points, "gaussian")


def test_wrong_draws():
    prior = fit_prior(torch.randn(50, 3), "gaussian")
    with pytest.raises(UserError, match="n=0"):
        prior.sample(0)
    with pytest.raises(UserError, match="scale"):
        prior.sample(1, scale=-1)
    with pytest.raises(UserError, match="no condition"):
        FlowPrior(build_flow("glow", 3, 2))


def test_a_negative_width_is_refused(vae):
    with pytest.raises(UserError, match="noise"):
        aggregate_posterior(vae, tiny.SENTENCES, noise=-1)


def test_damaged_folders(tmp_path):
    with pytest.raises(UserError, match="there is no prior"):
        load_prior(tmp_path)
    fit_prior(torch.randn(50, 3), "gaussian").save(tmp_path)
    settings = json.loads((tmp_path / "prior.json").read_text())
    (tmp_path / "prior.json").write_text(json.dumps(settings | {"format_version": 99}))
    with pytest.raises(UserError, match="Upgrade"):
        load_prior(tmp_path)
    (tmp_path / "prior.json").write_text(json.dumps(settings | {"type": "oracle"}))
    with pytest.raises(UserError, match="damaged"):
        load_prior(tmp_path)
    (tmp_path / "prior.json").write_text(json.dumps(settings))
    (tmp_path / "prior.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="damaged"):
        load_prior(tmp_path)
