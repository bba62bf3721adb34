"""The likelihood p(x|z) of sentences, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llamavae.modes import evaluating

if TYPE_CHECKING:
    from llamavae.modeling.base import SentenceVAE


@torch.no_grad()
def sentence_nll(
    model: SentenceVAE, ids: Sequence[Sequence[int]], z: Tensor | None, batch_size: int = 64
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
