"""Which of several texts that were drawn for a condition answers it best.

Of the K texts x of one condition c, decoded from codes z, each is scored by

    density * log p(mu(x)|c) / D  +  agreement * mean_y F1(x, y)  +  likelihood * log p(x|z) / |x|

- The *density* is that of the text, not of z: a decoder says only roughly what is at its z, so the
  text of a probable z may be an improbable text. mu(x) is the mean of q(z|x), D its size. A flow's
  density is exact.
- The *agreement* is the mean F1 of the words of x and of each other draw y: with it alone the
  choice is that of minimum Bayes risk (Kumar and Byrne, N04-1022) under p(x|c), with F1 as the
  gain.
- The *likelihood* is the decoder's for each of the |x| tokens: how sure it was of its words. It
  prefers short and common texts, and has no weight unless it is given one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from llamavae.errors import UserError
from llamavae.modeling.likelihood import sentence_nll

if TYPE_CHECKING:
    from llamavae.modeling import LlaMaVAE


class Conditional(Protocol):
    """What a ranking reads of a conditional model, such as an `InvertibleCVAE`."""

    vae: LlaMaVAE

    def density(self, z: Tensor, conditions: Tensor, /) -> Tensor:
        """Log p(z|c) of N latent codes (N, D) under one condition (1, C) or N, shape (N,)."""
        ...


@dataclass(frozen=True)
class Ranking:
    """Weights of the terms of a text's score; a term of weight 0 is not computed.

    Attributes:
        density: Of log p(mu(x)|c), nats for each dimension.
        agreement: Of the mean F1 with the other draws, 0 to 1.
        likelihood: Of log p(x|z), nats for each token.
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
        model: Conditional,
        texts: Sequence[str],
        z: Tensor,
        c: Tensor,
        batch_size: int = 64,
    ) -> Tensor:
        """Scores (K,) of texts of one condition; an empty text has the lowest.

        Args:
            model: Gives p(z|c), q(z|x) and p(x|z).
            texts: K texts.
            z: The codes (K, D) that they were decoded from.
            c: Their condition (C,).
            batch_size: Texts that pass the encoder, or the decoder, together.
        """
        scores = torch.zeros(len(texts))
        if self.density:
            mean = model.vae.encode(texts, batch_size).mean
            scores += self.density * model.density(mean, c[None]).cpu().float() / z.shape[1]
        if self.agreement:
            scores += self.agreement * agreement(texts)
        if self.likelihood:
            scores += self.likelihood * token_log_likelihood(model.vae, texts, z, batch_size)
        empty = torch.tensor([not text.strip() for text in texts])
        return scores.masked_fill(empty, -torch.inf)


def best_texts(scores: Tensor, texts: Sequence[str], n: int) -> list[str]:
    """The `n` texts of highest score, best first, each of them once while others are left.

    Args:
        scores: Scores (K,) of the texts; of equal texts the best counts.
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
    """Mean F1 of the words of each text and of each other one, 0 to 1, shape (K,); 0 if alone.

    Words are taken by white space and count as often as they stand there.

    Example:
        >>> agreement(["a dog", "a cat", "a dog"])
        tensor([0.7500, 0.5000, 0.7500])
    """
    bags = [Counter(text.split()) for text in texts]
    found = torch.zeros(len(bags), len(bags))
    for i, ours in enumerate(bags):
        for j, theirs in enumerate(bags[:i]):
            common = (ours & theirs).total()
            if common:
                found[i, j] = found[j, i] = 2 * common / (ours.total() + theirs.total())
    return found.sum(1) / max(1, len(bags) - 1)


@torch.no_grad()
def token_log_likelihood(
    vae: LlaMaVAE, texts: Sequence[str], z: Tensor, batch_size: int = 64
) -> Tensor:
    """Mean of log p(x|z) over the tokens of each text, the end counted, in nats, shape (N,).

    Args:
        vae: Gives the decoder.
        texts: N texts.
        z: Codes (N, D), one for each.
        batch_size: Texts that pass the decoder together.
    """
    ids, _ = vae.decoder.tokenize(texts)
    tokens = torch.tensor([len(row) - 1 for row in ids], dtype=torch.float64)  # bos is given
    return (-sentence_nll(vae, ids, z, batch_size) / tokens).float()
