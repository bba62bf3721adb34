"""The encoder half of a VAE as a `SentenceTransformer`, whose vectors are the posterior means."""

from __future__ import annotations

import json
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Module
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from llamavae.modeling.posterior import Posterior
from llamavae.modeling.sentence_transformer import SentenceTransformerEncoder
from llamavae.modeling.transformers_encoder import AttentionPooling, TransformersEncoder

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


class AttentionPoolingModule(Module):
    """`AttentionPooling` as a module of sentence-transformers.

    Args:
        hidden: Size H of a token state.
        heads: Number K of queries.
    """

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.hidden, self.heads = hidden, heads
        self.pooling = AttentionPooling(hidden, heads)

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add the `sentence_embedding` (B, K * H) of `token_embeddings` (B, T, H)."""
        states, mask = features["token_embeddings"], features["attention_mask"]
        return {**features, "sentence_embedding": self.pooling(states, mask)}

    def get_sentence_embedding_dimension(self) -> int:
        """Size K * H of a vector."""
        return self.hidden * self.heads

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the settings and the weights."""
        folder = Path(output_path)
        settings = {"hidden": self.hidden, "heads": self.heads}
        (folder / _CONFIG).write_text(json.dumps(settings), encoding="utf-8")
        save_file(self.pooling.state_dict(), folder / _WEIGHTS)

    @classmethod
    def load(  # pyright: ignore[reportIncompatibleMethodOverride] its options are in `options`
        cls, model_name_or_path: str, subfolder: str = "", **options: Any
    ) -> Any:
        """Load from a folder of a model, or from the hub."""
        hub = {k: v for k, v in options.items() if k in _HUB}
        module = cls(**cls.load_config(model_name_or_path, subfolder, **hub))
        path = cls.load_file_path(model_name_or_path, _WEIGHTS, subfolder, **hub)
        module.pooling.load_state_dict(load_file(str(path)))
        return module


_HUB = ("token", "cache_folder", "revision", "local_files_only")


def sentence_transformer(
    encoder: TransformersEncoder | SentenceTransformerEncoder, posterior: Posterior
) -> SentenceTransformer:
    """A copy of an encoder and of the map to the posterior mean, as a `SentenceTransformer`.

    Args:
        encoder: The sentence encoder. LoRA matrices are merged into its weights.
        posterior: The map from sentence vectors to the posterior; only the mean is kept.
    """
    if isinstance(encoder, SentenceTransformerEncoder):
        modules: list[Any] = [_merged(part) for part in encoder.model]
        prompts: Any = dict(encoder.model.prompts)
        default = encoder.model.default_prompt_name
    else:
        modules, prompts, default = _modules(encoder), None, None
    for part in modules:
        if isinstance(part, Transformer):  # names of special tokens are text, also once loaded
            tokenizer: Any = part.tokenizer
            tokenizer.split_special_tokens = True
            tokenizer.init_kwargs["split_special_tokens"] = True
    return SentenceTransformer(
        modules=[*modules, _mean(posterior)], prompts=prompts, default_prompt_name=default
    ).eval()


def _modules(encoder: TransformersEncoder) -> list[Any]:
    """The backbone and the pooling."""
    with tempfile.TemporaryDirectory() as folder:
        _merged(encoder.model).save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)
        transformer = Transformer(folder)
    transformer.max_seq_length = encoder.max_tokens
    hidden = encoder.model.config.hidden_size
    if encoder.attention is not None:
        attention = AttentionPoolingModule(hidden, len(encoder.attention.query))
        attention.pooling.load_state_dict(encoder.attention.state_dict())
        return [transformer, attention]
    mode: Any = "lasttoken" if encoder.pooling == "last" else encoder.pooling
    return [transformer, Pooling(hidden, pooling_mode=mode)]


def _merged(model: Any) -> Any:
    """A copy of a module in float32, with LoRA matrices merged into the weights."""
    copy = deepcopy(model).float()
    if not any("lora_" in name for name, _ in copy.named_parameters()):
        return copy
    from peft.tuners.lora import LoraLayer  # slow import

    for name, layer in list(copy.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent, _, own = name.rpartition(".")
            setattr(copy.get_submodule(parent), own, layer.get_base_layer())
    return copy


@torch.no_grad()
def _mean(posterior: Posterior) -> Dense:
    """The linear map from h to the posterior mean."""
    linear = posterior.linear
    size = linear.out_features // 2
    weight, bias = linear.weight[:size].float(), linear.bias[:size].float()
    if posterior.standardise:
        weight = weight / posterior.features_std
        bias = bias - weight @ posterior.features_mean
    dense = Dense(linear.in_features, size, bias=True, activation_function=None)
    dense.linear.weight.copy_(weight)
    dense.linear.bias.copy_(bias)
    return dense
