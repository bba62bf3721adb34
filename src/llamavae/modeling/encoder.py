"""The interface of sentence encoders, text -> h (B, H_enc)."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from llamavae.errors import check_int, memory_errors
from llamavae.modeling.backbones import fingerprint, quiet_dropout
from llamavae.modeling.names import EncoderTraining
from llamavae.modeling.tokenizing import AS_TEXT, tokenize
from llamavae.modes import evaluating
from llamavae.parsing import as_texts


class SentenceEncoder(nn.Module, ABC):
    """A sentence encoder with a training mode; load one with `load_sentence_encoder`.

    Args:
        model: The network.
        tokenizer: Its tokenizer.
        training: Trainable weights: none (`frozen`), LoRA matrices (`lora`) or all (`full`).
    """

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, training: EncoderTraining
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.training_mode = training

    @property
    @abstractmethod
    def dim(self) -> int:
        """Size H_enc of the sentence vector."""

    @property
    def max_tokens(self) -> int | None:
        """Maximum number of tokens per sentence."""
        return self.tokenizer.model_max_length

    @max_tokens.setter
    def max_tokens(self, value: int) -> None:
        self.tokenizer.model_max_length = value

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Inputs of `forward` for a batch of texts, padded to its longest."""

    @abstractmethod
    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Sentence vectors h (B, H_enc), with gradients if the encoder is trained."""

    @abstractmethod
    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the encoder in sentence-transformers' own format, without LoRA.

        Args:
            folder: Destination folder; created if missing.
            state: Weights that replace those of the model with the same names.
        """

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Settings that affect sentence vectors, besides weights and tokenizer."""

    @property
    def trains(self) -> bool:
        """Whether sentence vectors change in training, so that they cannot be cached."""
        return self.training_mode != "frozen"

    def train(self, mode: bool = True) -> SentenceEncoder:
        """Enter training or eval mode; a frozen encoder stays in eval mode.

        Dropout stays off in both, since it would add noise to z that the KL term ignores.
        """
        super().train(mode and self.training_mode != "frozen")
        if self.training:
            quiet_dropout(self.model)
        return self

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Sentence vectors h (B, H_enc), without gradients, in batches by length.

        Raises:
            UserError: An item is not a text, or `batch_size` is below 1.
        """
        texts = as_texts(texts)
        check_int("batch_size", batch_size)
        if not texts:
            return torch.empty(0, self.dim)
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        device = next(self.model.parameters()).device
        parts: list[Tensor] = []
        advice = "Use a smaller batch_size"
        inference = torch.inference_mode()  # quicker than no_grad for a small encoder
        with evaluating(self), inference, memory_errors("the sentence encoder", advice):
            for start in range(0, len(order), batch_size):
                batch = self.tokenize([texts[i] for i in order[start : start + batch_size]])
                if not batch["input_ids"].numel():  # no text of it has a token
                    parts.append(torch.zeros(len(batch["input_ids"]), self.dim, device=device))
                    continue
                parts.append(self({name: value.to(device) for name, value in batch.items()}))
        h = torch.cat(parts)
        return torch.empty_like(h).index_copy_(0, torch.tensor(order, device=h.device), h)

    def truncated(self, texts: Sequence[str]) -> int:
        """Number of texts that exceed the encoder's maximum length."""
        limit = self.max_tokens
        if limit is None or not texts:
            return 0
        rows = tokenize(self.tokenizer, texts, truncation=False, **AS_TEXT)["input_ids"]
        return sum(len(ids) > limit for ids in rows)

    def _fingerprint(self) -> str:
        """A hash of all weights that affect sentence vectors."""
        return fingerprint(self.model)

    def cache_key(self) -> str:
        """A hash of all that affects sentence vectors: weights, tokenizer, pooling and limit."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        tokenizer = json.loads(backend.to_str()) if backend is not None else {}
        for state in ("truncation", "padding"):  # each call changes them
            tokenizer.pop(state, None)
        settings = {**self._settings(), "max_tokens": self.max_tokens, "tokenizer": tokenizer}
        text = json.dumps(settings, sort_keys=True, default=str) + self._fingerprint()
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
