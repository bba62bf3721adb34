"""Flow architectures by name. A new one is a line of `ARCHITECTURES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from zuko.lazy import LazyTransform

from llamavae.errors import UserError, unknown
from llamavae.flows.flow import ConditionMean, Flow, StandardNormal
from llamavae.flows.transforms import (
    Affine,
    autoregressive_block,
    coupling_block,
    spline_block,
)

Form = Literal["conditional", "reference"]


@dataclass(frozen=True)
class Architecture:
    """Architecture of the blocks of a flow.

    Attributes:
        block: Builds one block; None for a Gaussian, which consists of the affine map only.
        blocks: Default number of blocks.
        uses_context: Whether the distribution depends on the context.
        options: Settings of the block: default and minimum of each.
    """

    block: Callable[..., list[LazyTransform]] | None = None
    blocks: int = 0
    uses_context: bool = True
    options: Mapping[str, tuple[float, float]] = field(default_factory=dict)


ARCHITECTURES: dict[str, Architecture] = {
    "glow": Architecture(coupling_block, 10, options={"clamp": (2.0, 1e-3)}),
    "spline": Architecture(spline_block, 6, options={"bins": (8, 2)}),
    "maf": Architecture(autoregressive_block, 5, options={"clamp": (2.0, 1e-3)}),
    "linear-gaussian": Architecture(),
    "gaussian": Architecture(uses_context=False),
}


def flow_names() -> list[str]:
    """Names of the architectures of `build_flow`."""
    return list(ARCHITECTURES)


def build_flow(
    name: str,
    features: int,
    context: int = 0,
    *,
    form: str = "conditional",
    blocks: int | None = None,
    hidden: Sequence[int] = (256, 256),
    embedding: int = 64,
    base_hidden: Sequence[int] = (),
    ensemble_size: int = 1,
    dropout: float = 0.0,
    **options: Any,
) -> Flow:
    """Build a flow, to be initialised from data and trained by `fit_flow`.

    Its initial weights are drawn from torch's global random generator.

    Args:
        name: `glow` (the reference: ActNorm, affine coupling of both halves, permutation),
            `spline` (the same with rational-quadratic splines), `maf` (masked autoregression),
            or one of two baselines: `linear-gaussian`, N(A c + b, full covariance), and
            `gaussian`, which ignores the context. The Gaussians are the same in both forms.
        features: Size D of the data.
        context: Size C of the context; 0 for none.
        form: How the context enters, see `llamavae.flows.flow`.
        blocks: Number of blocks, by default 10 (glow), 6 (spline) or 5 (maf). Gaussians have none.
        hidden: Widths of the hidden layers of the networks in the blocks. In a maf with a width
            below D, each dimension depends on at most that many others.
        embedding: For the conditional form: a longer context is embedded to this size once, and
            the blocks receive the embedding; 0 passes the context itself.
        base_hidden: For the reference form: widths, at least 2, of the normalised hidden layers of
            a network m(c) that is added to P c; if empty, the mean is linear in c, as in the paper.
        ensemble_size: Number K of such networks, trained independently; m(c) is their mean. In
            training mode the flow returns the density under each network: (K, ...).
        dropout: Dropout probability of the hidden units of all networks.
        **options: `clamp` (glow, maf): maximum log-scale of an affine map, default 2.
            `bins` (spline): default 8.

    Raises:
        UserError: A name or option is unknown, or a size is out of range.

    Example:
        >>> import torch
        >>> flow = build_flow("glow", features=2, context=3, blocks=2)
        >>> c = torch.randn(5, 3)
        >>> x = flow(c).rsample()
        >>> x.shape, flow(c).log_prob(x).shape
        (torch.Size([5, 2]), torch.Size([5]))
        >>> y = flow(c).transform(x)
        >>> bool((flow(c).transform.inv(y) - x).abs().max() < 1e-5)
        True
    """
    if name not in ARCHITECTURES:
        raise unknown("flow", name, ARCHITECTURES)
    if form not in get_args(Form):
        raise unknown("form", form, get_args(Form))
    architecture = ARCHITECTURES[name]
    for option in options:
        if option not in architecture.options:
            raise unknown(f"option of {name}", option, architecture.options or ["(it has none)"])
    options = {o: default for o, (default, _) in architecture.options.items()} | options
    if architecture.block is None:
        blocks = 0
    elif blocks is None:
        blocks = architecture.blocks
    for what, value, least in (
        ("features", features, 1),
        ("context", context, 0),
        ("blocks", blocks, 1 if architecture.block else 0),
        ("hidden", min(hidden, default=1), 1),
        ("embedding", embedding, 0),
        ("base_hidden", min(base_hidden, default=2), 2),
        ("ensemble_size", ensemble_size, 1),
        *((option, options[option], least) for option, (_, least) in architecture.options.items()),
    ):
        if not value >= least:
            raise UserError(f"{what} must be at least {least}; got {value}")
    if not 0 <= dropout < 1:
        raise UserError(f"dropout must be at least 0 and below 1; got {dropout}")
    if base_hidden and form == "conditional" and architecture.block is not None:
        raise UserError(
            "base_hidden is only for the reference form; in the conditional form the networks of "
            "the blocks read the context. Use form='reference', or omit base_hidden"
        )
    if ensemble_size > 1 and not base_hidden:
        raise UserError("ensemble_size needs the widths of the networks. Set base_hidden as well")
    if architecture.block is None or not context:  # the mean has no network
        base_hidden, ensemble_size = (), 1
    settings = {
        **{"name": name, "features": features, "context": context, "form": form},
        **{"blocks": blocks, "hidden": list(hidden), "embedding": embedding, **options},
        **{"base_hidden": list(base_hidden), "ensemble_size": ensemble_size, "dropout": dropout},
    }
    made: list[LazyTransform] = []
    conditional = form == "conditional" or architecture.block is None
    entering = context if conditional and architecture.uses_context else 0
    size = 0
    if architecture.block is not None:
        size = embedding if 0 < embedding < entering else 0
        for _ in range(blocks):
            networks = {"hidden": hidden, "dropout": dropout}
            made += architecture.block(features, size or entering, **networks, **options)
    if conditional:
        base = StandardNormal(features)
    else:
        base = ConditionMean(features, context, base_hidden, dropout, ensemble_size)
    return Flow(settings, Affine(features, entering), made, base, size)
