"""Which words a sentence has, read from z without the decoder: a second way to the encoder.

An encoder from scratch learns through the decoder alone at first almost nothing, since a decoder
that cannot read z yet tells it nothing. The words of the sentence, in no order, can be predicted
from z directly, and that tells the encoder from the first step on what to write down.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BagOfWords(nn.Module):
    """-log p(words of x | z) in nats, the words in no order; of use in training only.

    Zhao et al., arXiv 1703.10960, section 3.3: every token of the sentence is drawn from one
    softmax over the vocabulary. Its logits are a linear map of z, read by the decoder's LM head.

    Args:
        latent_dim: Size D of z.
        hidden_size: Size H of the decoder's embeddings.
    """

    def __init__(self, latent_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(latent_dim, hidden_size)
        nn.init.zeros_(self.linear.weight)  # all words alike at first, whatever the seed
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor, head: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The loss, summed over tokens and averaged over sentences; a scalar.

        Args:
            z: Points (B, D).
            head: Weight of the decoder's LM head (V, H).
            input_ids: Decoder ids `bos x_1 ... x_n eos pad ...`, shape (B, T).
            attention_mask: 1 for those tokens, 0 for padding, shape (B, T).
        """
        logits = self.linear(z) @ head.to(self.linear.weight.dtype).T  # (B, V)
        log_p = torch.log_softmax(logits.float(), dim=-1).gather(1, input_ids[:, 1:])
        return -(log_p * attention_mask[:, 1:]).sum(1).mean()
