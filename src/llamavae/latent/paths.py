"""Paths and neighbourhoods in the latent space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from llamavae.errors import UserError, check_int

_MAX_STEPS = 10**6


def as_codes(z: Any, dim: int) -> Tensor:
    """Latent codes as a tensor (B, dim), from a tensor, a NumPy array or a list, also of one code.

    Raises:
        UserError: They are not finite real numbers of shape (B, dim) or (dim,).
    """
    try:
        z = torch.as_tensor(z)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"expected latent codes of shape (B, {dim}); got {z!r:.40} ({type(z).__name__})"
        ) from error
    if z.shape == (0,):
        z = z.reshape(0, dim)
    if z.ndim == 1:
        z = z[None]
    if z.ndim != 2 or z.shape[1] != dim:
        raise UserError(f"expected latent codes of shape (B, {dim}); got {tuple(z.shape)}")
    if z.is_complex() or z.dtype == torch.bool:
        raise UserError(f"expected real latent codes; got {z.dtype}")
    if z.layout != torch.strided or z.is_meta:
        raise UserError(f"expected a dense tensor of latent codes; got {z.layout} on {z.device}")
    if not z.isfinite().all():
        raise UserError("expected finite latent codes; got NaN or infinite values")
    return z


def _ends(a: Tensor, b: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    if a.shape != b.shape or a.ndim != 1:
        raise UserError(
            f"expected two latent codes of shape (D,); got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    check_int("steps", steps, 2, _MAX_STEPS)
    return a, b, torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)[:, None]


def lerp(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Straight line from `a` to `b`, including both ends.

    Args:
        a: First latent code, shape (D,).
        b: Last latent code, shape (D,).
        steps: Number of codes on the path, from 2 to a million.

    Returns:
        Latent codes of shape (steps, D).

    Example:
        >>> lerp(torch.zeros(2), torch.ones(2), 3).tolist()
        [[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]
    """
    a, b, t = _ends(a, b, steps)
    return torch.where(t < 0.5, a + t * (b - a), b - (1 - t) * (b - a))


