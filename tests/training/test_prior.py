"""Fitting priors: what they learn, which one is chosen, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from tests import tiny

from llamavae.data.sentences import prepare
from llamavae.errors import UserError
from llamavae.flows import FitConfig, build_flow
from llamavae.modeling.prior import MixturePrior, StandardPrior
from llamavae.training import prior as fitting_module
from llamavae.training.prior import aggregate_posterior, fit_default_prior, fit_prior, posterior

KINDS = ["gaussian", "mixture", "flow"]
SHORT = FitConfig(steps=20, eval_every=10, learning_rate=3e-3)
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
    return fit_prior(points, kind, flow=small, **{"config": SHORT, **options})


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
    assert prior.report["codes"] == 450
    assert prior.report["held_out"] == 50


@pytest.mark.parametrize("kind", ["mixture", "flow"])
def test_what_is_not_gaussian_needs_more_than_a_gaussian(planted, kind):
    config = FitConfig(steps=200, eval_every=100, learning_rate=1e-2)
    prior = fit(planted, kind, components=3, config=config)
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


def test_a_fit_repeats_and_leaves_the_random_numbers_alone(planted):
    state = torch.get_rng_state()
    config = FitConfig(steps=2, eval_every=1)
    first, second = (fit_prior(planted, "flow", config=config, seed=5) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.sample(5, seed=0), second.sample(5, seed=0))


def test_points_of_sentences(vae):
    texts = [*tiny.SENTENCES, tiny.SENTENCES[0]]
    q = posterior(vae, texts, progress=False)
    torch.testing.assert_close(aggregate_posterior(vae, texts, posterior_scale=0), q.mean)
    z = aggregate_posterior(vae, texts, posterior_scale=0.5, seed=1)
    deviation = (z - q.mean) / (0.5 * q.stddev)
    expected = torch.randn(9, tiny.LATENT, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(deviation, expected, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------- which is chosen


def test_auto_takes_the_lowest_held_out_nll(planted):
    prior = fit(planted, "auto", components=[1, 2, 3])
    found = prior.report["candidates"]
    assert list(found) == ["standard", "gaussian", "mixture", "flow"]
    assert prior.kind == "mixture"
    assert prior.report["nll"] == found["mixture"] == min(found.values())
    assert prior.report["components"] == 3


def test_n01_stays_where_nothing_is_better():
    codes = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    prior = fit_prior(codes, ["mixture", "standard", "gaussian"])
    assert isinstance(prior, StandardPrior)
    assert prior.kind == "standard"
    assert prior.report["nll"] == prior.report["references"]["standard"]
    assert set(prior.report["candidates"]) == {"standard", "gaussian", "mixture"}


@pytest.mark.parametrize(
    ("nlls", "best"),
    [
        ({"standard": 1.4, "gaussian": 1.4, "mixture": 1.4}, "standard"),
        ({"standard": 1.4, "gaussian": 1.3999, "mixture": 1.3999}, "gaussian"),
        ({"gaussian": 1.4, "mixture": 1.399, "flow": 1.39}, "mixture"),
        ({"gaussian": 1.4, "mixture": 1.399, "flow": 1.388}, "flow"),
        ({"flow": 3.0}, "flow"),
    ],
)
def test_a_flow_has_to_be_clearly_better(nlls, best):
    assert fitting_module._best(nlls) == best


# ------------------------------------------------------------------------------- in a run


def test_the_default_prior_of_a_run(vae):
    texts = [f"{text} {i}" for i in range(25) for text in tiny.SENTENCES]
    train, held_out = (prepare(part, vae.decoder) for part in (texts[:150], texts[150:]))
    prior = fit_default_prior(vae, train, held_out, limit=100, seed=3)
    assert prior.fits(vae)
    assert prior.report["codes"] == 100
    assert prior.report["held_out"] == 50
    assert prior.kind in ("standard", "mixture")
    again = fit_default_prior(vae, train, held_out, limit=100, seed=3)
    assert again.report == prior.report
    assert torch.equal(again.sample(4, seed=0), prior.sample(4, seed=0))


def test_kept_vectors_give_the_same_prior(vae):
    texts = [f"{text} {i}" for i in range(8) for text in tiny.SENTENCES]
    vectors = vae.encoder.encode(texts, 64).numpy()
    held_out = prepare(tiny.SENTENCES, vae.decoder)
    plain = fit_default_prior(vae, prepare(texts, vae.decoder), held_out, 50)
    kept = fit_default_prior(vae, prepare(texts, vae.decoder, vectors=vectors), held_out, 50)
    assert kept.report["nll"] == pytest.approx(plain.report["nll"], abs=1e-4)


def test_few_codes_get_few_components(vae):
    data = prepare([f"{text} {i}" for i in range(40) for text in tiny.SENTENCES], vae.decoder)
    prior = fit_default_prior(vae, data, data, limit=20 * tiny.LATENT * 2)
    assert set(prior.report.get("tried", {"1": 0})) <= {"1", "2"}


# ------------------------------------------------------------------------------- what is refused


def test_points_of_another_size_are_refused(vae):
    with pytest.raises(UserError, match=r"shape \(N, 6\); got \(50, 5\)"):
        fit_prior(torch.randn(50, 5), "gaussian", vae=vae)
    with pytest.raises(UserError, match="held-out codes"):
        fit_prior(torch.randn(50, 5), "gaussian", valid=torch.zeros(4, 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mixtur"}, "Did you mean 'mixture'"),
        ({"kind": ["gaussian", "flwo"]}, "Did you mean 'flow'"),
        ({"kind": []}, "at least one kind"),
        ({"kind": "flow", "flow": "glw"}, "Did you mean 'glow'"),
        ({"kind": "mixture", "components": 0}, "from 1 to as many"),
        ({"kind": "mixture", "components": []}, "got none"),
        ({"kind": "mixture", "components": 46}, "there are codes, 45"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(UserError, match=message):
        fit_prior(torch.randn(50, 3), **options)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.full((9, 2), torch.nan), "NaN or infinite"),
        (torch.zeros(2, 2), "at least 2 codes"),
        (torch.zeros(2), "shape"),
    ],
)
def test_unusable_points(points, message):
    with pytest.raises(UserError, match=message):
        fit_prior(points, "gaussian")


def test_a_negative_width_is_refused(vae):
    with pytest.raises(UserError, match="posterior_scale"):
        aggregate_posterior(vae, tiny.SENTENCES, posterior_scale=-1)


def test_few_codes_are_reported_and_constant_ones_refused(caplog):
    fit_prior(torch.randn(3, 4), "gaussian")
    assert "2 codes are too few for a covariance of 4 dimensions" in caplog.text
    codes = torch.randn(40, 4)
    codes[:, 2] = 1.0
    with pytest.raises(UserError, match=r"dimensions \[2\] are constant"):
        fit_prior(codes)
