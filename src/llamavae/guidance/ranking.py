"""Ranking of several texts generated for a condition.

Each of the K texts x of one condition c, decoded from codes z, has the score

    density * log p(mu(x)|c) / D  +  agreement * mean_y F1(x, y)  +  likelihood * log p(x|z) / |x|

- The *density* is that of the text, not of z: decoding is approximate, so the text of a probable z
  can be improbable. mu(x) is the mean of q(z|x), D its size. The density of a flow is exact.
- The *agreement* is the mean F1 between the words of x and of each other draw y. Alone, it is
  minimum Bayes risk decoding (Kumar and Byrne, N04-1022) under p(x|c), with F1 as the gain.
- The *likelihood* is that of the decoder for each of the |x| tokens. It prefers short and frequent
  texts, and its weight is 0 by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from llamavae.errors import UserError
from llamavae.modeling.likelihood import sentence_nll

if TYPE_CHECKING:
    from llamavae.modeling import LlaMaVAE


class _Conditional(Protocol):
    """What a ranking reads of a conditional model, such as an `InvertibleCVAE`."""

    vae: LlaMaVAE

    def log_density(self, z: Tensor, conditions: Tensor, /) -> Tensor:
        """Log p(z|c) of N latent codes (N, D) under one condition (1, C) or N, shape (N,)."""
        ...


@dataclass(frozen=True)
class Ranking:
    """Weights of the terms of the score of a text; a term of weight 0 is not computed.

    Attributes:
        density: Weight of log p(mu(x)|c), in nats per dimension.
        agreement: Weight of the mean F1 with the other draws, 0 to 1.
        likelihood: Weight of log p(x|z), in nats per token.
    """

    density: float = 1.0
    agreement: float = 1.0
    likelihood: float = 0.0

    def __post_init__(self) -> None:
        values = self.density, self.agreement, self.likelihood
        if not all(value >= 0 for value in values) or not any(values):
            raise UserError(f"expected weights of 0 or more, and one above 0; got {self}")

    def scores(
        self,
        model: _Conditional,
        texts: Sequence[str],
        z: Tensor,
        c: Tensor,
        batch_size: int = 64,
    ) -> Tensor:
        """Scores (K,) of texts of one condition; an empty text has the lowest.

        Args:
            model: Model of p(z|c), q(z|x) and p(x|z).
            texts: K texts.
            z: The codes (K, D) that they were decoded from.
            c: Their condition (C,).
            batch_size: Number of texts per forward pass of the encoder or the decoder.
        """
        scores = torch.zeros(len(texts))
        if self.density:
            full = [text if text.strip() else "." for text in texts]  # scored below
            mean = model.vae.encode(full, batch_size).mean
            scores += self.density * model.log_density(mean, c[None]).cpu().float() / z.shape[1]
        if self.agreement:
            scores += self.agreement * agreement(texts)
        if self.likelihood:
            scores += self.likelihood * token_log_likelihood(model.vae, texts, z, batch_size)
        empty = torch.tensor([not text.strip() for text in texts])
        return scores.masked_fill(empty, -torch.inf)


def best_texts(scores: Tensor, texts: Sequence[str], n: int) -> list[str]:
    """The `n` texts with the highest score, in descending order, without repetition if possible.

    Args:
        scores: Scores (K,) of the texts; equal texts have the best of their scores.
        texts: K texts.
        n: At most K.

    Example:
        >>> best_texts(torch.tensor([0.0, 2.0, 3.0]), ["a", "b", "a"], 2)
        ['a', 'b']
    """
    values = scores.tolist()
    ordered = [texts[i] for i in sorted(range(len(texts)), key=lambda i: -values[i])]
    return [*dict.fromkeys(ordered), *ordered][:n]


def agreement(texts: Sequence[str]) -> Tensor:
    """Mean F1 between the words of each text and all others, 0 to 1, shape (K,); 0 for one text.

    Words are split at white space and counted with multiplicity.

    Example:
        >>> agreement(["a dog", "a cat", "a dog"])
        tensor([0.7500, 0.5000, 0.7500])
    """
    from llamavae.metrics.ngrams import token_f1  # slow import

    found = torch.zeros(len(texts), len(texts))
    for i, text in enumerate(texts):
        for j, other in enumerate(texts[:i]):
            found[i, j] = found[j, i] = token_f1(text, other)
    return found.sum(1) / max(1, len(texts) - 1)


@torch.no_grad()
def token_log_likelihood(
    vae: LlaMaVAE, texts: Sequence[str], z: Tensor, batch_size: int = 64
) -> Tensor:
    """Mean of log p(x|z) over the tokens of each text, including eos, in nats, shape (N,).

    Args:
        vae: Model of the decoder.
        texts: N texts.
        z: Latent code of each text (N, D).
        batch_size: Number of texts per forward pass of the decoder.
    """
    ids, _ = vae.decoder.tokenize(texts)
    tokens = torch.tensor([len(row) - 1 for row in ids], dtype=torch.float64)  # bos is given
    return (-sentence_nll(vae, ids, z, batch_size) / tokens).float()
