"""Warnings about a training run: posterior collapse, and other failures of the latent space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llamavae.training.recipe import Recipe

_EARLY = 0.2  # fraction of a run in which a model may still be learning to use z


def diagnose(
    metrics: Mapping[str, Any],
    latent_dim: int,
    beta: float,
    progress: float,
    recipe: Recipe | None = None,
) -> list[str]:
    """Warnings about a run, with settings of the recipe to try; empty if nothing is wrong.

    Three failures are recognised: *posterior collapse* (the decoder ignores z), *deterministic
    posterior* (the posterior variance is close to 0, so codes between those of sentences decode
    poorly), and *holes* (posteriors and prior cover different regions, so prior samples are poor).
    There are no warnings in the first fifth of a run, nor in the first half while beta is 0 and the
    decoder is trained from scratch. Beta 0 after that is taken as intended: a plain autoencoder.

    Args:
        metrics: Metrics of `llamavae.training.measure.measure`; some may be missing.
        latent_dim: Size D of z.
        beta: Weight of the KL term at this step.
        progress: Fraction of the run that is done, from 0 to 1.
        recipe: Settings of the run. With it, known causes of the collapse of a pretrained decoder
            are listed first.
    """
    nll = metrics.get("nll")
    if nll is not None and not math.isfinite(nll):
        return [
            f"training diverged: the NLL is {nll}. Try a smaller optimisation.learning_rate or "
            "more optimisation.warmup_steps."
        ]
    pretrained = recipe is not None and recipe.decoder.model is not None
    if progress < _EARLY or (beta == 0 and progress <= 0.5 and not pretrained):
        return []
    if signs := _collapse(metrics, latent_dim):
        return [_collapse_message(signs, beta, _causes(recipe) if recipe and pretrained else [])]
    if beta == 0:
        return []
    return [message for message in (_autoencoder(metrics), _holes(metrics)) if message]


def _collapse(metrics: Mapping[str, Any], latent_dim: int) -> list[str]:
    """Signs that the decoder ignores z."""
    kl, information = metrics.get("kl"), metrics.get("mutual_information")
    nll, shuffled = metrics.get("nll"), metrics.get("nll_shuffled")
    signs = []
    if kl is not None and kl < 0.1:
        signs.append(f"the KL is {kl:.3f} nats per sentence")
    if information is not None and information < 0.1:
        signs.append(
            f"the mutual information of z and the sentence is {max(information, 0):.2f} nats"
        )
    if metrics.get("active_units") == 0:
        signs.append(f"0 of {latent_dim} units are active")
    if nll is not None and shuffled is not None and shuffled - nll < max(0.1, 0.01 * nll):
        signs.append(
            f"the z of another sentence gives nearly the same NLL ({shuffled:.2f} instead of "
            f"{nll:.2f} nats)"
        )
    return signs


def _causes(recipe: Recipe) -> list[str]:
    """Settings that are known to make a pretrained decoder ignore z, and remedies."""
    e, d, o = recipe.encoder, recipe.decoder, recipe.optimisation
    trains = d.training not in (None, "frozen")
    rate = o.backbone_learning_rate
    known = {
        "the decoder trains, and adapts to the corpus before z can be read: set decoder.training "
        "to frozen": trains,
        f"pretrained weights learn at {rate}, fresh ones at {o.learning_rate}: set "
        f"optimisation.backbone_learning_rate to {o.learning_rate / 20:g}": rate is not None
        and rate > o.learning_rate / 5
        and (trains or e.training == "full"),
        "the posterior starts wide, and its noise hides the mean: set latent.initial_std to 0.05": (
            recipe.latent.initial_std or 0
        )
        > 0.3,
        "sentence vectors are not standardised: set encoder.standardise to true": e.standardise
        is False,
        f"optimisation.learning_rate {o.learning_rate:g} is high for a map to a pretrained "
        "decoder: try 1e-3": o.learning_rate > 2e-3,
    }
    return [text for text, holds in known.items() if holds]


def _collapse_message(signs: list[str], beta: float, causes: list[str]) -> str:
    finding = f"posterior collapse: {'; '.join(signs)}. The decoder ignores z."
    if causes:
        return f"{finding} Likely causes: {'; '.join(causes)}."
    if beta == 0:
        return (
            f"{finding} Beta is 0, so the KL is not the cause. Try more optimisation.steps, "
            "latent.slots, latent.injection memory+add, a higher optimisation.learning_rate or "
            "objective.word_dropout 0.3."
        )
    return (
        f"{finding} Try a smaller objective.beta, a later or longer rise (objective.start, "
        "objective.ramp, objective.zero), objective.kl_rule free_bits with kl_threshold 0.1 to "
        "0.5, objective.schedule target_rate, or objective.word_dropout 0.3."
    )


def _autoencoder(metrics: Mapping[str, Any]) -> str | None:
    kl, variance = metrics.get("kl"), metrics.get("posterior_variance")
    if kl is None or variance is None:
        return None
    active = max(metrics.get("active_units", 1), 1)
    if variance >= 0.01 and kl / active <= 6:
        return None
    return (
        f"deterministic posterior: the mean posterior variance is {variance:.2g} (the prior's "
        f"is 1) and the KL is {kl:.0f} nats, {kl / active:.1f} per active unit. The posteriors "
        "are nearly deterministic, so interpolations and prior samples will be poor. Try a larger "
        "objective.beta, a longer phase at full beta (objective.start, objective.ramp), or "
        "objective.schedule target_rate."
    )


def _holes(metrics: Mapping[str, Any]) -> str | None:
    """KL = information + KL(aggregate posterior || prior), as long as log N does not cap it."""
    kl, information = metrics.get("kl"), metrics.get("mutual_information")
    count = metrics.get("mutual_information_n")
    if kl is None or information is None or not count or information > math.log(count) - 1:
        return None
    gap = kl - information
    if gap < max(2.0, 0.5 * kl):
        return None
    return (
        f"holes in the latent space: only {information:.1f} of the {kl:.1f} nats of KL are mutual "
        f"information; the other {gap:.1f} are the divergence of the aggregate posterior from the "
        "prior, so samples from the prior are poor. Try a larger objective.beta, "
        "longer training at full beta, or a smaller latent.dim."
    )
