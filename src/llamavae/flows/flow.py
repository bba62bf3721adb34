"""A flow: a distribution of vectors x (D,), optionally given a context c (C,), with exact density.

The context enters the map T from data to base in two forms:

conditional   p(x|c) = N(T(x; c); 0, I) |det dT/dx|                       (net2net, 2005.13580)
reference     p(x|c) = N(T(x); P c, rho^2 I) |det dT/dx|                  (LlaMaVAE, 2312.13208)

In the second form, a network m(c), or the mean of several, can be added to P c.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.distributions import DiagNormal, NormalizingFlow
from zuko.lazy import LazyDistribution, LazyTransform
from zuko.nn import MLP
from zuko.transforms import ComposedTransform

from llamavae.errors import UserError
from llamavae.flows.transforms import (
    Affine,
    FullPrecision,
    activation,
    alignment,
    regression,
    shrink,
)

_CONSTANT = 1e-6  # relative variation of a column of contexts below which it is treated as constant
_NOISE = 1e-7  # the same, relative to the largest value of all columns: rounding of float32

_CELLS = 2**22  # maximum number of pairs of a vector and a context per pass, times dimensions


class ConditionMean(LazyDistribution):
    """N(P c + m(c), rho^2 I), the base of the reference form; N(0, rho^2 I) without context.

    Several networks are a deep ensemble (Lakshminarayanan et al., arXiv 1612.01474): they are
    trained independently from different initial weights, and the error of their mean is at most
    their mean error.

    Args:
        features: Size D.
        context: Size C of c; P is the identity if C = D, else learned.
        hidden: Widths of the normalised hidden layers of the network m; if empty, the mean is
            linear.
        dropout: Dropout probability of its hidden units.
        networks: Number K of networks, whose mean is m.
    """

    def __init__(
        self,
        features: int,
        context: int,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        networks: int = 1,
    ) -> None:
        super().__init__()
        self.features = features
        learned = context not in (0, features)
        self.projection = nn.Parameter(torch.zeros(features, context)) if learned else None
        self.log_rho = nn.Parameter(torch.zeros(()))
        self.networks = nn.ModuleList()
        if hidden and context:
            made = activation(dropout)
            for _ in range(networks):
                network = MLP(context, features, hidden, activation=made, normalize=True)
                shrink(network[-1])
                self.networks.append(network)

    def forward(self, c: Tensor | None = None) -> Distribution:
        """The Gaussian (..., D), for contexts c (..., C).

        In training mode, an ensemble returns the Gaussian of each network, (K, ..., D).
        """
        if c is None:
            mean = self.log_rho.new_zeros(self.features)
        else:
            mean = c if self.projection is None else c @ self.projection.mT
            if self.networks:
                added = torch.stack([network(c) for network in self.networks])
                alone = self.training and len(self.networks) > 1
                mean = mean + (added if alone else added.mean(0))
        return DiagNormal(mean, self.log_rho.exp().expand(mean.shape))


class StandardNormal(LazyDistribution):
    """N(0, I), the base of the conditional form.

    Args:
        features: Size D.
    """

    mean: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features), persistent=False)

    def forward(self, c: Tensor | None = None) -> Distribution:
        """The Gaussian (..., D)."""
        mean = self.mean if c is None else self.mean.expand(*c.shape[:-1], -1)
        return DiagNormal(mean, torch.ones_like(mean))


class Flow(LazyDistribution):
    """A lazy distribution in zuko's sense: called with a context it returns a torch distribution.

    The result has `log_prob`, `sample`, `rsample`, and `transform`, the map T from data to base
    with its `inv` and `log_abs_det_jacobian`. Computations use the dtype of the weights (float32
    unless changed), independently of the dtype of the inputs and of autocast. Build one with
    `build_flow`.

    Args:
        settings: The arguments of `build_flow` that rebuild this flow.
        affine: The first map, which receives the standardised context.
        blocks: The maps after it; in the conditional form they receive the embedded context.
        base: The distribution of T(x). In the reference form with C = D its mean is the context
            itself; a final linear map then transforms the output of the blocks to the space of the
            context.
        embedding: Size of the embedding of a longer context; 0 does not embed contexts.
    """

    context_mean: Tensor
    context_scale: Tensor

    def __init__(
        self,
        settings: Mapping[str, Any],
        affine: Affine,
        blocks: Sequence[LazyTransform],
        base: ConditionMean | StandardNormal,
        embedding: int = 0,
    ) -> None:
        super().__init__()
        self.settings = dict(settings)
        self.features: int = settings["features"]
        self.context: int = settings["context"]
        self.affine, self.blocks, self.base = affine, nn.ModuleList(blocks), base
        identity = isinstance(base, ConditionMean) and self.context == self.features
        self.output_linear = Affine(self.features) if identity else None
        self.embed = nn.Identity()
        if embedding:
            made = activation(settings["dropout"])
            self.embed = MLP(self.context, embedding, (2 * embedding,), activation=made)
        self.register_buffer("context_mean", torch.zeros(self.context))
        self.register_buffer("context_scale", torch.ones(self.context))

    def forward(self, c: Tensor | None = None) -> NormalizingFlow:
        """p(x|c).

        Args:
            c: Contexts (..., C), as they are in the data; None for a flow without context.

        Returns:
            A distribution with batch shape (...) and event shape (D,). In training mode with an
            ensemble of K > 1 networks, the batch shape is (K, ...), one entry per network.

        Raises:
            UserError: c is missing, unexpected, or of another size.
        """
        weight = self.affine.weight
        with torch.autocast(weight.device.type, enabled=False):
            c = self._standardised(c)
            # in the reference form T does not depend on the context
            inner = None if c is None or self.affine.slope is None else self.embed(c)
            maps = [self.affine(c), *(block(inner) for block in self.blocks)]
            if self.output_linear is not None:
                maps.append(self.output_linear())
            return NormalizingFlow(FullPrecision(ComposedTransform(*maps), weight), self.base(c))

    @property
    def bends_with_context(self) -> bool:
        """Whether T depends on c by more than a shift."""
        return self.affine.slope is not None and len(self.blocks) > 0

    @torch.no_grad()
    def scores(self, x: Tensor, c: Tensor) -> Tensor:
        """Log-density in nats of N vectors x (N, D) under V contexts c (V, C), shape (N, V)."""
        x = x.to(self.affine.weight)
        if not self.bends_with_context:
            return self.scores_at(x, self.centres(c))
        p = self(c)  # a pass for each pair
        rows = max(1, _CELLS // (len(c) * self.features))
        return torch.cat([p.log_prob(part[:, None, :]) for part in x.split(rows)])

    @torch.no_grad()
    def centres(self, c: Tensor) -> Tensor:
        """The values of T(x; 0) at which the density under V contexts c (V, C) is highest, (V, D).

        Only for a flow where T depends on c by a shift or not at all: T(x; c) = T(x; 0) - shift(c).
        The centre is the mean of the base distribution plus the shift.
        """
        p = self(c)
        if self.affine.slope is None:
            return p.base.mean
        origin = self.affine.weight.new_zeros(1, self.features)
        there = p.transform(origin.expand(len(c), -1))
        return p.base.mean + self._at_origin().transform(origin) - there

    @torch.no_grad()
    def scores_at(self, x: Tensor, centres: Tensor) -> Tensor:
        """Log-density in nats of N vectors x (N, D) for V `centres` (V, D), shape (N, V)."""
        one = self._at_origin()
        transform: Any = one.transform
        y, log_det = transform.call_and_ladj(x.to(self.affine.weight))
        scale = one.base.stddev[0, 0]
        square = torch.cdist(y / scale, centres.to(y) / scale).square()
        constant = log_det - self.features * (scale.log() + math.log(2 * math.pi) / 2)
        return constant[:, None] - square / 2

    def _at_origin(self) -> NormalizingFlow:
        """p(x|c) for c = 0."""
        return self(self.affine.weight.new_zeros(1, self.context))

    def _checked(self, c: Tensor | None) -> Tensor | None:
        if self.context == 0:
            if c is not None:
                raise UserError("expected no context, since this flow has context=0; got one")
        elif c is None:
            raise UserError(f"expected a context c of shape (..., {self.context}); got none")
        elif c.shape[-1:] != (self.context,):
            raise UserError(
                f"expected a context of shape (..., {self.context}); got {tuple(c.shape)}"
            )
        return c

    def _standardised(self, c: Tensor | None) -> Tensor | None:
        c = self._checked(c)
        if c is None:
            return None
        return (c.to(self.context_mean) - self.context_mean) / self.context_scale

    @torch.no_grad()
    def initialise(self, x: Tensor, c: Tensor | None = None, ridge: float = 1.0) -> None:
        """Initialise from data: the standardisation of contexts and the affine map.

        The blocks of a new flow are close to the identity, and the output of the network of the
        mean is close to 0. The initial density is therefore approximately Gaussian: the linear
        Gaussian given c, or in the reference form with C = D the best one whose base mean is c.

        Args:
            x: Data (N, D).
            c: Contexts (N, C).
            ridge: Penalty of the regression of x on c, see `Affine.initialise`.
        """
        c = self._checked(c)
        if c is not None:
            values = c.cpu().double()
            scale = values.std(0, correction=0)
            size = values.abs()
            varies = (scale > _CONSTANT * size.amax(0)) & (scale > _NOISE * size.max())
            self.context_mean.copy_(values.mean(0))
            self.context_scale.copy_(torch.where(varies, scale, 1.0))
        standard = self._standardised(c)
        x, base = x.to(self.affine.weight), self.base
        if standard is None or isinstance(base, StandardNormal):
            self.affine.initialise(x, standard if self.affine.slope is not None else None, ridge)
        elif base.projection is not None:
            self.affine.initialise(x, standard, ridge)
            base.projection.copy_(regression(standard, self(c).transform(x), ridge))
        elif self.output_linear is not None:
            self.affine.initialise(x)
            self.output_linear.weight.copy_(torch.eye(self.features))
            weight, rho = alignment(self(c).transform(x), standard, ridge)
            self.output_linear.weight.copy_(weight)
            base.log_rho.fill_(math.log(rho))
