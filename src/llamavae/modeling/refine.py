"""Refinement: a few gradient steps on q(z|x) of each sentence, from the encoder's posterior.

An encoder amortises inference: one network predicts the posterior of every sentence, and its
prediction is not optimal for any of them (the amortisation gap, Cremer et al., arXiv 1801.03558).
This module optimises the posterior of each sentence separately with the model frozen
(semi-amortised inference, Kim et al., arXiv 1802.02550), on the objective

    F(q) = E_q[-log p(x|z)] + beta * KL(q(z|x) || prior)        nats per sentence

All computations are in the units of the prior, u = (z - mean) / std, in which it is N(0, I).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llamavae.errors import UserError, check_int, check_number
from llamavae.modeling.backbones import fingerprint
from llamavae.modeling.posterior import DiagonalGaussian
from llamavae.modes import evaluating

if TYPE_CHECKING:
    from llamavae.modeling.base import SentenceVAE
    from llamavae.modeling.decoder import Scores

_MOMENTS = (0.7, 0.9)  # decay rates of Adam; smaller than (0.9, 0.999), since there are few steps
_EPSILON = 1e-3  # nats per standard deviation; smaller gradients are noise

Progress = Callable[[int, int | None], None]
"""Called with the number of finished sentences and the total number (None if unknown)."""


@dataclass(frozen=True)
class Refinement:
    """Settings of the refinement.

    Attributes:
        steps: Maximum number of gradient steps; 0 does not change the codes.
        learning_rate: Learning rate of Adam, in standard deviations of the prior.
        beta: Weight of the KL term, above 0.
        prior: Diagonal Gaussian prior, mean and logvar of shape (D,) or (1, D); None is N(0, I).
            If the codes of a model are not standard normal, use `aggregate(model.encode(texts))`
            of several thousand sentences.
        confidence: A sentence is finished when each of its tokens is the most probable one and has
            at least this probability; 1 uses all steps.
        samples: Number of draws for the variance and for the comparison of bounds.
        seed: Seed of these draws.
    """

    steps: int = 10
    learning_rate: float = 0.2
    beta: float = 0.1
    prior: DiagonalGaussian | None = None
    confidence: float = 0.9
    samples: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_int("refinement: steps", self.steps, 0)
        check_number("refinement: learning_rate", self.learning_rate, above=True)
        check_number("refinement: beta", self.beta, above=True)
        check_number("refinement: confidence", self.confidence, 0, 1, above=True)
        check_int("refinement: samples", self.samples)
        check_int("refinement: seed", self.seed, 0, 2**64 - 1)

    def prior_of(self, dim: int) -> DiagonalGaussian:
        """The prior over codes of size `dim`, mean and logvar of shape (1, D).

        Raises:
            UserError: The prior has another size.
        """
        if self.prior is None:
            return DiagonalGaussian(torch.zeros(1, dim), torch.zeros(1, dim))
        if self.prior.mean.shape not in ((dim,), (1, dim)):
            raise UserError(
                f"refinement: expected a prior of shape ({dim},) or (1, {dim}); got "
                f"{tuple(self.prior.mean.shape)}"
            )
        mean, logvar = (x.detach().reshape(1, dim) for x in (self.prior.mean, self.prior.logvar))
        return DiagonalGaussian(mean, logvar)

    def settings(self) -> dict[str, Any]:
        """The settings as JSON values, with a hash in place of the prior.

        Settings with equal values give the same codes.
        """
        values = {name: value for name, value in vars(self).items() if name != "prior"}
        prior = self.prior and fingerprint({"mean": self.prior.mean, "logvar": self.prior.logvar})
        return {**values, "prior": prior}

    @classmethod
    def of(cls, refine: int | Refinement) -> Refinement:
        """Settings from a number of steps, or the settings unchanged."""
        return refine if isinstance(refine, Refinement) else cls(refine)


def aggregate(posterior: DiagonalGaussian) -> DiagonalGaussian:
    """The diagonal Gaussian with the mean and variance of an aggregate posterior, of shape (1, D).

    Args:
        posterior: Posteriors of N sentences, at least 2.
    """
    if len(posterior.mean) < 2:
        raise UserError(f"expected at least 2 sentences; got {len(posterior.mean)}")
    variance = posterior.mean.var(0) + posterior.logvar.exp().mean(0)
    return DiagonalGaussian(posterior.mean.mean(0, keepdim=True), variance.log()[None])


def refine(
    model: SentenceVAE,
    texts: Sequence[str],
    start: DiagonalGaussian,
    how: Refinement,
    *,
    variance: bool = True,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> DiagonalGaussian:
    """Refined posteriors of N sentences, with mean and logvar of shape (N, D).

    *Mean.* Adam (arXiv 1412.6980) minimises -log p(x|mean) + beta / 2 |u|^2, that is, F with z
    fixed at the mean and without the terms that depend only on the variance. This objective has no
    sampling noise, so few steps suffice, and the code that is decoded is the code that was
    optimised. Of all evaluated codes of a sentence, exact ones (see `Scores.exact`) are preferred,
    and then the one with the lowest objective, so the result is never worse than the start.
    Finished sentences are removed from the batch.

    *Variance.* It is set after the mean and does not affect it. At a minimum of F over a diagonal
    variance, 1 / variance = 1 + E_q[H] / beta in the prior's units, where H is the diagonal of the
    Hessian of -log p(x|z) (Opper and Archambeau 2009, eq. 9, with beta). H is
    estimated at the mean by `TextDecoder.fisher_information`, which is never negative. Then F of
    the result and F of the start are compared on the same draws, and the start is kept if its F is
    lower, unless only the result is exact.

    The draws are the same for every sentence, so a result depends neither on the other sentences
    nor on the state of a random generator. Parameters of the model receive no gradient.

    `how` contains the settings, and `start` is a `DiagonalGaussian`. See `LlaMaVAE.refine` for the
    other arguments.
    """
    if not texts:
        return start
    rows, _ = model.decoder.tokenize(texts)
    lengths = torch.tensor([len(row) for row in rows])
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model), _frozen(model):
        mean, logvar = start.mean.detach().clone(), start.logvar.detach().clone()
        done = 0
        for part in lengths.argsort(descending=True, stable=True).split(batch_size):
            index = part.to(mean.device)
            batch = _Batch(model, [rows[int(i)] for i in part], how)
            u, log_scale = batch.standardise(mean[index], logvar[index])
            found, became_exact = batch.descend(u)
            if variance:
                width = batch.log_variance(found)
                worse = batch.bound(found, width) > batch.bound(u, log_scale)
                keep = (worse & ~became_exact)[:, None]
                found, log_scale = torch.where(keep, u, found), torch.where(keep, log_scale, width)
            mean[index], logvar[index] = batch.restore(found, log_scale)
            done += len(part)
            if progress is not None:
                progress(done, len(rows))
    return DiagonalGaussian(mean, logvar)


class _Batch:
    """A batch of sentences, and the terms of F for them in the units of the prior."""

    def __init__(self, model: SentenceVAE, rows: list[list[int]], how: Refinement) -> None:
        weight = model.posterior.linear.weight
        self.model, self.rows, self.how = model, rows, how
        prior = how.prior_of(model.config.latent_dim)
        self.center, self.log_std = prior.mean.to(weight), prior.logvar.to(weight) / 2
        generator = torch.Generator().manual_seed(how.seed)
        size = how.samples, model.config.latent_dim
        self.noise = torch.randn(size, generator=generator).to(weight)
        # a column for each position of the longest text, independent of the batch width
        self.uniform = torch.rand(how.samples, model.decoder.max_tokens, generator=generator)

    def standardise(self, mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        return (mean - self.center) / self.log_std.exp(), logvar - 2 * self.log_std

    def restore(self, u: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
        return self._codes(u), log_variance + 2 * self.log_std

    def _codes(self, u: Tensor) -> Tensor:
        return self.center + self.log_std.exp() * u

    def _inputs(self, active: Sequence[int]) -> tuple[Tensor, Tensor]:
        decoder = self.model.decoder
        ids, mask = decoder.pad([self.rows[i] for i in active])
        return ids.to(decoder.device), mask.to(decoder.device)

    def _score(self, u: Tensor, active: Sequence[int]) -> Scores:
        """Scores of the codes u (A, D) for the sentences `active`."""
        ids, mask = self._inputs(active)
        scores = self.model.decoder.score(ids, mask, self.model.injection(self._codes(u)))
        return scores._make(value.to(u.device) for value in scores)

    def descend(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """The best codes (B, D) of all steps, and which sentences are exact (B,)."""
        how = self.how
        u, best = start.clone(), start.clone()
        first, second = torch.zeros_like(u), torch.zeros_like(u)
        value = torch.full_like(u[:, 0], math.inf)
        exact = torch.zeros_like(value, dtype=torch.bool)
        was_exact = exact
        active = torch.arange(len(u), device=u.device)
        for step in range(how.steps + 1):
            x = u[active].requires_grad_()
            with torch.set_grad_enabled(step < how.steps):
                scores = self._score(x, active.tolist())
                loss = scores.nll + how.beta / 2 * x.square().sum(1)
            now = loss.detach()
            lower = now < value[active]
            better = torch.where(scores.exact == exact[active], lower, scores.exact)
            kept = active[better]
            best[kept], value[kept] = x.detach()[better], now[better]
            exact[kept] = scores.exact[better]
            if step == 0:
                was_exact = exact.clone()
            going = ~(scores.exact & (scores.worst <= -math.log(how.confidence)))
            if step == how.steps or not bool(going.any()):
                break
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            a, b = _MOMENTS
            first[active] = a * first[active] + (1 - a) * gradient
            second[active] = b * second[active] + (1 - b) * gradient.square()
            active = active[going]
            slope = first[active] / (1 - a ** (step + 1))
            size = (second[active] / (1 - b ** (step + 1))).sqrt() + _EPSILON
            u[active] = u[active] - how.learning_rate * slope / size
        return best, exact & ~was_exact

    def log_variance(self, u: Tensor) -> Tensor:
        """The logarithm of the variance that minimises F around u, (B, D)."""
        ids, mask = self._inputs(range(len(u)))
        x = u.detach().requires_grad_()
        steering = self.model.injection(self._codes(x))
        information = self.model.decoder.fisher_information(ids, mask, steering, x, self.uniform)
        return -torch.log1p(information / self.how.beta)

    @torch.no_grad()
    def bound(self, u: Tensor, log_variance: Tensor) -> Tensor:
        """F of posteriors around u, (B,), with E_q over the common draws."""
        std = torch.exp(log_variance / 2)
        nll = [self._score(u + std * noise, range(len(u))).nll for noise in self.noise]
        kl = DiagonalGaussian(u, log_variance).kl().sum(1)
        return torch.stack(nll).mean(0) + self.how.beta * kl


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Context in which no parameter of `module` requires a gradient."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
