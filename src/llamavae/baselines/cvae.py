"""The conditional VAE: the concatenation of z and the condition steers the decoder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self, cast, final

import numpy as np
import torch
from torch import Tensor, nn

from llamavae.baselines._fitting import draw_batches, fit_weights, note_truncated
from llamavae.data.batches import Collator
from llamavae.data.sentences import SentenceData, prepare
from llamavae.errors import UserError
from llamavae.guidance.conditions import Condition
from llamavae.guidance.pairs import Pairs
from llamavae.guidance.sampling import check_draws, check_pairs, seeded, vectors_of
from llamavae.metrics.control import derangement
from llamavae.modeling import LlaMaVAE
from llamavae.modeling.posterior import kl_term


@final
class ConditionalVAE:
    """A VAE whose decoder is steered by z and a condition c, fine-tuned from a fitted VAE.

        loss = mean_b -log p(x|z, c) + beta * mean_b KL(q(z|x) || N(0, I))      nats per sentence
        generate: z = tau * eps, x ~ p(x|z, c)

    Sohn et al. (2015), "Learning structured output representation using deep conditional
    generative models", in the form with a prior that does not depend on c; for text Zhao et al.,
    arXiv 1703.10960, eq. 1. Unlike theirs, q does not read c: the encoder is the VAE's own.

    The input of the injection is (z, c) of size D + C, with c standardised. It is initialised from
    the VAE with zero weights for c, so training starts at the loss of the VAE. Copies of posterior,
    injection and the trainable part of the decoder (`config.decoder_training`) are trained; the
    encoder is frozen.

    Args:
        vae: A fitted VAE with a sentence encoder; it is not changed. Frozen weights are shared
            with it, so put it on its device first.
        condition: Encodes conditions as vectors c (B, C).

    Raises:
        UserError: The VAE has no sentence encoder.
    """

    def __init__(self, vae: LlaMaVAE, condition: Condition) -> None:
        if vae.encoder is None:
            raise UserError(
                "a conditional VAE needs a VAE with a sentence encoder; this one has none"
            )
        self.vae, self.condition = vae, condition
        self.model: LlaMaVAE | None = None
        self._mean = torch.zeros(condition.dim)
        self._std = torch.ones(condition.dim)

    # ------------------------------------------------------------------ training

    def fit(
        self,
        pairs: Pairs,
        *,
        steps: int,
        batch_size: int = 64,
        learning_rate: float = 5e-4,
        beta: float = 1.0,
        seed: int = 0,
        progress: bool = True,
    ) -> Self:
        """Fine-tune from the VAE; a second call starts from the VAE again.

        AdamW with a short warm-up and cosine decay, gradients clipped to norm 1, as in the training
        of the VAE. All random numbers depend on `seed`.

        Args:
            pairs: N training texts with their conditions (N, C).
            steps: Number of optimiser steps. After few steps z still contains the information of c
                and dominates in generation; after 0 steps c is ignored.
            batch_size: Number of sentences per step.
            learning_rate: Peak learning rate.
            beta: Weight of the KL term, which favours information from c over information from z.
            seed: Seed of the order of the sentences and of all draws.
            progress: Show progress bars on stderr.

        Returns:
            This baseline.

        Raises:
            UserError: The pairs do not match the condition, or the loss or its gradient is not
                finite.
        """
        if steps < 0 or batch_size < 1 or not learning_rate > 0 or not beta >= 0:
            raise UserError(
                "expected steps >= 0, batch_size >= 1, learning_rate > 0 and beta >= 0; got "
                f"{steps}, {batch_size}, {learning_rate} and {beta}"
            )
        self.model = None
        data = self._sentences(pairs, progress)
        note_truncated(data.truncated, len(data), self.vae.config.max_tokens)
        values = pairs.conditions.double()
        std = values.std(0, correction=0)
        self._mean = values.mean(0).float()
        self._std = torch.where(std > 1e-6, std, 1.0).float()  # a constant is not scaled
        c = self._standardised(pairs.conditions)
        model = _with_condition(self.vae, self.condition.dim)
        model.decoder.train()
        with seeded(seed, model.decoder.device):
            rows = draw_batches(data.lengths, batch_size, steps, seed)
            _train(model, data, c, rows, learning_rate, beta, progress)
        model.decoder.eval()
        self.model = model
        return self

    @torch.no_grad()
    def evaluate(self, pairs: Pairs, seed: int = 0, batch_size: int = 64) -> dict[str, float]:
        """Rate and distortion on held-out pairs, the latter also with shuffled conditions.

        With shuffled conditions, sentences and z are the same, but each sentence receives the
        condition of another name, if possible.

        Args:
            pairs: N texts with their conditions (N, C).
            seed: Seed of the draws from the posterior and of the shuffle.
            batch_size: Number of sentences per forward pass of the decoder.

        Returns:
            `nll`, `nll_shuffled_condition`, `kl` and `elbo` (negative, with beta 1) in nats per
            sentence. If the second is not higher than the first, the condition is not used.
        """
        model = self._fitted()
        data = self._sentences(pairs, progress=False)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(data), self.vae.config.latent_dim, generator=generator)
        c = self._standardised(pairs.conditions)
        other = c[derangement(len(pairs), generator, pairs.names)]
        sums = dict.fromkeys(("nll", "nll_shuffled_condition", "kl"), 0.0)
        order = np.argsort(data.lengths, kind="stable")
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            nll, kl = _nll_and_kl(model, data, rows, c, noise[torch.from_numpy(rows)])
            shuffled, _ = _nll_and_kl(model, data, rows, other, noise[torch.from_numpy(rows)])
            sums["nll"] += nll.item()
            sums["nll_shuffled_condition"] += shuffled.item()
            sums["kl"] += kl.sum().item()
        means = {name: value / len(data) for name, value in sums.items()}
        return {**means, "elbo": means["nll"] + means["kl"]}

    # ------------------------------------------------------------------ text out

    def generate(
        self,
        conditions: Sequence[Any] | Tensor,
        n: int = 1,
        spread: float = 1.0,
        seed: int | None = None,
        **options: Any,
    ) -> list[str]:
        """Texts of latent codes z ~ N(0, spread^2 I) with each condition.

        Args:
            conditions: B conditions, or their vectors (B, C).
            n: Number of texts per condition.
            spread: Standard deviation of z; 0 decodes the centre of the prior.
            seed: Makes the draws of z reproducible; None uses torch's default generator.
            **options: Options of `LlaMaVAE.decode`; greedy by default.

        Returns:
            B * n texts; the texts of one condition are adjacent.

        Raises:
            UserError: `fit` was not called, or a condition is invalid.
        """
        model = self._fitted()
        check_draws(n, spread)
        c = self._standardised(vectors_of(self.condition, conditions)).repeat_interleave(n, dim=0)
        if not len(c):
            return []
        z = self.vae.sample_codes(len(c), "standard", spread, seed)
        return model.decode(torch.cat([z, c], dim=1), **options)

    # ------------------------------------------------------------------ parts

    def _fitted(self) -> LlaMaVAE:
        if self.model is None:
            raise UserError("this conditional VAE is not trained yet. Call fit first")
        return self.model

    def _standardised(self, c: Tensor) -> Tensor:
        """Conditions (B, C) with mean 0 and standard deviation 1 over the training pairs."""
        return (c.to("cpu", torch.float32) - self._mean) / self._std

    def _sentences(self, pairs: Pairs, progress: bool) -> SentenceData:
        """The texts with their decoder ids and sentence vectors."""
        check_pairs(self.condition, pairs)
        encoder = self.vae.encoder
        assert encoder is not None  # the constructor checks it
        vectors = encoder.encode(pairs.texts).float().cpu().numpy() if encoder.trains else None
        return prepare(pairs.texts, self.vae.decoder, encoder, vectors, progress)


def _with_condition(vae: LlaMaVAE, extra: int) -> LlaMaVAE:
    """A copy of `vae` that decodes (z, c) of size D + C; frozen weights are shared.

    Its posterior and its encoder do not depend on c.
    """
    frozen = (p for name, p in vae.named_parameters() if name not in vae.trained_names)
    shared = {id(x): x for x in (vae.encoder, *frozen)}
    model = copy.deepcopy(vae, cast(dict[int, Any], shared))
    model.config.latent_dim += extra
    for part in model.injection.parts.values():
        linear = cast(nn.Linear, part.net[0] if isinstance(part.net, nn.Sequential) else part.net)
        zeros = linear.weight.new_zeros(linear.out_features, extra)
        linear.weight = nn.Parameter(torch.cat([linear.weight.detach(), zeros], dim=1))
        linear.in_features += extra
    return model


def _train(
    model: LlaMaVAE,
    data: SentenceData,
    c: Tensor,
    batches: np.ndarray,
    learning_rate: float,
    beta: float,
    progress: bool,
) -> None:
    """One optimiser step for each batch of sentence indices, shape (steps, batch size)."""
    trained = [
        parameter.requires_grad_()
        for name, parameter in model.named_parameters()
        if name in model.trained_names and not name.startswith("encoder.")
    ]

    def loss(rows: np.ndarray) -> tuple[Tensor, str]:
        noise = torch.randn(len(rows), model.config.latent_dim - c.shape[1])
        nll, kl = _nll_and_kl(model, data, rows, c, noise)
        numbers = f"nll {nll.item() / len(rows):.3g}, kl {kl.sum(1).mean().item():.3g}"
        return nll / len(rows) + beta * kl_term(kl), numbers

    fit_weights("conditional VAE", trained, loss, batches, data.texts, learning_rate, progress)


def _nll_and_kl(
    model: LlaMaVAE, data: SentenceData, rows: np.ndarray, c: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """-log p(x|z, c) in nats summed over B sentences, and their KL (B, D).

    Args:
        model: Result of `_with_condition`.
        data: N sentences.
        rows: Indices of the B sentences.
        c: Standardised conditions (N, C) of all sentences.
        noise: eps (B, D).
    """
    batch = Collator(model.decoder)([data[i] for i in rows.tolist()])
    weight = model.posterior.linear.weight
    posterior = model.posterior(batch["sentence_vectors"].to(weight.device))
    z = posterior.reparameterise(noise)
    steering = model.injection(torch.cat([z, c[torch.from_numpy(rows)].to(z)], dim=1))
    device = model.decoder.device
    nll = model.decoder.nll(
        batch["input_ids"].to(device), batch["attention_mask"].to(device), steering
    )
    return nll, posterior.kl()
