"""Tiny random backbones for tests, written to disk once and loaded as hub models are.

    tiny.decoder("qwen3")            folder of a causal language model and its tokenizer
    tiny.encoder("bert-mean")        folder of a sentence encoder
    tiny.vae("memory", "llama")      a LlaMaVAE between two of them

Weights are drawn with a large scale, so that every input visibly matters.
"""

from __future__ import annotations

import atexit
import copy
import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from llamavae import InvertibleCVAE, LlaMaVAE
from llamavae.guidance import LabelCondition
from llamavae.manifest import MANIFEST
from llamavae.modeling import TextDecoder
from llamavae.pretrained import bundled

SENTENCES = [
    "a dog is a kind of animal",
    "robots paint",
    "two gardeners water the old lemon tree under the moon",
    "a river is a stream of water",
    "the baker did not sell any bread today",
    "an owl reads letters under the quiet moon",
    "seven trains leave the northern harbour at dawn",
    "a lemon is a sour fruit",
]

LATENT = 6
HIDDEN = 32
LAYERS = 2
VOCAB = 420
_SPECIAL = ["<pad>", "<s>", "</s>", "[CLS]", "[SEP]"]
_ROOT = tempfile.TemporaryDirectory(prefix="llamavae-tiny-")
atexit.register(_ROOT.cleanup)


# ------------------------------------------------------------------------------------ tokenizers


@functools.cache
def _bpe() -> Tokenizer:
    """Byte-level BPE: it can write any text, and knows the words of `SENTENCES`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    return tokenizer


def tokenizer(
    pad: bool = True, bos: bool = True, eos: bool = True, template: str | None = None
) -> hf.PreTrainedTokenizerBase:
    """A fast tokenizer, by choice without pad, bos or eos.

    Args:
        pad: Whether it names a padding token.
        bos: Whether it names a token in front of each text.
        eos: Whether it names a token behind each text.
        template: What it puts around a text by itself, such as `"[CLS] $A [SEP]"`.
    """
    bpe = copy.deepcopy(_bpe())
    if template is not None:
        special = [(t, bpe.token_to_id(t)) for t in _SPECIAL if t in template]
        bpe.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    names = {
        "pad_token": "<pad>" if pad else None,
        "bos_token": "<s>" if bos else None,
        "eos_token": "</s>" if eos else None,
    }
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=bpe, **{k: v for k, v in names.items() if v is not None}
    )


# -------------------------------------------------------------------------------------- decoders


def small(config: type[hf.PreTrainedConfig], **changes: Any) -> hf.PreTrainedConfig:
    """A small config of a class that names its sizes as LLaMA's does."""
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    return config(**settings | changes)


def _gpt2() -> hf.PreTrainedConfig:
    return hf.GPT2Config(
        vocab_size=VOCAB,
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=4,
        n_positions=128,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )


def _opt() -> hf.PreTrainedConfig:
    return hf.OPTConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        word_embed_proj_dim=16,
        ffn_dim=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=128,
        init_std=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


DECODERS: dict[str, Callable[[], hf.PreTrainedConfig]] = {
    "llama": lambda: small(hf.LlamaConfig),
    "llama-grouped": lambda: small(hf.LlamaConfig, num_key_value_heads=2),
    "qwen3": lambda: small(hf.Qwen3Config, num_key_value_heads=2, head_dim=16),
    "mistral": lambda: small(hf.MistralConfig, num_key_value_heads=2, sliding_window=64),
    "mistral-window": lambda: small(hf.MistralConfig, sliding_window=3),
    "gemma": lambda: small(hf.GemmaConfig, num_key_value_heads=1, tie_word_embeddings=True),
    "gemma2": lambda: small(
        hf.Gemma2Config,
        num_key_value_heads=2,
        query_pre_attn_scalar=8,
        sliding_window=64,
        final_logit_softcapping=3.0,
        attn_logit_softcapping=5.0,
        tie_word_embeddings=True,
    ),
    "gemma3": lambda: small(
        hf.Gemma3TextConfig,
        num_key_value_heads=2,
        query_pre_attn_scalar=8,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=True,
    ),
    "gpt2": _gpt2,
    "opt": _opt,
}
"""Families that memory can reach. `gemma2` caps its logits and has no sdpa; `gpt2` drops out."""


