from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llamavae.errors import UserError
from llamavae.metrics.control import derangement
from llamavae.metrics.latent import active_units, mutual_information, posterior_variance
from llamavae.metrics.ngrams import exact_match, reconstruction_bleu
from llamavae.training import diagnostics
from llamavae.training.diagnostics import diagnose
from llamavae.training.recipe import describe_settings, parse_recipe

TEXTS = ["a dog is a kind of animal", "the old baker wrote a letter", "she sold the horse"]


def posterior(n, gains, variances):
    """q(z|x) = N(gain x, variance) with x ~ N(0, 1) in each dimension, and one draw of each."""
    mean = torch.randn(n, len(gains), dtype=torch.float64) * torch.tensor(gains)
    logvar = torch.tensor(variances, dtype=torch.float64).log().expand(n, -1)
    return mean, logvar, mean + torch.exp(logvar / 2) * torch.randn_like(mean)


def test_active_units_counts_dimensions_that_vary():
    mean, _, _ = posterior(2000, [1.0, 0.0, 0.3, 0.05], [1.0] * 4)
    assert active_units(mean) == 2
    assert active_units(mean, threshold=0.001) == 3
    assert active_units(mean + 100) == 2
    assert active_units(mean[:1]) == 0


@pytest.mark.parametrize("gains", [[0.0], [0.5], [2.0], [1.0, 0.5, 0.0]])
def test_information_of_a_linear_gaussian_channel(gains):
    mean, logvar, z = posterior(3000, gains, [0.5] * len(gains))
    exact = sum(0.5 * math.log(1 + gain**2 / 0.5) for gain in gains)
    assert mutual_information(mean, logvar, z) == pytest.approx(exact, abs=0.06)


def test_information_of_separate_points_is_log_n():
    mean, logvar, z = posterior(50, [1.0] * 16, [1e-10] * 16)
    assert mutual_information(mean, logvar, z) == pytest.approx(math.log(50), abs=1e-6)


@given(st.integers(1, 40), st.integers(1, 5), st.floats(0, 30), st.floats(1e-6, 100))
def test_information_never_exceeds_log_n(n, dim, gain, variance):
    mean, logvar, z = posterior(n, [gain] * dim, [variance] * dim)
    assert mutual_information(mean, logvar, z) <= math.log(n) + 1e-9


def test_information_does_not_depend_on_blocks(monkeypatch):
    values = posterior(37, [1.0, 0.5], [0.3, 2.0])
    whole = mutual_information(*values)
    monkeypatch.setattr(diagnostics, "_CHUNK", 100)
    assert mutual_information(*values) == pytest.approx(whole, abs=1e-12)
    assert mutual_information(*(x.float() for x in values)) == pytest.approx(whole, abs=1e-4)


def test_information_needs_matching_shapes():
    with pytest.raises(ValueError, match="one shape"):
        mutual_information(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(4, 2))


def test_posterior_variance():
    assert posterior_variance(torch.zeros(4, 3)) == 1
    assert posterior_variance(torch.tensor([[0.5, 1.5]]).log()) == pytest.approx(1)


def test_bleu_and_exact_match():
    assert reconstruction_bleu(TEXTS, TEXTS) == pytest.approx(100)
    assert exact_match(TEXTS, TEXTS) == 1
    assert reconstruction_bleu(TEXTS[1:] + TEXTS[:1], TEXTS) < 20
    assert exact_match([f" {TEXTS[0]} ", "x", ""], TEXTS) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("texts", "references"), [([""] * 3, TEXTS), (TEXTS, [""] * 3)])
def test_bleu_of_empty_texts(texts, references):
    assert reconstruction_bleu(texts, references) == 0
    assert exact_match(texts, references) == 0


def test_pairs_must_match():
    with pytest.raises(UserError, match="got 3 and 2"):
        reconstruction_bleu(TEXTS, TEXTS[:2])
    with pytest.raises(UserError, match="got 0 and 0"):
        exact_match([], [])


@given(st.integers(2, 50), st.integers(0, 2**31))
def test_a_derangement_leaves_nothing_in_its_place(n, seed):
    other = derangement(n, torch.Generator().manual_seed(seed))
    assert sorted(other.tolist()) == list(range(n))
    assert (other != torch.arange(n)).all()


@given(st.lists(st.integers(0, 4), min_size=2, max_size=24), st.integers(0, 2**31))
def test_a_derangement_pairs_as_few_equal_labels_as_possible(labels, seed):
    other = derangement(len(labels), torch.Generator().manual_seed(seed), labels)
    assert sorted(other.tolist()) == list(range(len(labels)))
    assert all(i != j for i, j in enumerate(other.tolist()))
    same = sum(labels[i] == labels[j] for i, j in enumerate(other.tolist()))
    # all that the others have goes to the largest group, and the rest of it stays within
    assert same == max(0, 2 * max(map(labels.count, labels)) - len(labels))


def test_a_derangement_minds_several_labels():
    words, texts = list("aabbccdd"), list("xyxyzzvw")
    for seed in range(50):
        other = derangement(8, torch.Generator().manual_seed(seed), words, texts).tolist()
        assert sorted(other) == list(range(8))
        assert not any(words[i] == words[j] or texts[i] == texts[j] for i, j in enumerate(other))


# ------------------------------------------------------------------------------- the monitor

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
    assert "NLL 15.01 against 15.00" in message
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


def test_autoencoder_in_disguise_is_named():
    (message,) = diagnose(AUTOENCODER, 32, beta=1e-4, progress=0.9)
    assert message.startswith("an autoencoder in disguise: the mean posterior variance is 0.0002")
    few = HEALTHY | {"kl": 80.0, "active_units": 8}
    (message,) = diagnose(few, 128, beta=0.1, progress=0.9)
    assert "10.0 for each active unit" in message


def test_autoencoder_on_purpose_is_left_alone():
    assert diagnose(AUTOENCODER, 32, beta=0.0, progress=1.0) == []


def test_holes_are_named():
    (message,) = diagnose(HOLES, 32, beta=0.1, progress=1.0)
    assert message.startswith("holes in the latent space: of the KL of 12.0 nats only 3.0")


def test_divergence_is_named_at_any_time():
    (message,) = diagnose({"nll": math.nan}, 32, beta=0.0, progress=0.0)
    assert "learning_rate" in message


def test_planted_posteriors_are_told_apart():
    """The measures themselves, not planted numbers, lead the monitor to the right name."""

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
    assert names(1.0, 1e-4) == ["an autoencoder in disguise"]
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
