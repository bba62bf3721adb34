"""Backbones from scratch: a T5 or LSTM encoder, a LLaMA or LSTM decoder, each with a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from accelerate.utils import set_seed
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from llamavae.errors import UserError
from llamavae.files import replacing_folder
from llamavae.modeling import TransformersEncoder
from llamavae.modeling.lstm import LSTMConfig, LSTMDecoder, LSTMEncoder
from llamavae.modeling.tokenizing import TokenPolicy
from llamavae.training.recipe import LSTMBackbone, ScratchDecoder, ScratchEncoder
from llamavae.training.words import train_word_tokenizer

_POSITIONS = 512  # longest text the scratch decoder has positions for


def _train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `vocabulary` entries, so that no text is unknown.

    Sennrich et al., arXiv 1508.07909, over bytes as in GPT-2.
    """
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(special.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, model_max_length=_POSITIONS, **special)


def make_backbones(
    encoder: ScratchEncoder | LSTMBackbone | None,
    decoder: ScratchDecoder | LSTMBackbone | None,
    texts: Iterable[str],
    seed: int,
    folder: Path,
) -> None:
    """Create the backbones that are trained from scratch in `folder`, unless they exist."""
    texts = list(texts)
    if encoder and not (folder / "encoder").is_dir():
        set_seed(seed)
        with replacing_folder(folder / "encoder") as new:
            if isinstance(encoder, LSTMBackbone):
                _make_lstm_encoder(encoder, texts, new)
            else:
                _make_encoder(encoder, texts, new)
    if decoder and not (folder / "decoder").is_dir():
        set_seed(seed)
        with replacing_folder(folder / "decoder") as new:
            if isinstance(decoder, LSTMBackbone):
                _make_lstm_decoder(decoder, texts, new)
            else:
                _make_decoder(decoder, texts, new)


def _make_encoder(settings: ScratchEncoder, texts: Sequence[str], folder: Path) -> None:
    """Write a fresh T5 encoder and its tokenizer to `folder`, to be used with mean pooling."""
    _divides("encoder.scratch", "heads", settings.heads, "hidden_size", settings.hidden_size)
    tokenizer = _train_tokenizer(texts, settings.vocabulary)
    tokens = TokenPolicy.of(tokenizer)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=settings.hidden_size,
        d_kv=settings.hidden_size // settings.heads,
        d_ff=settings.ffn,
        num_layers=settings.layers,
        num_heads=settings.heads,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=tokens.pad,
        eos_token_id=tokens.eos,
    )
    TransformersEncoder(T5EncoderModel(config), tokenizer).save(folder)


def _make_decoder(settings: ScratchDecoder, texts: Sequence[str], folder: Path) -> None:
    """Write a fresh LLaMA-type language model and its tokenizer to `folder`."""
    name = "decoder.scratch"
    _divides(name, "heads", settings.heads, "hidden_size", settings.hidden_size)
    _divides(name, "kv_heads", settings.kv_heads, "heads", settings.heads)
    tokenizer = _train_tokenizer(texts, settings.vocabulary)
    tokens = TokenPolicy.of(tokenizer)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.ffn,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokens.bos,
        eos_token_id=tokens.eos,
        pad_token_id=tokens.pad,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_lstm_encoder(settings: LSTMBackbone, texts: Sequence[str], folder: Path) -> None:
    """Write a fresh LSTM encoder and its tokenizer to `folder`, to be used with `last` pooling."""
    tokenizer = train_word_tokenizer(texts, settings.vocabulary, settings.min_count)
    config = _lstm_config(settings, tokenizer, 2 * settings.hidden_size)
    TransformersEncoder(LSTMEncoder(config), tokenizer, "last").save(folder)


def _make_lstm_decoder(settings: LSTMBackbone, texts: Sequence[str], folder: Path) -> None:
    """Write a fresh LSTM language model and its tokenizer to `folder`."""
    tokenizer = train_word_tokenizer(texts, settings.vocabulary, settings.min_count)
    LSTMDecoder(_lstm_config(settings, tokenizer, settings.hidden_size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _lstm_config(
    settings: LSTMBackbone, tokenizer: PreTrainedTokenizerFast, hidden_size: int
) -> LSTMConfig:
    tokens = TokenPolicy.of(tokenizer)
    return LSTMConfig(
        vocab_size=len(tokenizer),
        embedding_size=settings.embedding_size,
        hidden_size=hidden_size,
        num_hidden_layers=settings.layers,
        dropout=settings.dropout,
        bos_token_id=tokens.bos,
        eos_token_id=tokens.eos,
        pad_token_id=tokens.pad,
    )


def _divides(section: str, name: str, part: int, whole_name: str, whole: int) -> None:
    if whole % part:
        raise UserError(f"{section}: {name} {part} does not divide {whole_name} {whole}")
