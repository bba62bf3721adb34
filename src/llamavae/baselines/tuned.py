"""The fine-tuning baseline: a language model without a latent space, trained on the task."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llamavae.baselines._fitting import draw_batches, fit_weights, note_truncated
from llamavae.baselines.prompted import PromptedDecoder
from llamavae.errors import UserError, check_int, check_number
from llamavae.guidance.pairs import Pairs
from llamavae.guidance.sampling import seeded
from llamavae.modeling import TextDecoder
from llamavae.modeling.backbones import freeze_or_adapt


@final
class TunedDecoder:
    """A language model fine-tuned with LoRA to continue the prompt of a word with its text.

        loss = mean_b -log p(x_b, eos | prompt(w_b))      nats per sentence

    Bevilacqua et al. (2020), "Generationary or: how we went beyond word sense inventories and
    learned to gloss", fine-tune a pretrained model for definitions in this way, all weights of it;
    here with LoRA (Hu et al., arXiv 2106.09685). Generation is that of a `PromptedDecoder` with the
    same template.

    Only LoRA matrices in the hidden layers are trained, in float32 and without dropout. They belong
    to a copy of the decoder. All other weights are shared with the decoder, so put it on its device
    first. If the decoder already has LoRA matrices, copies of these are trained.

    Args:
        decoder: A causal language model, as for `PromptedDecoder`; it is not changed.
        template: The prompt, as for `PromptedDecoder`.
        lora_rank: Rank of new LoRA matrices.
        lora_alpha: Scale of new LoRA matrices.

    Attributes:
        losses: Loss of each step of the last fit.

    Raises:
        UserError: The template is not valid, or the decoder cannot be loaded or has no layers for
            LoRA.
    """

    def __init__(
        self,
        decoder: TextDecoder | str | os.PathLike[str],
        template: str = "{word}:",
        lora_rank: int = 16,
        lora_alpha: int = 32,
    ) -> None:
        check_int("lora_rank", lora_rank)
        check_int("lora_alpha", lora_alpha)
        self.prompted = PromptedDecoder(decoder, template)  # without training
        lm, head = self.prompted.decoder.lm, self.prompted.decoder.head
        if not any(isinstance(m, nn.Linear | Conv1D) and m is not head for m in lm.modules()):
            raise UserError(
                f"a tuned decoder needs linear layers for LoRA in addition to the LM head; "
                f"{type(lm).__name__} has none"
            )
        self.lora_rank, self.lora_alpha = lora_rank, lora_alpha
        self.model: PromptedDecoder | None = None
        self.losses: list[float] = []

    def fit(
        self,
        pairs: Pairs,
        *,
        steps: int,
        batch_size: int = 32,
        learning_rate: float = 5e-4,
        seed: int = 0,
        progress: bool = True,
    ) -> Self:
        """Fine-tune the decoder; a second call starts from the given decoder again.

        AdamW with a short warm-up and cosine decay, gradients clipped to norm 1. All random numbers
        depend on `seed`.

        Args:
            pairs: N training texts with their words, or (word, context) pairs, in `pairs.words`.
            steps: Number of optimiser steps.
            batch_size: Number of sentences per step.
            learning_rate: Peak learning rate.
            seed: Seed of the order of the sentences and of the first LoRA matrices.
            progress: Show a progress bar on stderr.

        Returns:
            This baseline.

        Raises:
            UserError: There are no pairs, they lack the context required by the template, or the
                loss or its gradient is not finite.
        """
        check_int("steps", steps, 0)
        check_int("batch_size", batch_size)
        check_number("learning_rate", learning_rate, above=True)
        if not len(pairs):
            raise UserError("expected at least one pair of a word and a text; got none")
        self.model, self.losses = None, []
        prompts = self.prompted.tokenize(pairs.words)
        rows = self._rows(prompts, pairs.texts)
        with seeded(seed, self.prompted.decoder.device):
            decoder = _with_lora(self.prompted.decoder, self.lora_rank, self.lora_alpha)
            batches = draw_batches(np.array([*map(len, rows)]), batch_size, steps, seed)

        def loss(batch: np.ndarray) -> tuple[Tensor, str]:
            ids, mask = decoder.pad([rows[i] for i in batch])
            start = torch.tensor([len(prompts[i]) for i in batch])
            nll = decoder.nll(ids.to(decoder.device), mask.to(decoder.device), start=start)
            return nll / len(batch), f"nll {nll.item() / len(batch):.3g}"

        weights = [p for p in decoder.parameters() if p.requires_grad]
        name = "tuned decoder"
        self.losses = fit_weights(
            name, weights, loss, batches, pairs.texts, learning_rate, progress
        )
        self.model = PromptedDecoder(decoder.requires_grad_(False), self.prompted.template)
        return self

    def generate(
        self,
        conditions: Sequence[Any] | Tensor,
        n: int = 1,
        spread: float = 1.0,
        seed: int | None = None,
        **options: Any,
    ) -> list[str]:
        """The continuation of each prompt; see `PromptedDecoder.generate`.

        Args:
            conditions: B words or (word, context) pairs.
            n: Number of texts per condition.
            spread: Ignored, since there are no latent codes.
            seed: Makes sampling reproducible; None uses torch's default generator.
            **options: `batch_size` and `temperature`, and arguments of transformers' `generate`.

        Returns:
            B * n texts; the texts of one word are adjacent.

        Raises:
            UserError: `fit` was not called, or a condition is invalid.
        """
        if self.model is None:
            raise UserError("this tuned decoder is not trained yet. Call fit first")
        return self.model.generate(conditions, n, spread, seed, **options)

    def _rows(self, prompts: list[list[int]], texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt with its text and eos."""
        decoder, template = self.prompted.decoder, self.prompted.template
        gap = "" if template[-1].isspace() else " "
        tails, truncated = decoder.tokenize([gap + text for text in texts])
        note_truncated(truncated, len(texts), decoder.max_tokens)
        return [prompt + tail[1:] for prompt, tail in zip(prompts, tails, strict=True)]  # no bos


def _with_lora(decoder: TextDecoder, rank: int, alpha: int) -> TextDecoder:
    """A copy of `decoder` of which only LoRA matrices train; all other weights are shared."""
    shared: dict[int, Any] = {id(decoder.tokenizer): decoder.tokenizer}
    for name, weight in decoder.named_parameters():
        if "lora_" not in name:  # a trained weight has a frozen view, since freezing is in place
            view = nn.Parameter(weight.detach(), False) if weight.requires_grad else weight
            shared[id(weight)] = view
    copied = copy.deepcopy(decoder, shared).eval()
    copied.requires_grad_(False)
    if not any("lora_" in name for name, _ in copied.named_parameters()):
        freeze_or_adapt(copied.lm, "lora", rank, alpha)
    for name, weight in copied.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()
            weight.requires_grad_(True)
    return copied
