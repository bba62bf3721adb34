"""A sentence-transformers model, with all its modules, as sentence encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llamavae.errors import UserError
from llamavae.modeling.backbones import freeze_or_adapt, save_plain
from llamavae.modeling.encoder import SentenceEncoder
from llamavae.modeling.names import EncoderTraining
from llamavae.modeling.tokenizing import TOKENIZER_LOCK, check_vocabulary


class SentenceTransformerEncoder(SentenceEncoder):
    """A `SentenceTransformer` with a training mode.

    Args:
        model: The model. It owns its tokenizer and its length limit.
        training: See `SentenceEncoder`.
        lora_rank: Rank of the LoRA matrices.
        lora_alpha: Scale of the LoRA matrices.
    """

    model: SentenceTransformer

    def __init__(
        self,
        model: SentenceTransformer,
        training: EncoderTraining = "frozen",
        lora_rank: int = 16,
        lora_alpha: int = 32,
    ) -> None:
        super().__init__(model, model.tokenizer, training)
        for part in model:
            if isinstance(part, Transformer):
                check_vocabulary(model.tokenizer, part.auto_model, "encoder")
                freeze_or_adapt(part.auto_model, training, lora_rank, lora_alpha)
            else:
                part.requires_grad_(training == "full")

    @property
    def dim(self) -> int:
        """Size H_enc of the sentence vector."""
        dim = self.model.get_embedding_dimension()
        if dim is None:
            raise UserError("expected a sentence encoder with a known embedding size; it has none")
        return dim

    @property
    def max_tokens(self) -> int | None:
        """Maximum number of tokens per sentence."""
        return self.model.max_seq_length

    @max_tokens.setter
    def max_tokens(self, value: int) -> None:
        self.model.max_seq_length = value

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Inputs of `forward` for a batch of texts, padded to its longest."""
        prompt = self.model.prompts.get(self.model.default_prompt_name or "")
        with TOKENIZER_LOCK:
            if transformers := isinstance(self.tokenizer, PreTrainedTokenizerBase):
                self.tokenizer.split_special_tokens = True  # names of special tokens are text
            features = self.model.preprocess(list(texts), prompt=prompt)
            if transformers:
                self.tokenizer.split_special_tokens = False
        return {k: v for k, v in features.items() if isinstance(v, Tensor)}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Sentence vectors h (B, H_enc), with gradients if the encoder is trained."""
        return self.model(dict(features))["sentence_embedding"][:, : self.dim]

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the encoder in sentence-transformers' own format; see `SentenceEncoder.save`."""
        assert state is None  # its weights are not the checkpoint's only copy
        self.model.save_pretrained(str(folder))
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        if self.training_mode == "lora":
            for part, entry in zip(self.model, modules, strict=True):
                if isinstance(part, Transformer):
                    save_plain(part.auto_model, folder / entry["path"])

    def _settings(self) -> dict[str, Any]:
        modules = [
            getattr(part, "get_config_dict", dict)() | {"type": type(part).__name__}
            for part in self.model
        ]
        return {"modules": modules, "prompt": [self.model.prompts, self.model.default_prompt_name]}
