"""Sizes of a backbone, as its `config.json` names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llamavae.errors import UserError

_LLAMA = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
_NAMES = {  # own name -> names in the configs of several architectures
    "vocabulary": ("vocab_size",),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "ffn": ("intermediate_size", "n_inner", "d_ff"),
}
SUPPORTED = (*_LLAMA, "gpt2", "bert", "t5", "llamavae_lstm")
"""Values of `model_type` that can be planned."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a backbone.

    Attributes:
        type: `model_type` of its config.
        vocabulary: Number V of tokens.
        hidden: Hidden size H.
        layers: Number of layers.
        heads: Number of attention heads.
        kv_heads: Number of heads of keys and values.
        head_size: Size C of a head.
        ffn: Hidden size of the feed-forward layers.
        tied: Whether token embeddings and LM head are one matrix.
        positions: Number of learned positions; 0 for none.
        embedding: Size of a token embedding.
        attention_bias: Whether the maps to queries, keys and values have biases.
        output_bias: Whether the map of the attention's output has a bias.
        mlp_bias: Whether the feed-forward layers have biases.
        gated: Whether the feed-forward layers are gated.
        window: Number of tokens that a layer with a sliding window sees; 0 for all.
        dropout: Dropout of its layers.
    """

    type: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    tied: bool = False
    positions: int = 0
    embedding: int = 0
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    gated: bool = True
    window: int = 0
    dropout: float = 0.0

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str) -> Sizes:
        """The sizes in a `config.json`.

        Args:
            config: Its values; those of a model of images and text are in its `text_config`.
            where: What it is the config of, for messages.

        Raises:
            UserError: The architecture is not supported, or a size is missing.
        """
        config = config.get("text_config") or config
        kind = config.get("model_type")
        if kind not in SUPPORTED:
            raise UserError(
                f"{where} is a model of type {kind!r:.40}, whose memory cannot be planned. "
                f"Supported: {', '.join(SUPPORTED)}"
            )
        if kind == "llamavae_lstm":
            return _lstm(config, where)
        found: dict[str, Any] = {
            own: _value(config, names, own, where) for own, names in _NAMES.items()
        }
        heads, hidden = found["heads"], found["hidden"]
        size = config.get("head_dim") or config.get("d_kv") or hidden // heads
        bias = kind in ("gpt2", "bert")
        return cls(
            type=kind,
            **found,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_size=size,
            tied=bool(config.get("tie_word_embeddings", kind in ("gemma3_text", "gpt2"))),
            positions=_positions(config) if bias else 0,
            embedding=hidden,
            attention_bias=bool(config.get("attention_bias", bias or kind == "qwen2")),
            output_bias=bool(config.get("attention_bias", bias)),
            mlp_bias=bool(config.get("mlp_bias", bias)),
            gated=kind in _LLAMA or str(config.get("feed_forward_proj", "")).startswith("gated"),
            window=_window(config, kind),
            dropout=float(config.get("resid_pdrop", 0.1)) if kind == "gpt2" else 0.0,
        )


def _lstm(config: Mapping[str, Any], where: str) -> Sizes:
    names = {
        "vocabulary": "vocab_size",
        "hidden": "hidden_size",
        "layers": "num_hidden_layers",
        "embedding": "embedding_size",
    }
    found: dict[str, Any] = {
        own: _value(config, (name,), own, where) for own, name in names.items()
    }
    drop = float(config.get("dropout", 0))
    return Sizes("llamavae_lstm", heads=0, kv_heads=0, head_size=0, ffn=0, dropout=drop, **found)


def _value(config: Mapping[str, Any], names: tuple[str, ...], own: str, where: str) -> int:
    value = next((config[name] for name in names if config.get(name) is not None), None)
    if value is None and own == "ffn" and config.get("model_type") == "gpt2":
        return 4 * _value(config, _NAMES["hidden"], "hidden", where)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"the config of {where} has no {' or '.join(names)}, or not a number")
    return value


def _positions(config: Mapping[str, Any]) -> int:
    default = 512 if config.get("model_type") == "bert" else 1024
    return int(config.get("n_positions") or config.get("max_position_embeddings") or default)


def _window(config: Mapping[str, Any], kind: str) -> int:
    if kind in ("qwen2", "qwen3") and not config.get("use_sliding_window"):
        return 0
    return int(config.get("sliding_window") or 0)
