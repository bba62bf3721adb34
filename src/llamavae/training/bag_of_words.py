"""The bag-of-words loss, which trains an encoder while the decoder does not use z yet."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BagOfWords(nn.Module):
    """-log p(words of x | z) in nats, without the order of the words; for training only.

    Zhao et al., arXiv 1703.10960, section 3.3: every token of the sentence is drawn from one
    softmax over the vocabulary. Its logits are the decoder's LM head applied to a linear map of z.

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
            z: Latent codes (B, D).
            head: Weight of the decoder's LM head (V, H).
            input_ids: Decoder ids `bos x_1 ... x_n eos pad ...`, shape (B, T).
            attention_mask: 1 for those tokens, 0 for padding, shape (B, T).
        """
        logits = self.linear(z) @ head.to(self.linear.weight.dtype).T  # (B, V)
        log_p = torch.log_softmax(logits.float(), dim=-1).gather(1, input_ids[:, 1:])
        return -(log_p * attention_mask[:, 1:]).sum(1).mean()
