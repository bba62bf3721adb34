"""Which of several texts that were drawn for a condition answers it best.

A decoder says only roughly what is at the z that it was given, so the text of a probable z may be
an improbable text. What is scored is therefore the text itself, by where it lies when it is read
again:

    score(x) = log p(mu(x) | c) / D  +  w * log p(x | z) / |x|

with mu(x) the mean of q(z|x), D the size of z, z the code that x was decoded from and |x| its
number of tokens. The first term is exact, since a flow's density is; the second asks whether the
decoder was sure of its words, and being a mean over tokens does not prefer short texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamavae.guidance.cvae import InvertibleCVAE
    from llamavae.modeling import LlaMaVAE

WEIGHT = 1.0
"""w: weight of the decoder's log-likelihood for each token beside the density for each dimension;
chosen on held-out words, see docs/explanation/which-flow.md."""


def best_texts(scores: Sequence[float], texts: Sequence[str], n: int) -> list[str]:
    """The `n` texts of highest score, best first, each of them once while others are left.

    Args:
        scores: Scores of K texts.
        texts: The texts; of equal ones the best score counts.
        n: At most K.
    """
    order = sorted(range(len(texts)), key=lambda i: -scores[i])  # stable: the first of equals
    distinct = dict.fromkeys(texts[i] for i in order)
    repeats = [texts[i] for i in order]
    return [*distinct, *repeats][:n]


def score_texts(
    model: InvertibleCVAE, texts: Sequence[str], z: Tensor, c: Tensor, batch_size: int = 64
) -> Tensor:
    """Scores (N,) of texts that were decoded from z (N, D) for conditions c (N, C).

    Args:
        model: Gives p(z|c), q(z|x) and p(x|z).
        texts: N texts; an empty one has the lowest score.
        z: The codes that they were decoded from.
        c: Their conditions.
        batch_size: Texts that pass the encoder and the decoder together.
    """
    density = model.density(model.vae.encode(texts, batch_size).mean, c)
    likelihood = token_log_likelihood(model.vae, texts, z, batch_size)
    scores = density.cpu() / z.shape[1] + WEIGHT * likelihood
    empty = torch.tensor([not text.strip() for text in texts])
    return scores.masked_fill(empty, -torch.inf)


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
    rows, _ = vae.decoder.tokenize(texts)
    found = []
    for start in range(0, len(rows), batch_size):
        ids, mask = (t.to(vae.decoder.device) for t in vae.decoder.pad(rows[start:][:batch_size]))
        steering = vae.injection(z[start:][:batch_size].to(vae.posterior.linear.weight))
        nll = vae.decoder.nll(ids, mask, steering, per_sentence=True)
        found.append(-(nll / (mask.sum(1) - 1)).cpu().float())
    return torch.cat(found) if found else torch.empty(0)
