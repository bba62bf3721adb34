from __future__ import annotations

import math
import re

import pytest
from tests.metrics.gaussians import posterior

from llamavae.metrics.latent import active_units, mutual_information, posterior_variance
from llamavae.training.diagnostics import diagnose
from llamavae.training.recipe import describe_settings, parse_recipe

HEALTHY = {
    "nll": 3.0,
    "nll_shuffled": 40.0,
    "kl": 14.0,
    "active_units": 20,
    "mutual_information": 6.1,
    "mutual_information_n": 500,
    "posterior_variance": 0.5,
}
COLLAPSED = HEALTHY | {
    "nll": 15.0,
    "nll_shuffled": 15.01,
    "kl": 0.02,
    "active_units": 0,
    "mutual_information": -0.01,
    "posterior_variance": 0.99,
}
AUTOENCODER = HEALTHY | {
    "nll": 0.1,
    "kl": 160.0,
    "active_units": 32,
    "posterior_variance": 2e-4,
}
HOLES = HEALTHY | {"kl": 12.0, "mutual_information": 3.0}


def test_healthy_model_is_left_alone():
    assert diagnose(HEALTHY, 32, beta=0.3, progress=1.0) == []
    assert diagnose({}, 32, beta=0.3, progress=1.0) == []


@pytest.mark.parametrize("metrics", [COLLAPSED, AUTOENCODER])
def test_monitor_does_not_cry_wolf(metrics):
    assert diagnose(metrics, 32, beta=0.3, progress=0.0) == []
    assert diagnose(metrics, 32, beta=0.0, progress=0.4) == []


def test_collapse_is_named():
    (message,) = diagnose(COLLAPSED, 32, beta=1.0, progress=0.6)
    assert message.startswith("posterior collapse: the KL is 0.020 nats")
    assert "0 of 32 units" in message
    assert "nearly the same NLL (15.01 instead of 15.00 nats)" in message
    assert "objective.beta" in message


@pytest.mark.parametrize(
    "sign",
    [
        {"kl": 0.05},
        {"active_units": 0},
        {"mutual_information": 0.03},
        {"nll_shuffled": 3.0},
        {"nll_shuffled": 2.5},
    ],
)
def test_one_sign_of_collapse_is_enough(sign):
    (message,) = diagnose(HEALTHY | sign, 32, beta=1.0, progress=0.6)
    assert message.startswith("posterior collapse")


def test_unused_z_without_a_kl_term_has_other_advice():
    (message,) = diagnose(COLLAPSED, 32, beta=0.0, progress=0.9)
    assert "the KL is not the cause" in message


def test_a_deterministic_posterior_is_named():
    (message,) = diagnose(AUTOENCODER, 32, beta=1e-4, progress=0.9)
    assert message.startswith("deterministic posterior: the mean posterior variance is 0.0002")
    few = HEALTHY | {"kl": 80.0, "active_units": 8}
    (message,) = diagnose(few, 128, beta=0.1, progress=0.9)
    assert "10.0 per active unit" in message


def test_autoencoder_on_purpose_is_left_alone():
    assert diagnose(AUTOENCODER, 32, beta=0.0, progress=1.0) == []


def test_holes_are_named():
    (message,) = diagnose(HOLES, 32, beta=0.1, progress=1.0)
    assert message.startswith("holes in the latent space: only 3.0 of the 12.0 nats of KL")


def test_divergence_is_named_at_any_time():
    (message,) = diagnose({"nll": math.nan}, 32, beta=0.0, progress=0.0)
    assert "learning_rate" in message


def test_planted_posteriors_are_told_apart():
    """The metrics themselves, not planted numbers, lead the monitor to the right name."""

    def measured(gain, variance):
        mean, logvar, z = posterior(400, [gain] * 8, [variance] * 8)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
        return {
            "kl": float(kl),
            "active_units": active_units(mean),
            "mutual_information": mutual_information(mean, logvar, z),
            "mutual_information_n": 400,
            "posterior_variance": posterior_variance(logvar),
        }

    def names(gain, variance):
        return [m.split(":")[0] for m in diagnose(measured(gain, variance), 8, 1.0, 1.0)]

    assert names(0.8, 0.4) == []
    assert names(0.001, 0.999) == ["posterior collapse"]
    assert names(1.0, 1e-4) == ["deterministic posterior"]
    assert names(3.0, 4.0) == ["holes in the latent space"]


def test_advice_names_settings_that_exist():
    known = {key for key, *_ in describe_settings()}
    named = set()
    for metrics, beta in ((COLLAPSED, 1.0), (COLLAPSED, 0.0), (AUTOENCODER, 1.0), (HOLES, 1.0)):
        (message,) = diagnose(metrics, 32, beta, 1.0)
        named |= set(re.findall(r"\b(?:objective|latent|optimisation|decoder)\.\w+", message))
    assert len(named) > 8
    assert named <= known


PRETRAINED = {"encoder": {"model": "e"}, "decoder": {"model": "d"}}
CAUSES = [
    ({"decoder": {"training": "lora"}}, "decoder.training to frozen"),
    ({"decoder": {"training": "heads"}}, "decoder.training to frozen"),
    (
        {"encoder": {"training": "full"}, "optimisation": {"backbone_learning_rate": 5e-4}},
        "optimisation.backbone_learning_rate to 5e-05",
    ),
    ({"latent": {"initial_std": 1.0}}, "latent.initial_std to 0.05"),
    ({"encoder": {"standardise": False}}, "encoder.standardise to true"),
    ({"optimisation": {"learning_rate": 3e-3}}, "try 1e-3"),
]


def pretrained(changes):
    names = PRETRAINED.keys() | changes.keys()
    return parse_recipe({n: PRETRAINED.get(n, {}) | changes.get(n, {}) for n in names})


@pytest.mark.parametrize(("changes", "remedy"), CAUSES)
def test_a_cause_that_is_known_is_named_with_its_remedy(changes, remedy):
    """At beta 0 too, after a fifth of the run."""
    unread = {"kl": 300.0, "active_units": 0, "nll": 58.0, "nll_shuffled": 58.1}
    (message,) = diagnose(unread, 128, beta=0.0, progress=0.3, recipe=pretrained(changes))
    assert message.startswith("posterior collapse")
    assert message.count("set ") + message.count("try ") == 1
    assert remedy in message


def test_a_pretrained_decoder_whose_settings_are_right_gets_the_general_advice():
    unread = {"kl": 300.0, "active_units": 0, "nll": 58.0, "nll_shuffled": 58.1}
    (message,) = diagnose(unread, 128, beta=0.0, progress=0.3, recipe=pretrained({}))
    assert "Likely causes" not in message
    assert "Try" in message
    assert diagnose(unread, 128, beta=0.0, progress=0.1, recipe=pretrained({})) == []
