"""The sentence encoder, text -> h (B, H_enc): any sentence-transformers or transformers model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling as PoolingLayer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor, nn

from llamavae.errors import UserError
from llamavae.modeling.backbones import evaluating, fingerprint, freeze_or_adapt, hub_errors
from llamavae.modeling.names import EncoderTraining, Pooling

_POOLING: dict[Pooling, Literal["cls", "mean", "lasttoken"]] = {
    "cls": "cls",
    "mean": "mean",
    "last": "lasttoken",
}


class SentenceEncoder(nn.Module):
    """A sentence-transformers model with a training mode.

    Args:
        model: The sentence-transformers model. It owns its tokenizer and its length limit.
        training: What of it trains: nothing (`frozen`), LoRA matrices (`lora`), all (`full`).
        lora_rank: Rank of the LoRA matrices.
        lora_alpha: Scale of the LoRA matrices.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        training: EncoderTraining = "frozen",
        lora_rank: int = 16,
        lora_alpha: int = 32,
    ) -> None:
        super().__init__()
        self.model = model
        self.training_mode = training
        for part in model:
            if isinstance(part, Transformer):
                freeze_or_adapt(part.auto_model, training, lora_rank, lora_alpha)
                pooler = getattr(part.auto_model, "pooler", None)
                if isinstance(pooler, nn.Module):  # BERT's own; its output is not used
                    pooler.requires_grad_(False)
            else:
                part.requires_grad_(training == "full")

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        pooling: Pooling | None = None,
        max_tokens: int | None = None,
        dtype: torch.dtype | str | None = None,
        token: str | bool | None = None,
        cache_dir: str | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> SentenceEncoder:
        """Load from a hub id or a folder.

        Args:
            source: A sentence-transformers model, or any transformers encoder (of an
                encoder-decoder such as T5, the encoder half).
            revision: Branch, tag or commit of the hub repository.
            pooling: How token vectors become h: `cls`, `mean` or `last`. None keeps the model's
                own modules; a plain transformers encoder then gets `mean`.
            max_tokens: Most tokens of a sentence; None keeps the model's own limit.
            dtype: Type of the weights; None keeps that of the checkpoint.
            token: Access token for the hub.
            cache_dir: Where hub files are kept.
            local_files_only: Never contact the hub.
            **options: Arguments of `SentenceEncoder`.

        Raises:
            UserError: The model cannot be found, read or reached.
        """
        weights: dict[str, Any] = {"dtype": dtype} if dtype else {}
        with hub_errors("sentence encoder", str(source)):
            if pooling is None:
                model = SentenceTransformer(
                    str(source),
                    revision=revision,
                    device="cpu",
                    token=token,
                    cache_folder=cache_dir,
                    local_files_only=local_files_only,
                    model_kwargs=weights,
                )
            else:
                hub = {
                    "revision": revision,
                    "token": token,
                    "cache_dir": cache_dir,
                    "local_files_only": local_files_only,
                }
                body = Transformer(
                    str(source),
                    model_kwargs={**hub, **weights},
                    processor_kwargs=hub,
                    config_kwargs=hub,
                )
                head = PoolingLayer(body.get_embedding_dimension(), _POOLING[pooling])
                model = SentenceTransformer(modules=[body, head], device="cpu")
        if max_tokens is not None:
            model.max_seq_length = max_tokens
        return cls(model, **options)

    @property
    def dim(self) -> int:
        """Size H_enc of the sentence vector."""
        dim = self.model.get_embedding_dimension()
        if dim is None:
            raise UserError("the sentence encoder does not say how large its vectors are")
        return dim

    @property
    def trains(self) -> bool:
        """Whether any part of the encoder learns."""
        return self.training_mode != "frozen"

    def train(self, mode: bool = True) -> SentenceEncoder:
        """Enter training or eval mode; a frozen encoder stays in eval mode."""
        super().train(mode and self.trains)
        return self

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Inputs of `forward` for a batch of texts, padded to its longest."""
        prompt = self.model.prompts.get(self.model.default_prompt_name or "")
        features = self.model.preprocess(list(texts), prompt=prompt)
        return {k: v for k, v in features.items() if isinstance(v, Tensor)}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Sentence vectors h (B, H_enc), with gradients where the encoder trains."""
        return self.model(dict(features))["sentence_embedding"][:, : self.dim]

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Sentence vectors h (B, H_enc), without gradients, in batches by length."""
        if not texts:
            return torch.empty(0, self.dim)
        with evaluating(self):
            h = self.model.encode(
                list(texts), batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False
            )
        return h.clone()  # encode runs in inference mode; a clone may enter autograd

    def truncated(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the encoder reads."""
        limit, tokenizer = self.model.max_seq_length, self.model.tokenizer
        if limit is None or not texts:
            return 0
        lengths = (len(ids) for ids in tokenizer(list(texts), truncation=False)["input_ids"])
        return sum(length > limit for length in lengths)

    def cache_key(self) -> str:
        """A hash of all that decides a sentence's vector: weights, tokenizer, pooling, limit."""
        modules = [
            getattr(part, "get_config_dict", dict)() | {"type": type(part).__name__}
            for part in self.model
        ]
        backend = getattr(self.model.tokenizer, "backend_tokenizer", None)
        tokenizer = json.loads(backend.to_str()) if backend is not None else {}
        for state in ("truncation", "padding"):  # each call leaves its own behind
            tokenizer.pop(state, None)
        settings = {
            "modules": modules,
            "max_tokens": self.model.max_seq_length,
            "prompt": [self.model.prompts, self.model.default_prompt_name],
            "tokenizer": tokenizer,
        }
        text = json.dumps(settings, sort_keys=True, default=str) + fingerprint(self.model)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