def save_decoder(
    config: hf.PreTrainedConfig,
    folder: Path,
    tokens: hf.PreTrainedTokenizerBase | None = None,
    seed: int = 0,
) -> Path:
    """Write a random causal language model of this config, with its tokenizer, to `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = hf.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():  # biases and norms start as 0 and 1: let them matter too
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    (tokens or tokenizer()).save_pretrained(folder)
    return folder


@functools.cache
def decoder(family: str = "llama") -> Path:
    """The folder of a tiny decoder of this family."""
    return save_decoder(DECODERS[family](), Path(_ROOT.name, "decoder", family))


def text_decoder(family: str = "llama", **options: Any) -> TextDecoder:
    """That decoder, loaded; `options` are those of `TextDecoder.load`."""
    return TextDecoder.load(decoder(family), **{"max_tokens": 16, **options})


# -------------------------------------------------------------------------------------- encoders

_POOLING: dict[str, Any] = {"bert-cls": "cls", "bert-mean": "mean", "bert-last": "lasttoken"}


def _bert() -> hf.PreTrainedModel:
    return hf.BertModel(
        hf.BertConfig(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            intermediate_size=48,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
    )


def _t5() -> hf.PreTrainedModel:
    return hf.T5EncoderModel(
        hf.T5Config(
            vocab_size=VOCAB,
            d_model=HIDDEN,
            d_kv=8,
            d_ff=48,
            num_layers=LAYERS,
            num_heads=4,
        )
    )


def _save_plain(model: hf.PreTrainedModel, template: str, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer(template=template).save_pretrained(folder)
    return folder


def _save_pooled(folder: Path, body: Path, *heads: torch.nn.Module) -> Path:
    modules = [Transformer(str(body), max_seq_length=32), *heads]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return folder


@functools.cache
def encoder(kind: str = "bert-mean") -> Path:
    """The folder of a tiny sentence encoder.

    Args:
        kind: `bert` and `t5` are plain transformers encoders; `bert-cls`, `bert-mean` and
            `bert-last` are sentence-transformers models on the first; `sentence-t5` is one on
            the second, with a dense layer and unit vectors.
    """
    folder = Path(_ROOT.name, "encoder", kind)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        match kind:
            case "bert":
                return _save_plain(_bert(), "[CLS] $A [SEP]", folder)
            case "t5":
                return _save_plain(_t5(), "$A </s>", folder)
            case "bert-cls" | "bert-mean" | "bert-last":
                return _save_pooled(folder, encoder("bert"), Pooling(HIDDEN, _POOLING[kind]))
            case "sentence-t5":
                dense = Dense(HIDDEN, 24, bias=False, activation_function=torch.nn.Identity())
                return _save_pooled(folder, encoder("t5"), Pooling(HIDDEN), dense, Normalize())
    raise ValueError(f"no tiny encoder {kind!r}")


# ------------------------------------------------------------------------------------ whole models


def vae(
    injection: str = "memory",
    family: str = "llama",
    sentence_encoder: str | None = "bert-mean",
    **settings: Any,
) -> LlaMaVAE:
    """A LlaMaVAE between two tiny backbones; without encoder it reads vectors of size `HIDDEN`."""
    source = None if sentence_encoder is None else encoder(sentence_encoder)
    if source is None:
        settings.setdefault("encoder_dim", HIDDEN)
    defaults = {"latent_dim": LATENT, "slots": 2, "injection_hidden": 8, "max_tokens": 16}
    return LlaMaVAE.from_backbones(
        source, decoder(family), injection=injection, **{**defaults, **settings}
    )


def unsealed(folder: Path) -> Path:
    """A saved folder without its manifests, so that changed files are not noticed by their hash."""
    for path in folder.rglob(MANIFEST):
        path.unlink()
    return folder


def library(folder: Path, complete: bool) -> Path:
    """A folder in place of the library's own models: `mini`, and a tiny model called `small`.

    Args:
        folder: Where it is made.
        complete: Whether `small` has all it needs, or names a backbone of the catalogue.
    """
    mini = bundled("mini")
    assert mini is not None
    folder.mkdir()
    (folder / "mini").symlink_to(mini)
    vae(embed_backbones=True).save_pretrained(folder / "small")
    (folder / "small" / "README.md").write_text("# small: a tiny model\n", encoding="utf-8")
    if not complete:
        path = unsealed(folder / "small") / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        changes = {"embed_backbones": False, "encoder_name_or_path": "all-minilm-l6-v2"}
        path.write_text(json.dumps(config | changes), encoding="utf-8")
    return folder


def definitions(vae: LlaMaVAE) -> InvertibleCVAE:
    """A model of the definitions of two words, with codes of `vae`."""
    condition = LabelCondition({"word": ["dog", "owl"]})
    model = InvertibleCVAE.build(vae, condition, blocks=2, hidden=(16,))
    model.vocabulary = ["word=dog", "word=owl"]
    return model
