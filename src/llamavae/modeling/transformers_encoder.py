"""A transformers encoder with a pooling of its token vectors, as sentence encoder."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llamavae.modeling.backbones import fingerprint, freeze_or_adapt, save_plain
from llamavae.modeling.encoder import SentenceEncoder
from llamavae.modeling.names import EncoderTraining, Pooling
from llamavae.modeling.tokenizing import AS_TEXT, check_vocabulary, tokenize

_POOLING = "1_Pooling"
_MODULES = {  # path in the saved folder -> class, as sentence-transformers 6 writes them
    "": "sentence_transformers.base.modules.transformer.Transformer",
    _POOLING: "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
}


class AttentionPooling(nn.Module):
    """Attention pooling: concatenated weighted means of the token states for K learned queries.

    a = softmax(S q_k) over the T tokens, h_k = a^T S, h = [h_1; ...; h_K]. Unlike a single mean, it
    can preserve word order, since the states of a pretrained encoder encode positions.

    Args:
        hidden: Size H of a token state.
        heads: Number K of queries.
    """

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(0.1 * torch.randn(heads, hidden))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Sentence vectors (B, K * H) of token states (B, T, H); mask (B, T) is 1 for tokens."""
        scores = (states @ self.query.mT.to(states)).float()  # (B, T, K)
        scores = scores.masked_fill(mask[..., None] == 0, -torch.inf)
        return torch.einsum("btk,bth->bkh", scores.softmax(1).to(states), states).flatten(1)


class TransformersEncoder(SentenceEncoder):
    """A transformers encoder whose token vectors are pooled.

    Args:
        model: The encoder.
        tokenizer: Its tokenizer.
        pooling: `mean` of the token vectors, that of the first (`cls`) or `last` token, or
            `attention` (see `AttentionPooling`).
        training: See `SentenceEncoder`.
        lora_rank: Rank of the LoRA matrices.
        lora_alpha: Scale of the LoRA matrices.
        pooling_heads: Number K of queries of `attention`.
    """

    model: PreTrainedModel

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pooling: Pooling = "mean",
        training: EncoderTraining = "frozen",
        lora_rank: int = 16,
        lora_alpha: int = 32,
        pooling_heads: int = 8,
    ) -> None:
        super().__init__(model, tokenizer, training)
        check_vocabulary(tokenizer, model, "encoder")
        self.pooling: Pooling = pooling
        hidden = model.config.hidden_size
        self.attention = AttentionPooling(hidden, pooling_heads) if pooling == "attention" else None
        self._reads = set(inspect.signature(model.forward).parameters)
        positions = getattr(model.config, "max_position_embeddings", None)
        if positions:
            table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
            padding = getattr(table, "padding_idx", None)
            if padding is not None:  # RoBERTa models number positions from padding_idx + 1
                positions -= padding + 1
            tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
        freeze_or_adapt(model, training, lora_rank, lora_alpha)

    @property
    def dim(self) -> int:
        """Size H_enc of the sentence vector."""
        heads = 1 if self.attention is None else len(self.attention.query)
        return heads * self.model.config.hidden_size

    @property
    def trains(self) -> bool:
        """Whether sentence vectors change in training, so that they cannot be cached."""
        return super().trains or self.attention is not None

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Inputs of `forward` for a batch of texts, padded to its longest."""
        options = {"padding": True, "truncation": True, "return_tensors": "pt"}
        features = tokenize(self.tokenizer, texts, **options, **AS_TEXT)
        return {name: value for name, value in features.items() if name in self._reads}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Sentence vectors h (B, H_enc), with gradients if the encoder is trained."""
        states, mask = self.model(**features).last_hidden_state, features["attention_mask"]
        if self.attention is not None:
            return self.attention(states, mask)
        if self.pooling == "mean":
            weights = mask[..., None].to(states.dtype)
            return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        positions = torch.arange(mask.shape[1], device=mask.device) * mask
        at = positions.argmax(1) if self.pooling == "last" else mask.argmax(1)
        return states[torch.arange(len(states), device=mask.device), at]

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the encoder for both transformers and sentence-transformers, without LoRA.

        With `attention` pooling, only transformers can read it; the pooling weights are in the
        checkpoint.
        """
        save_plain(self.model, folder, state)
        self.tokenizer.save_pretrained(folder)
        if self.attention is not None:
            return
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": kind}
            for i, (path, kind) in enumerate(_MODULES.items())
        ]
        (folder / "modules.json").write_text(json.dumps(modules, indent=2), encoding="utf-8")
        settings = {
            "embedding_dimension": self.dim,
            "pooling_mode": "lasttoken" if self.pooling == "last" else self.pooling,
            "include_prompt": True,
        }
        pooling = folder / _POOLING
        pooling.mkdir(exist_ok=True)
        (pooling / "config.json").write_text(json.dumps(settings, indent=4), encoding="utf-8")

    def _settings(self) -> dict[str, Any]:
        return {"pooling": self.pooling, "type": type(self.model).__name__}

    def _fingerprint(self) -> str:
        own = super()._fingerprint()
        return own if self.attention is None else own + fingerprint(self.attention)
