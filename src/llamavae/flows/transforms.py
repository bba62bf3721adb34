"""The building blocks of flows as lazy transforms: called with a context (..., C), or None, they
return a torch `Transform` from data x to base y.

zuko provides couplings, splines and masked autoregression; this module adds the affine map,
ActNorm, and the blocks of the architectures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import BoolTensor, Tensor, nn
from torch.distributions import AffineTransform, Transform, constraints
from zuko.flows import GeneralCouplingTransform, MaskedAutoregressiveTransform
from zuko.lazy import LazyTransform, UnconditionalTransform
from zuko.transforms import (
    ComposedTransform,
    MonotonicAffineTransform,
    MonotonicRQSTransform,
    PermutationTransform,
)

from llamavae.errors import UserError

_FLOOR = 1e-6  # minimum variance in any direction, relative to the mean variance


class LinearTransform(Transform):
    """y = W (x - b), with W of full rank.

    Args:
        weight: W, shape (D, D).
        shift: b, shape (..., D).
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, weight: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.weight, self.shift = weight, shift

    def _call(self, x: Tensor) -> Tensor:
        return (x - self.shift) @ self.weight.mT

    def _inverse(self, y: Tensor) -> Tensor:
        inverse = torch.linalg.inv(self.weight.cpu().double()).to(y)
        return y @ inverse.mT + self.shift

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Log |det W|, for each x (..., D)."""
        return torch.linalg.slogdet(self.weight).logabsdet.expand(x.shape[:-1])


class Affine(LazyTransform):
    """y = W (x - b - A c), initialised to the best Gaussian fit of the data.

    It is the first map of every flow, so the initial flow is a Gaussian with full covariance.

    Args:
        features: Size D of x.
        context: Size C of c; 0 for none.
    """

    def __init__(self, features: int, context: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(features))
        self.shift = nn.Parameter(torch.zeros(features))
        self.slope = nn.Parameter(torch.zeros(features, context)) if context else None

    def forward(self, c: Tensor | None = None) -> Transform:
        """The map, for contexts c (..., C)."""
        if self.slope is None or c is None:
            return LinearTransform(self.weight, self.shift)
        return LinearTransform(self.weight, self.shift + c @ self.slope.mT)

    @torch.no_grad()
    def initialise(self, x: Tensor, c: Tensor | None = None, ridge: float = 1.0) -> None:
        """Make y standard normal given c, for data that is Gaussian given c.

        b and A are estimated by ridge regression, and W whitens the residual (with the shrinkage of
        Ledoit and Wolf, 2004, which matters for few rows). A map without slope whitens the same
        residual, and the base distribution models the mean given c.

        Args:
            x: Data (N, D).
            c: Contexts (N, C), standardised.
            ridge: Penalty of the regression: this many pseudo-observations of slope 0.
        """
        from sklearn.covariance import ledoit_wolf  # slow import, only needed for fitting

        x = x.cpu().double()  # not every accelerator has float64
        mean = x.mean(0)
        residual = x - mean
        if c is not None:
            slope = regression(c, residual, ridge)
            residual = residual - c.cpu().double() @ slope.mT
            if self.slope is not None:
                self.slope.copy_(slope)
        covariance = torch.from_numpy(ledoit_wolf(residual.numpy(), assume_centered=True)[0])
        variance = covariance.diagonal()
        variance += _FLOOR * variance.mean().clamp_min(_FLOOR)
        self.weight.copy_(torch.linalg.inv(torch.linalg.cholesky(covariance)))
        self.shift.copy_(mean)


def regression(c: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Ridge regression without intercept in float64: the slope (D, C) from c (N, C) to y (N, D)."""
    c, y = c.cpu().double(), y.cpu().double()
    gram = c.mT @ c + ridge * torch.eye(c.shape[1], dtype=c.dtype)
    return torch.linalg.solve(gram, c.mT @ y).mT


def alignment(y: Tensor, c: Tensor, ridge: float) -> tuple[Tensor, float]:
    """The map V (D, D) and the rho that maximise the likelihood N(V y; c, rho^2 I) |det V|.

    With S the covariance of c and y, stationarity is V V' - S V' = rho^2 I and tr S V' = tr cov(c).
    Therefore V has the singular vectors of S, its singular values are the positive roots of
    v^2 - s v = rho^2, and rho is chosen such that the sum of s v is the variance of c.

    Args:
        y: White data (N, D): zero mean, unit covariance.
        c: Contexts (N, D), standardised.
        ridge: Pseudo-observations without covariance of c and y, as in `regression`.
    """
    c, y = c.cpu().double(), y.cpu().double()
    left, s, right = torch.linalg.svd(c.mT @ y / (len(c) + ridge))
    variance = c.square().mean(0).sum()

    def values(rho: float) -> Tensor:
        return (s + (s.square() + 4 * rho**2).sqrt()) / 2

    low, high = 1e-3, 1e3  # reached if c is a function of y, or independent of it
    for _ in range(60):
        rho = math.sqrt(low * high)
        low, high = (rho, high) if (s * values(rho)).sum() < variance else (low, rho)
    return left @ torch.diag(values(low)) @ right, low


