"""Weights as 8-bit integers on disk: a matrix W becomes round(W / s), with a scale s for each row.

The quantisation is symmetric, rounds to nearest, and has s = max |W_row| / 127. It makes a
checkpoint four times smaller than float32. Loaded weights are float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llamavae.errors import UserError

_SCALE = ".int8_scale"
_SMALLEST = 2**12  # smaller matrices are not quantised


def to_int8(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with large matrices as 8-bit integers, and the scales of their rows.

    Example:
        >>> w = {"w": torch.randn(64, 128)}
        >>> stored = to_int8(w)
        >>> stored["w"].dtype, stored["w.int8_scale"].shape
        (torch.int8, torch.Size([64]))
        >>> bool((from_int8(stored)["w"] - w["w"]).abs().max() < 0.03)
        True
    """
    stored: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.ndim != 2 or weight.numel() < _SMALLEST or not weight.is_floating_point():
            stored[name] = weight
            continue
        scale = weight.float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        stored[name] = (weight.float() / scale[:, None]).round().to(torch.int8)
        stored[name + _SCALE] = scale
    return stored


def from_int8(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that `to_int8` stored, in float32; others are returned unchanged.

    Raises:
        UserError: A scale is missing, or there is one without its matrix.
    """
    weights = {name: weight for name, weight in stored.items() if not name.endswith(_SCALE)}
    for name, weight in weights.items():
        scale = stored.get(name + _SCALE)
        if (weight.dtype == torch.int8) != (scale is not None):
            raise UserError(
                f"weight {name} is stored as {weight.dtype}, which does not fit {_SCALE}"
            )
        if scale is not None:
            weights[name] = weight.float() * scale[:, None]
    return weights
