"""The denoising autoencoder (DAAE): the encoder reads a sentence from which words are deleted.

Shen et al., arXiv 1905.12777, section 3: the decoder reconstructs the whole sentence. Sentences
with similar perturbed versions then have similar codes.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor


def delete_tokens(
    inputs: dict[str, Tensor], draws: Tensor, probability: float, special: Collection[int] = ()
) -> dict[str, Tensor]:
    """Inputs of an encoder without some of their tokens, padded on the right as before.

    Each sentence keeps at least one token.

    Args:
        inputs: `input_ids` and `attention_mask` (B, T), padded on the right.
        draws: Random numbers in [0, 1) for each token, shape (B, T).
        probability: Probability of the deletion of a token.
        special: Ids that are never deleted, such as that of `[CLS]`.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    keep = draws >= probability
    keep |= torch.isin(ids, torch.tensor(sorted(special), dtype=ids.dtype, device=ids.device))
    last = draws.masked_fill(~mask, -1).argmax(1)  # the last that would be deleted
    keep[torch.arange(len(ids), device=ids.device), last] = True
    keep &= mask
    order = (~keep).to(torch.int8).argsort(dim=1, stable=True)  # kept tokens first, in their order
    kept = keep.gather(1, order)
    width = int(kept.sum(1).max())
    pad = ids[~mask][0] if not mask.all() else ids.new_zeros(())
    ids = torch.where(kept, ids.gather(1, order), pad)
    changed = {"input_ids": ids, "attention_mask": kept.to(inputs["attention_mask"])}
    return {name: changed[name][:, :width].contiguous() for name in inputs if name in changed}
