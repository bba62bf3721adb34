"""Loading sentence encoders of either kind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
)

from llamavae.errors import UserError
from llamavae.modeling.encoder import SentenceEncoder, TransformersEncoder
from llamavae.modeling.names import Pooling
from llamavae.pretrained import resolve
from llamavae.pretrained.loading import hub_errors, load_whole

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def load_sentence_encoder(
    source: str | os.PathLike[str] | SentenceTransformer,
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
    """Load from a folder, a name that `llamavae models` lists, or a hub id.

    With `pooling` the source is loaded by transformers; without it by sentence-transformers,
    whose import takes seconds.

    Args:
        source: A sentence-transformers model, or any transformers encoder (of an
            encoder-decoder such as T5, the encoder half); or a `SentenceTransformer`.
        revision: Branch, tag or commit of the hub repository.
        pooling: Pooling of token vectors: `cls`, `mean`, `last`, or `attention`, which is
            trained. None keeps the modules of the model; a plain transformers encoder then uses
            `mean`.
        max_tokens: Maximum number of tokens per sentence; None keeps the limit of the model, or
            with `pooling` that of its tokenizer.
        dtype: Type of the weights; None keeps that of the checkpoint.
        token: Access token for the hub.
        cache_dir: Cache folder for hub files.
        local_files_only: Never contact the hub.
        **options: `training` (see `SentenceEncoder`), `lora_rank`, `lora_alpha`, and for
            `attention` pooling `pooling_heads`.

    Raises:
        UserError: The model cannot be found, read or reached.
    """
    if isinstance(source, str | os.PathLike):
        source = resolve(source)
    hub = {
        "revision": revision,
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
    }
    weights: dict[str, Any] = {"dtype": dtype} if dtype else {}
    if pooling is not None and isinstance(source, str | os.PathLike):
        with hub_errors("sentence encoder", str(source)):
            config = AutoConfig.from_pretrained(source, **hub)
            text = type(config) in AutoModelForTextEncoding._model_mapping
            if config.is_encoder_decoder and not text:
                raise UserError(
                    f"transformers cannot load the encoder of {source}, a {config.model_type}, "
                    "without its decoder. Use an encoder, or an encoder-decoder such as T5"
                )
            kind = AutoModelForTextEncoding if text else AutoModel
            model = load_whole(kind, source, config=config, **hub, **weights)
            tokenizer = AutoTokenizer.from_pretrained(source, **hub)
        encoder = TransformersEncoder(model, tokenizer, pooling, **options)
    else:
        # its import takes seconds
        from llamavae.modeling.sentence_transformer import SentenceTransformerEncoder, read

        if isinstance(source, str | os.PathLike):
            with hub_errors("sentence encoder", str(source)):
                source = read(str(source), hub, weights)
        encoder = SentenceTransformerEncoder(source, **options)
    if max_tokens is not None:
        encoder.max_tokens = max_tokens
    return encoder