def slerp(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Great-circle path from `a` to `b` with the norm interpolated linearly.

    A straight line between two draws from a high-dimensional Gaussian leaves the shell that
    contains nearly all of its mass; this path stays in it (White, arXiv 1609.04468).

    Args:
        a: First latent code, shape (D,), not zero.
        b: Last latent code, shape (D,), not zero and not opposite to `a`.
        steps: Number of codes on the path, from 2 to a million.

    Returns:
        Latent codes of shape (steps, D).

    Raises:
        UserError: An end is zero, or the ends are opposite, so that no shortest arc exists.
    """
    a, b, t = _ends(a, b, steps)
    norm_a, norm_b = a.norm(), b.norm()
    if norm_a == 0 or norm_b == 0:
        raise UserError("slerp needs two nonzero latent codes. Use a linear path")
    u, v = a / norm_a, b / norm_b
    # acos(u.v) loses precision near 0 and pi; this form does not
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    if torch.pi - angle < 1e-4:
        raise UserError("slerp is undefined between opposite latent codes. Use a linear path")
    if angle < 1e-4:
        return lerp(a, b, steps)
    direction = (torch.sin((1 - t) * angle) * u + torch.sin(t * angle) * v) / torch.sin(angle)
    codes = direction * ((1 - t) * norm_a + t * norm_b)
    codes[0], codes[-1] = a, b
    return codes


PATHS = {"linear": lerp, "slerp": slerp}
"""Maps names of paths between two latent codes to functions."""


def traversal(z: Tensor, dim: int, steps: int, quantile: float = 0.975) -> Tensor:
    """Vary one coordinate of `z` over the central range of the prior N(0, 1).

    Args:
        z: Initial latent code, shape (D,).
        dim: Index of the coordinate, 0 <= dim < D.
        steps: Number of codes, from 2 to a million.
        quantile: Upper end of the range as a quantile of N(0, 1), in (0.5, 1); the range is
            symmetric. 0.975 spans about -1.96 to 1.96.

    Returns:
        Latent codes of shape (steps, D), equal to `z` except in coordinate `dim`.
    """
    if z.ndim != 1:
        raise UserError(f"expected one latent code of shape (D,); got {tuple(z.shape)}")
    check_int("dim", dim, 0, len(z) - 1)
    check_int("steps", steps, 2, _MAX_STEPS)
    if not 0.5 < quantile < 1:
        raise UserError(f"quantile must lie between 0.5 and 1; got {quantile}")
    end = float(Normal(0.0, 1.0).icdf(torch.tensor(quantile)))
    codes = z.repeat(steps, 1)
    codes[:, dim] = torch.linspace(-end, end, steps, dtype=z.dtype, device=z.device)
    return codes


def arithmetic(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Analogy by vector offset: a - b + c, shapes (..., D)."""
    return a - b + c


def average(codes: Tensor, weights: Sequence[float] | Tensor | None = None) -> Tensor:
    """The weighted mean of latent codes.

    Args:
        codes: Shape (N, D).
        weights: N weights with a positive sum, by which they are divided. None weights all codes
            equally.

    Returns:
        One code (D,).

    Raises:
        UserError: There is no code, or the weights are not N finite numbers with a positive sum.

    Example:
        >>> average(torch.tensor([[0.0, 1.0], [4.0, 1.0]]), weights=[3, 1])
        tensor([1., 1.])
    """
    if codes.ndim != 2 or len(codes) == 0:
        raise UserError(f"expected codes (N, D), at least one; got {tuple(codes.shape)}")
    if weights is None:
        return codes.mean(0)
    try:
        w = torch.as_tensor(weights, dtype=codes.dtype, device=codes.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"expected {len(codes)} weights; got {weights!r:.80} ({type(weights).__name__})"
        ) from error
    if w.shape != codes.shape[:1] or not w.isfinite().all() or w.sum() <= 0:
        raise UserError(
            f"expected {len(codes)} finite weights with a positive sum; got {w.tolist()!s:.80}"
        )
    return (w / w.sum()) @ codes


def contrast(positive: Tensor, negative: Tensor) -> Tensor:
    """The direction from one set of latent codes to another: the difference of their means.

    In the space of activations it is known as a steering vector (Turner et al., arXiv 2308.10248).

    Args:
        positive: Codes (N, D) to move towards.
        negative: Codes (M, D) to move away from.

    Returns:
        The direction (D,); added once, it moves the mean of `negative` to that of `positive`.

    Raises:
        UserError: There is no code in one of them, or they differ in size.

    Example:
        >>> contrast(torch.tensor([[3.0, 1.0], [5.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
        tensor([3., 0.])
    """
    shapes = tuple(positive.shape), tuple(negative.shape)
    if any(len(shape) != 2 or shape[0] == 0 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise UserError(f"expected codes (N, D) and (M, D), at least one of each; got {shapes}")
    return positive.mean(0) - negative.mean(0)


def nearest_neighbours(query: Tensor, codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` latent codes with the highest cosine similarity to each query.

    Args:
        query: Shape (Q, D).
        codes: Shape (N, D).
        k: Number of neighbours; at most N are returned.

    Returns:
        Cosines and indices, each of shape (Q, min(k, N)), in descending order of cosine.
    """
    if query.ndim != 2 or codes.ndim != 2 or query.shape[1] != codes.shape[1]:
        raise UserError(
            "expected query (Q, D) and codes (N, D) with the same D; got "
            f"{tuple(query.shape)} and {tuple(codes.shape)}"
        )
    check_int("k", k)
    unit = torch.nn.functional.normalize
    cosine = unit(query, dim=1) @ unit(codes, dim=1).T
    best = cosine.topk(min(k, len(codes)), dim=1)
    return best.values, best.indices
