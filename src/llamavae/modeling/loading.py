"""Loading encoders and decoders: from a folder, a file, the catalogue or the hub."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import llamavae.modeling.lstm  # noqa: F401 (registers its models with transformers)
from llamavae.errors import UserError
from llamavae.manifest import sha256
from llamavae.modeling.backbones import frozen_hash
from llamavae.modeling.configuration import LlaMaVAEConfig
from llamavae.modeling.decoder import TextDecoder
from llamavae.modeling.encoder import SentenceEncoder
from llamavae.modeling.names import Pooling
from llamavae.modeling.transformers_encoder import TransformersEncoder
from llamavae.pretrained import CATALOGUE, resolve
from llamavae.pretrained.loading import (
    check_placement,
    emulates_bfloat16,
    hub_errors,
    is_gguf,
    load_tokenizer,
    load_whole,
    model_folder,
)

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Source = str | os.PathLike[str]

logger = logging.getLogger(__name__)


def load_sentence_encoder(
    source: Source | SentenceTransformer,
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
    check_placement(dtype)
    if isinstance(source, str | os.PathLike):
        source = resolve(source)
    hub: dict[str, Any] = {
        "revision": revision,
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
    }
    weights: dict[str, Any] = {"dtype": dtype} if dtype else {}
    if pooling is not None and isinstance(source, str):
        with hub_errors("sentence encoder", source):
            folder = model_folder(source, **hub)
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            text = type(config) in AutoModelForTextEncoding._model_mapping
            if config.is_encoder_decoder and not text:
                raise UserError(
                    f"transformers cannot load the encoder of {source}, a {config.model_type}, "
                    "without its decoder. Use an encoder, or an encoder-decoder such as T5"
                )
            kind = AutoModelForTextEncoding if text else AutoModel
            model = load_whole(kind, folder, config=config, **weights)
            tokenizer = load_tokenizer(folder)
        encoder = TransformersEncoder(model, tokenizer, pooling, **options)
    else:
        from sentence_transformers import SentenceTransformer  # slow import

        from llamavae.modeling.sentence_transformer import SentenceTransformerEncoder

        if isinstance(source, str):
            with hub_errors("sentence encoder", source):
                source = SentenceTransformer(
                    model_folder(source, **hub),
                    device="cpu",
                    local_files_only=True,
                    trust_remote_code=False,
                    model_kwargs={"use_safetensors": True, **weights},
                )
        encoder = SentenceTransformerEncoder(source, **options)
    if max_tokens is not None:
        encoder.max_tokens = max_tokens
    return encoder


def absolute(source: Source) -> str:
    """The absolute path of a folder or a GGUF file; a name or hub id is returned unchanged."""
    here = Path(source).is_dir() or (is_gguf(source) and Path(source).is_file())
    return str(Path(source).absolute()) if here else os.fspath(source)


def load_backbones(
    config: LlaMaVAEConfig,
    encoder: Source | SentenceTransformer | None,
    decoder: Source | PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    hub: Mapping[str, Any] | None = None,
    **decoder_options: Any,
) -> tuple[LlaMaVAEConfig, TextDecoder, SentenceEncoder | None]:
    """The decoder and the encoder that `config` describes, and the config with their identity.

    Args:
        config: The settings; not changed.
        encoder: Where the encoder is loaded from; None for precomputed sentence vectors.
        decoder: Where the decoder is loaded from.
        tokenizer: Tokenizer of a decoder that is passed as an object.
        hub: `token`, `cache_dir` and `local_files_only`.
        **decoder_options: Arguments of `AutoModelForCausalLM.from_pretrained`.

    Returns:
        The config with revisions, dtype, fingerprint and hashes of the loaded files, the decoder,
        and the encoder.

    Raises:
        UserError: A backbone cannot be loaded.
    """
    hub = hub or {}
    text_decoder, of_decoder = _load_decoder(config, decoder, tokenizer, **hub, **decoder_options)
    sentence_encoder, of_encoder = _load_encoder(config, encoder, **hub)
    found = of_decoder | of_encoder | {"decoder_hash": frozen_hash(text_decoder.lm)}
    if sentence_encoder is not None:
        found["encoder_hash"] = frozen_hash(sentence_encoder.model)
    return config.changed(**found), text_decoder, sentence_encoder


def _load_encoder(
    config: LlaMaVAEConfig, source: Source | SentenceTransformer | None, **hub: Any
) -> tuple[SentenceEncoder | None, dict[str, Any]]:
    """The encoder, and the settings that say which files it was loaded from."""
    if source is None:
        return None, {}
    options: dict[str, Any] = {
        "training": config.encoder_training,
        "lora_rank": config.lora_rank,
        "lora_alpha": config.lora_alpha,
    }
    if not isinstance(source, str | os.PathLike):
        limit = config.encoder_max_tokens
        return load_sentence_encoder(source, max_tokens=limit, **options), {}
    if config.encoder_pooling == "attention":
        options["pooling_heads"] = config.pooling_heads
    revision = _revision(config, "encoder", source)
    encoder = load_sentence_encoder(
        os.fspath(source),
        revision=revision,
        pooling=config.encoder_pooling,
        max_tokens=config.encoder_max_tokens,
        **hub,
        **options,
    )
    return encoder, {"encoder_revision": _commit(source, revision, hub.get("cache_dir"))}


def _load_decoder(
    config: LlaMaVAEConfig,
    source: Source | PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    **options: Any,
) -> tuple[TextDecoder, dict[str, Any]]:
    """The decoder, and the settings that say which files it was loaded from."""
    settings: dict[str, Any] = {
        "max_tokens": config.max_tokens,
        "training": config.decoder_training,
        "lora_rank": config.lora_rank,
        "lora_alpha": config.lora_alpha,
    }
    if isinstance(source, PreTrainedModel):
        if tokenizer is None:
            raise UserError("a decoder passed as an object needs its tokenizer: tokenizer=...")
        return TextDecoder(source, tokenizer, **settings), {}
    if source is None:
        raise UserError(
            "this checkpoint names no decoder. Pass one: from_pretrained(..., decoder=...)"
        )
    revision = _revision(config, "decoder", source)
    stored = config.decoder_dtype
    if stored == "bfloat16" and "dtype" not in options and emulates_bfloat16():
        logger.info("this CPU has no bfloat16 instructions: the decoder is loaded in float32")
        stored = "float32"
    if stored is not None:
        options.setdefault("dtype", stored)
    file = _checked_fingerprint(config, Path(resolve(source)))
    decoder = TextDecoder.load(source, revision=revision, **settings, **options)
    return decoder, {
        "decoder_revision": _commit(source, revision, options.get("cache_dir")),
        "decoder_dtype": str(decoder.lm.dtype).removeprefix("torch."),
        "decoder_fingerprint": file,
    }


def _revision(config: LlaMaVAEConfig, which: str, source: Source) -> str | None:
    """The recorded commit, if `source` is the one it was recorded for."""
    named = getattr(config, f"{which}_name_or_path") == os.fspath(source)
    return getattr(config, f"{which}_revision") if named else None


def _commit(source: Source, revision: str | None, cache_dir: str | None) -> str | None:
    """The commit of a hub id in the cache; `revision` for any other source."""
    source = os.fspath(source)
    if source not in CATALOGUE and not Path(source).exists():
        for name in ("modules.json", "config.json"):
            path = try_to_load_from_cache(source, name, cache_dir=cache_dir, revision=revision)
            if isinstance(path, str):
                return Path(path).parent.name
    return revision


def _checked_fingerprint(config: LlaMaVAEConfig, place: Path) -> str | None:
    """The SHA-256 of a decoder's GGUF file; for any other decoder, the recorded one.

    Raises:
        UserError: The file is not the recorded one.
    """
    if not (is_gguf(place) and place.is_file()):
        return config.decoder_fingerprint
    found = sha256(place)
    if config.decoder_fingerprint not in (None, found):
        raise UserError(
            f"this model was trained with a decoder whose file has SHA-256 "
            f"{config.decoder_fingerprint}; {place} has {found}. Use the original file, or, to use "
            "this one anyway, pass it: from_pretrained(..., decoder=FILE)"
        )
    return found
