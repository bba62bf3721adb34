"""Cross entropy of the LM head, without all of its logits in memory at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 256
"""Number of rows of logits in memory at a time."""
_SMALL = 2**26  # smaller logits (elements; 256 MB) are computed at once, which is faster


def cross_entropy(head: nn.Linear, rows: Tensor, targets: Tensor, reduction: str) -> Tensor:
    """Cross entropy in nats of head(rows) (N, V), built in chunks, against targets (N,)."""
    if len(rows) * len(head.weight) < _SMALL:
        return F.cross_entropy(head(rows).float(), targets, reduction=reduction)
    if torch.is_autocast_enabled(rows.device.type):  # the chunked loss does not apply autocast
        rows = rows.to(torch.get_autocast_dtype(rows.device.type))
    bias = getattr(head, "bias", None)
    # a sum in half precision would have rounding errors of many nats
    whole = reduction == "sum" and rows.dtype == torch.float32
    losses = F.linear_cross_entropy(
        rows,
        head.weight.to(rows),
        targets,
        linear_bias=None if bias is None else bias.to(rows),
        reduction="sum" if whole else "none",
        options=nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK),
    ).float()
    return losses.sum() if reduction == "sum" and not whole else losses