class ActNorm(LazyTransform):
    """y = (x - b) / s for each dimension.

    Kingma and Dhariwal, Glow, arXiv 1807.03039, section 3.1. In the paper b and s are initialised
    from the first batch. Here the affine map before all blocks already normalises the data, so
    b = 0 and s = 1 initially.

    Args:
        features: Size D of x.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, c: Tensor | None = None) -> Transform:
        """The map; it is the same for all contexts."""
        scale = torch.exp(-self.log_scale)
        return AffineTransform(-self.shift * scale, scale, event_dim=1)


def coupling_block(
    features: int, context: int, *, hidden: Sequence[int], dropout: float = 0.0, clamp: float
) -> list[LazyTransform]:
    """The reference block: ActNorm, affine couplings of both halves, a fixed permutation.

    Dinh et al., RealNVP, arXiv 1605.08803; log-scales are softly clamped to +-`clamp`, as in FrEIA.
    """
    affine = partial(MonotonicAffineTransform, slope=math.exp(-clamp))
    return _both_halves(features, context, hidden, dropout, affine, ((), ()))


def spline_block(
    features: int,
    context: int,
    *,
    hidden: Sequence[int],
    dropout: float = 0.0,
    bins: int,
    bound: float = 5.0,
) -> list[LazyTransform]:
    """The same with monotonic rational-quadratic splines instead of affine maps.

    Durkan et al., Neural Spline Flows, arXiv 1906.04032. Beyond +-`bound` a spline is the identity.
    """
    spline = partial(MonotonicRQSTransform, bound=bound)
    shapes = ((bins,), (bins,), (bins - 1,))
    return _both_halves(features, context, hidden, dropout, spline, shapes)


def autoregressive_block(
    features: int, context: int, *, hidden: Sequence[int], dropout: float = 0.0, clamp: float
) -> list[LazyTransform]:
    """ActNorm, masked affine autoregression, a fixed permutation.

    Papamakarios et al., arXiv 1705.07057. Its inverse needs D passes.
    """
    affine = partial(MonotonicAffineTransform, slope=math.exp(-clamp))
    options: Any = {"univariate": affine, "hidden_features": hidden}
    made = MaskedAutoregressiveTransform(
        features, context, activation=activation(dropout), **options
    )
    return [ActNorm(features), _near_identity(made), _permutation(features)]


def _both_halves(
    features: int,
    context: int,
    hidden: Sequence[int],
    dropout: float,
    univariate: Callable[..., Transform],
    shapes: Sequence[tuple[int, ...]],
) -> list[LazyTransform]:
    first = torch.arange(features) < (features + 1) // 2
    options: Any = {"univariate": univariate, "shapes": shapes, "hidden_features": hidden}
    options["activation"] = activation(dropout)
    couplings = [
        _near_identity(
            GeneralCouplingTransform(features, context, cast("BoolTensor", m), **options)
        )
        for m in (first, ~first)
    ]
    return [ActNorm(features), *couplings, _permutation(features)]


def activation(dropout: float) -> Callable[[], nn.Module]:
    """Constructor of the activation after a hidden layer: ReLU, then dropout in training."""
    return lambda: nn.Sequential(nn.ReLU(), nn.Dropout(dropout))


def _permutation(features: int) -> LazyTransform:
    return UnconditionalTransform(PermutationTransform, torch.randperm(features), buffer=True)


def _near_identity(transform: LazyTransform) -> LazyTransform:
    """Shrink the output layer of the network, so that the initial map is near the identity."""
    network = getattr(transform, "hyper", None)  # a single dimension has plain parameters
    shrink(network[-1] if isinstance(network, nn.Sequential) else transform)
    return transform


@torch.no_grad()
def shrink(layer: nn.Module) -> None:
    """Scale the parameters of a new layer so that its output is close to 0."""
    for weight in layer.parameters():
        weight.mul_(1e-4)


class FullPrecision(Transform):
    """A composition computed in the dtype of its weights, independently of inputs and autocast.

    Args:
        inner: The composition, on vectors of size D.
        like: A weight of it, of shape (..., D).

    Raises:
        UserError: The vectors have another size.
    """

    bijective = True

    def __init__(self, inner: ComposedTransform, like: Tensor) -> None:
        super().__init__()
        self.inner, self.like = inner, like
        self.domain, self.codomain = inner.domain, inner.codomain

    def _exact(self) -> torch.autocast:
        return torch.autocast(self.like.device.type, enabled=False)

    def _given(self, x: Tensor) -> Tensor:
        size = self.like.shape[-1]
        if x.shape[-1:] != (size,):
            raise UserError(f"expected vectors of shape (..., {size}); got {tuple(x.shape)}")
        return x.to(self.like)

    def _call(self, x: Tensor) -> Tensor:
        with self._exact():
            return self.inner(self._given(x))  # type: ignore[return-value] torch's is untyped

    def _inverse(self, y: Tensor) -> Tensor:
        with self._exact():
            return self.inner.inv(self._given(y))  # type: ignore[return-value]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Log |det dy/dx|, for each x (..., D)."""
        return self.call_and_ladj(x)[1]

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Y and log |det dy/dx|."""
        with self._exact():
            return self.inner.call_and_ladj(self._given(x))

    def log_scales(self, x: Tensor) -> Tensor:
        """Log |det| of each map of the composition, per dimension: (maps, ...) for x (..., D)."""
        found = []
        with self._exact():
            y = self._given(x)
            for layer in self.inner.transforms:
                y, log_det = layer.call_and_ladj(y)  # type: ignore[attr-defined] zuko adds it
                found.append(log_det / y.shape[-1])
        return torch.stack(found)
