"""The likelihood p(x|z) of tokens, in chunks, and of sentences, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llamavae.modes import evaluating

if TYPE_CHECKING:
    from llamavae.modeling.llamavae import LlaMaVAE


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


@torch.no_grad()
def sentence_nll(
    model: LlaMaVAE, ids: Sequence[Sequence[int]], z: Tensor | None, batch_size: int = 64
) -> Tensor:
    """-log p(x|z) of each sentence in nats, shape (N,), on the CPU in float64.

    Args:
        model: The VAE.
        ids: Decoder ids of N sentences, as returned by `model.decoder.tokenize`.
        z: Latent code of each sentence (N, D); None for the unconditional language model.
        batch_size: Number of sentences of similar length per forward pass of the decoder.
    """
    decoder, weight = model.decoder, model.posterior.linear.weight
    result = torch.empty(len(ids), dtype=torch.float64)
    if not len(ids):
        return result
    order = torch.tensor([len(row) for row in ids]).argsort(descending=True, stable=True)
    with evaluating(model):
        for rows in order.split(batch_size):
            tokens, mask = (x.to(decoder.device) for x in decoder.pad([ids[int(i)] for i in rows]))
            steering = None if z is None else model.injection(z[rows].to(weight))
            nll = decoder.nll(tokens, mask, steering, per_sentence=True)
            result[rows] = nll.double().cpu()
    return result
