"""Fitting a prior to the latent codes of sentences.

Only the aggregate posterior q(z) = E_x q(z|x) is modelled; the VAE does not change (ex-post density
estimation, Ghosh et al., arXiv 1903.12436).
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from llamavae.data.sentences import SentenceData, sentence_vectors
from llamavae.errors import UserError, counted, unknown
from llamavae.flows import FitConfig, Flow, FlowData, build_flow, fit_flow
from llamavae.modeling import DiagonalGaussian, LlaMaVAE
from llamavae.modeling.backbones import latent_fingerprint
from llamavae.modeling.prior import FlowPrior, MixturePrior, Prior, PriorKind, StandardPrior

logger = logging.getLogger(__name__)

KINDS: tuple[PriorKind, ...] = get_args(PriorKind)
"""What `auto` chooses from, simple ones first."""
COMPONENTS = (1, 2, 5, 10, 20, 50)
"""Numbers of components that a mixture is chosen from."""
POSTERIOR_SCALE = 0.5
"""Default multiple of the posteriors' standard deviation for the codes that a prior is fitted to.

Codes nearer the means decode better: of 500 samples of a `factors` model, 99 % instead of 92 % were
grammatical and as many were new (docs/how-to/sampling.md).
"""
FLOW_MARGIN = 0.01
"""By how much a flow must lower the held-out NLL to be chosen, in nats per dimension."""
_RUN_COMPONENTS, _RUN_SHARE = (1, 2, 5, 10), 20
"""At the end of a run: numbers of components, and codes per component and dimension, at least."""

Kinds = PriorKind | Literal["auto"] | Sequence[PriorKind]


# ------------------------------------------------------------------------------- codes


def posterior(vae: LlaMaVAE, texts: Sequence[str], progress: bool = True) -> DiagonalGaussian:
    """q(z|x) of N texts, mean and logvar (N, D), through the cache of sentence vectors.

    Args:
        vae: The VAE.
        texts: N texts; equal ones are encoded once.
        progress: Show a progress bar on stderr.

    Raises:
        UserError: The VAE has no sentence encoder.
    """
    if vae.encoder is None:
        raise UserError(
            "this VAE has no sentence encoder, so texts have no latent codes. Load one with a "
            "sentence encoder"
        )
    distinct = list(dict.fromkeys(texts))
    h = torch.from_numpy(sentence_vectors(distinct, vae.encoder, progress).copy())
    q = vae.encode(h)
    row = {text: i for i, text in enumerate(distinct)}
    index = torch.tensor([row[text] for text in texts], dtype=torch.long)
    return DiagonalGaussian(q.mean.cpu()[index], q.logvar.cpu()[index])


def aggregate_posterior(
    vae: LlaMaVAE,
    texts: Sequence[str],
    posterior_scale: float = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """A latent code of each of N texts, drawn from its posterior, shape (N, D).

    Args:
        vae: The VAE.
        texts: N texts.
        posterior_scale: Factor applied to the posterior standard deviations; 0 uses the means.
        seed: Seed of the draws.
        progress: Show a progress bar on stderr.

    Raises:
        UserError: `posterior_scale` is negative, or the VAE has no sentence encoder.
    """
    if not posterior_scale >= 0:
        raise UserError(f"posterior_scale must not be negative; got {posterior_scale}")
    return _draw(posterior(vae, texts, progress), posterior_scale, seed)


def _draw(q: DiagonalGaussian, posterior_scale: float, seed: int) -> Tensor:
    rows = FlowData(q.mean.cpu(), noise=posterior_scale * q.stddev.cpu())
    return rows.draw(torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------- fitting


def fit_prior(
    codes: Tensor,
    kind: Kinds = "auto",
    *,
    valid: Tensor | None = None,
    components: int | Sequence[int] = COMPONENTS,
    flow: str | Flow = "glow",
    config: FitConfig | None = None,
    seed: int = 0,
    vae: LlaMaVAE | None = None,
    progress: bool = False,
) -> Prior:
    """Fit a prior to latent codes of a VAE.

    Among several kinds, the one with the lowest NLL of the held-out codes is returned, with one
    exception: a flow must be better than the best other kind by more than 0.01 nats per dimension
    (`FLOW_MARGIN`), because it is larger, slower to draw from, and its samples are less fluent at
    equal NLL. Ties are resolved in favour of the simpler kind.

    Args:
        codes: N latent codes (N, D), such as those of `aggregate_posterior`.
        kind: `standard` (N(0, I), nothing is fitted), `gaussian` (one Gaussian with a full
            covariance), `mixture` (of such Gaussians), `flow`, several of these to choose from,
            or `auto`, all of them.
        valid: Held-out codes (M, D), which choose the kind and the number of components, stop the
            training of a flow, and give the NLLs of the report; None takes a random tenth.
        components: Number of components of the mixture, or numbers to choose from by held-out NLL:
            they are tried in ascending order until one is worse than the one before.
        flow: Architecture of the flow, or a flow from `build_flow`.
        config: How the flow is trained; its seed is replaced.
        seed: Seed of the held-out tenth, of the initialisation of mixtures, and of the flow.
        vae: The VAE that the codes belong to. The prior cannot then be used with another.
        progress: Show a progress bar on stderr.

    Returns:
        The prior. Its report has `kind`; `nll`, of the held-out codes in nats per dimension, lower
        is better; `references`, the same under N(0, I) (`standard`) and under a Gaussian with a
        full covariance (`gaussian`); `candidates`, the NLL of each kind that was fitted; the
        numbers of codes; and further values that depend on the kind.

    Raises:
        UserError: A name is unknown, the codes have another size than the VAE's or are not finite,
            or there are too few.

    Example:
        >>> codes = 3 + 0.5 * torch.randn(400, 2)
        >>> prior = fit_prior(codes, ["standard", "gaussian"])
        >>> prior.kind
        'gaussian'
        >>> prior.report["nll"] < prior.report["references"]["standard"]
        True
    """
    kinds = _kinds(kind)
    train, held_out = _divided(codes, valid, seed, vae)
    standard, gaussian = StandardPrior(train.shape[1]), _mixture(train, 1, seed)
    candidates: dict[str, Prior] = {}
    for name in kinds:
        match name:
            case "standard":
                candidates[name] = standard
            case "gaussian":
                candidates[name] = gaussian
            case "mixture":
                candidates[name] = _best_mixture(train, held_out, components, seed)
            case "flow":
                candidates[name] = _flow_prior(train, held_out, flow, config, seed, progress)
    found = {name: prior.nll(held_out) for name, prior in candidates.items()}
    found = {name: nll for name, nll in found.items() if math.isfinite(nll)}
    if not found:
        raise UserError(
            f"the held-out NLL of the prior ({', '.join(kinds)}) is not finite. Check the codes "
            "for extreme values, or use the prior standard"
        )
    best = _best(found)
    prior = candidates[best]
    prior.report = {
        "kind": best,
        "nll": found[best],
        "references": {"standard": standard.nll(held_out), "gaussian": gaussian.nll(held_out)},
        "candidates": found,
        "codes": len(train),
        "held_out": len(held_out),
        "seed": seed,
        **prior.report,
    }
    prior.fingerprint = None if vae is None else latent_fingerprint(vae)
    return prior


def _kinds(kind: Kinds) -> list[PriorKind]:
    """The requested kinds, simple ones first."""
    if kind == "auto":
        return list(KINDS)
    requested = [kind] if isinstance(kind, str) else list(kind)
    for name in requested:
        if name not in KINDS:
            raise unknown("prior", name, [*KINDS, "auto"])
    if not requested:
        raise UserError(f"expected at least one kind of prior, of {', '.join(KINDS)}; got none")
    return [name for name in KINDS if name in requested]


def _best(nlls: dict[str, float]) -> str:
    """The kind of the lowest NLL, by the rule of `fit_prior`; simple ones come first."""
    best, *others = nlls
    for name in others:
        if nlls[name] < nlls[best] - (FLOW_MARGIN if name == "flow" else 0):
            best = name
    return best


def _divided(
    codes: Tensor, valid: Tensor | None, seed: int, vae: LlaMaVAE | None
) -> tuple[Tensor, Tensor]:
    """Codes to fit to and held-out ones, in float32 on the CPU."""
    features = codes.shape[-1] if vae is None else vae.config.latent_dim
    train = FlowData(codes).checked("the codes", features, 0).x.float()
    if valid is None:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        part = max(1, len(train) // 10)
        train, held_out = train[order[part:]], train[order[:part]]
    else:
        held_out = FlowData(valid).checked("the held-out codes", features, 0).x.float()
    if len(train) < 2 or not len(held_out):
        raise UserError(
            "fitting a prior needs at least 2 codes, and 1 that is held out; got "
            f"{len(train)} and {len(held_out)}"
        )
    if len(train) <= features:
        logger.warning(
            "%d codes are too few for a covariance of %d dimensions: the prior describes these "
            "codes, not the space. Use more sentences",
            *(len(train), features),
        )
    constant = (train == train[0]).all(0).nonzero().flatten().tolist()
    if constant:
        raise UserError(
            f"expected codes that vary in each dimension; dimensions {constant[:8]} are constant "
            f"({len(constant)} of {features}), where a density is not defined"
        )
    return train, held_out


def _flow_prior(
    train: Tensor,
    held_out: Tensor,
    flow: str | Flow,
    config: FitConfig | None,
    seed: int,
    progress: bool,
) -> FlowPrior:
    if isinstance(flow, str):
        with torch.random.fork_rng([]):  # draws elsewhere do not depend on the fit
            torch.manual_seed(seed)
            flow = build_flow(flow, train.shape[1])
    prior = FlowPrior(flow)
    config = replace(config or FitConfig(), seed=seed)
    fit = fit_flow(flow, train, valid=FlowData(held_out), config=config, progress=progress)
    prior.report = {
        "flow": flow.settings,
        "best_step": fit.best_step,
        "stopped": fit.stopped,
        "inverse_error": fit.inverse_error,
    }
    return prior


def _best_mixture(
    train: Tensor, held_out: Tensor, components: int | Sequence[int], seed: int
) -> MixturePrior:
    """The mixture of the lowest held-out NLL; its report has the NLL of each number tried."""
    sizes = sorted({components} if isinstance(components, int) else set(components))
    possible = [k for k in sizes if k <= len(train)]
    if not possible or sizes[0] < 1:
        raise UserError(
            f"a mixture has from 1 to as many components as there are codes, {len(train)}; got "
            f"{', '.join(map(str, sizes)) or 'none'}"
        )
    best, tried = _mixture(train, possible[0], seed), {}
    tried[str(possible[0])] = lowest = best.nll(held_out)
    for k in possible[1:]:
        mixture = _mixture(train, k, seed)
        tried[str(k)] = nll = mixture.nll(held_out)
        if nll >= lowest:
            break
        best, lowest = mixture, nll
    best.report = {"components": len(best.weights), "tried": tried}
    return best


def _mixture(train: Tensor, components: int, seed: int) -> MixturePrior:
    from sklearn.exceptions import ConvergenceWarning  # slow to import
    from sklearn.mixture import GaussianMixture

    try:
        with warnings.catch_warnings():  # one that has not converged is judged like any other
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit = GaussianMixture(components, random_state=seed).fit(train.double().numpy())
    except ValueError as error:
        raise UserError(
            f"{counted(components, 'Gaussian')} cannot be fitted to these "
            f"{len(train)} codes: {error}"
        ) from error
    covariances = torch.from_numpy(fit.covariances_)
    return MixturePrior(
        torch.from_numpy(fit.weights_).float(),
        torch.from_numpy(fit.means_).float(),
        torch.linalg.cholesky(covariances).float(),
    )


# ------------------------------------------------------------------------------- in a run


def fit_default_prior(
    vae: LlaMaVAE, train: SentenceData, held_out: SentenceData, limit: int, seed: int = 0
) -> Prior:
    """The default prior of a model that has just been trained: N(0, I) or a mixture.

    It is fitted as `fit_prior` does, to codes of a random choice of training sentences at
    `POSTERIOR_SCALE`, with 1, 2, 5 or 10 components, and chosen by the NLL of the held-out ones. So
    that the fit stays quick and the covariances are determined, a mixture of several components has
    at least 20 codes per component and dimension.

    Args:
        vae: The VAE.
        train: Its training sentences.
        held_out: Its validation sentences.
        limit: Maximum number of training sentences.
        seed: Seed of the choice, of the draws from the posteriors and of the fit.

    Raises:
        UserError: There are too few sentences, or nothing can be fitted to their codes.
    """
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    inputs = train.inputs(order[:limit].sort().values.numpy())
    codes = _draw(vae.encode(inputs), POSTERIOR_SCALE, seed)
    valid = _draw(vae.encode(held_out.inputs()), POSTERIOR_SCALE, seed + 1)
    maximum = max(1, len(codes) // (_RUN_SHARE * codes.shape[1]))
    prior = fit_prior(
        codes,
        ("standard", "mixture"),
        valid=valid,
        components=[k for k in _RUN_COMPONENTS if k <= maximum],
        seed=seed,
        vae=vae,
    )
    prior.report["posterior_scale"] = POSTERIOR_SCALE
    return prior
