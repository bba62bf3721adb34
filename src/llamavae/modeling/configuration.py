"""Configuration of a LlaMaVAE: all settings needed to rebuild it from a checkpoint."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import field
from typing import Any, Self, get_type_hints

import torch
from transformers import PreTrainedConfig

from llamavae.errors import UserError, check_types
from llamavae.modeling.names import DecoderTraining, EncoderTraining, InjectionName, Pooling

FORMAT_VERSION = 1
_LARGEST = 10**9  # limit of sizes, above any that fits in memory


class LlaMaVAEConfig(PreTrainedConfig):
    """Configuration of a `LlaMaVAE`.

    Attributes:
        latent_dim: Size D of z.
        injection: How z steers the decoder: `memory`, `soft_prompt`, `add`, `memory+add` or
            `memory+soft_prompt`.
        slots: Number M of memory slots or prompt embeddings.
        injection_hidden: Width of the hidden layer of the map from z; 0 makes it linear.
        tied_kv: Use one vector as both key and value of a memory slot, as Optimus does.
        scaled_memory: Whether memory is scaled to the magnitude of the decoder's own keys and
            values, by scales saved in the checkpoint (see `MemoryInjection.calibrate`).
        max_tokens: Maximum number of decoder tokens per sentence, including the end-of-sentence
            token.
        encoder_name_or_path: Hub id or folder of the sentence encoder, or its name in the
            catalogue; None if the model reads precomputed sentence vectors, or if its encoder was
            passed as an object. A checkpoint that embeds a local encoder names its own folder here,
            `encoder`.
        encoder_revision: Commit of the hub repository.
        encoder_hash: Hash of a sample of the encoder's frozen weights; read from it.
        encoder_dim: Size H_enc of the sentence vector.
        encoder_pooling: Pooling rule for a plain transformers encoder (`cls`, `mean`, `last`,
            `attention`); None uses the modules of the sentence-transformers model.
        pooling_heads: Number K of learned queries of `attention` pooling.
        encoder_max_tokens: Maximum number of encoder tokens per sentence; None keeps the limit of
            the encoder.
        encoder_training: Trainable weights of the encoder: none (`frozen`), LoRA matrices (`lora`)
            or all (`full`).
        standardise: Whether sentence vectors are standardised before the posterior's linear map,
            by statistics saved in the checkpoint (see `LlaMaVAE.fit_statistics`).
        initial_std: Standard deviation of q(z|x) before training; None for about 1.
        decoder_name_or_path: Hub id, folder or GGUF file of the decoder, or its name in the
            catalogue; None if it was passed as an object. A checkpoint that embeds a local decoder
            names its own folder here, `decoder`.
        decoder_revision: Commit of the hub repository.
        decoder_fingerprint: SHA-256 of the decoder's GGUF file; read from it.
        decoder_hash: Hash of a sample of the decoder's frozen weights; read from it.
        decoder_dtype: Type of the decoder's weights, such as `float32`; read from the decoder.
        decoder_training: Trainable weights of the decoder: none (`frozen`), token embeddings and LM
            head (`heads`), these and LoRA matrices (`lora`), or all (`full`).
        lora_rank: Rank of the LoRA matrices.
        lora_alpha: Scale of the LoRA matrices.
        embed_backbones: Whether a saved checkpoint contains encoder and decoder, instead of
            references to them.
        attention_shapes: (G, C, C_v) of each decoder layer; read from the decoder.
        bos_token_id: Token before each sentence; read from the decoder's tokenizer.
        eos_token_id: Token after each sentence; read from the decoder's tokenizer.
        pad_token_id: Padding token; never attended to and never in the loss.
    """

    model_type = "llamavae"

    latent_dim: int = 128
    injection: InjectionName = "memory"
    slots: int = 1
    injection_hidden: int = 256
    tied_kv: bool = False
    scaled_memory: bool = False
    max_tokens: int = 64
    encoder_name_or_path: str | None = None
    encoder_revision: str | None = None
    encoder_hash: str | None = None
    encoder_dim: int = 0
    encoder_pooling: Pooling | None = None
    pooling_heads: int = 8
    encoder_max_tokens: int | None = None
    encoder_training: EncoderTraining = "frozen"
    standardise: bool = False
    initial_std: float | None = None
    decoder_name_or_path: str | None = None
    decoder_revision: str | None = None
    decoder_fingerprint: str | None = None
    decoder_hash: str | None = None
    decoder_dtype: str | None = None
    decoder_training: DecoderTraining = "frozen"
    lora_rank: int = 16
    lora_alpha: int = 32
    embed_backbones: bool = False
    attention_shapes: list[list[int]] = field(default_factory=list)
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        if self.attention_shapes is None:  # as a config of another injection is saved
            self.attention_shapes = []
        check_types(vars(self), _TYPES)
        if self.format_version > FORMAT_VERSION:
            raise UserError(
                f"this checkpoint has format {self.format_version}; this version of llamavae reads "
                f"up to {FORMAT_VERSION}. Upgrade llamavae"
            )
        for name, least in (
            ("latent_dim", 1),
            ("slots", 1),
            ("injection_hidden", 0),
            ("max_tokens", 2),
            ("lora_rank", 1),
            ("pooling_heads", 1),
            ("lora_alpha", 1),
            ("encoder_dim", 0),
            ("encoder_max_tokens", 1),
            ("format_version", 1),
        ):
            size = getattr(self, name)
            if size is not None and not least <= size <= _LARGEST:
                limit = f"at least {least}" if size < least else f"at most {_LARGEST:,}"
                raise UserError(f"{name} must be {limit}; got {size}")
        dtype = self.decoder_dtype
        if dtype is not None and not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise UserError(f"decoder_dtype must be a type such as 'float32'; got {dtype!r:.40}")
        if self.initial_std is not None and not self.initial_std > 0:
            raise UserError(f"initial_std must be above 0; got {self.initial_std}")
        super().__post_init__(**kwargs)

    def changed(self, **settings: Any) -> Self:
        """A copy with other values of some settings."""
        copy = deepcopy(self)
        for name, value in settings.items():
            setattr(copy, name, value)
        return copy


class _Own:
    """The annotations of the settings, without those of transformers."""

    __annotations__ = LlaMaVAEConfig.__annotations__


_TYPES = get_type_hints(_Own)

SETTINGS = frozenset(n for n in LlaMaVAEConfig.__annotations__ if not n.endswith("_token_id"))
"""Names of the settings of this library, without those that transformers adds."""
