"""What the cases work on: models of a given shape with random weights, and real sentences."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from llamavae.corpora import load_corpus
from llamavae.errors import unknown
from llamavae.modeling import LlaMaVAE, LlaMaVAEConfig

BERT_TOKENS = 128  # most tokens that the sentence encoder reads

Mark = Callable[[str], None]  # told the name of each part of a run when the part is done
Run = Callable[[Mark], None]


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder of the LLaMA family and of a sentence encoder of the BERT family."""

    decoder: dict[str, Any]
    encoder: dict[str, Any]


def _sizes(hidden: int, layers: int, heads: int, ffn: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        **more,
    }


_MINILM = _sizes(384, 6, 12, 1536)

SHAPES = {
    "tiny": Shape(
        _sizes(64, 2, 4, 128, num_key_value_heads=2, vocab_size=512, tie_word_embeddings=True),
        _sizes(32, 2, 2, 64),
    ),
    "mini": Shape(
        _sizes(192, 4, 6, 512, num_key_value_heads=3, vocab_size=4096, tie_word_embeddings=True),
        _sizes(192, 2, 6, 512),
    ),
    "smollm2-135m": Shape(
        _sizes(576, 30, 9, 1536, num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True),
        _MINILM,
    ),
    "smollm2-1.7b": Shape(
        _sizes(
            2048, 24, 32, 8192, num_key_value_heads=32, vocab_size=49152, tie_word_embeddings=True
        ),
        _MINILM,
    ),
    "llama-2-7b": Shape(
        _sizes(4096, 32, 32, 11008, num_key_value_heads=32, vocab_size=32000), _MINILM
    ),
}


@dataclass(frozen=True)
class Settings:
    """What a run measures, and on what."""

    shape: str = "smollm2-135m"
    batch: int = 32
    tokens: int = 32
    sentences: int = 2000
    lines: int = 256
    corpus: str = "wordnet"
    points: int = 100_000
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    clock: str = "wall"
    seed: int = 0


class Bench:
    """Builds the models and the data of one run; every model of a shape has the same weights."""

    def __init__(self, settings: Settings) -> None:
        if settings.shape not in SHAPES:
            raise unknown("shape", settings.shape, SHAPES)
        self.settings = settings
        self.shape = SHAPES[settings.shape]
        self.device = torch.device(settings.device)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)

    def decoder(self) -> LlamaForCausalLM:
        """A causal language model with random weights."""
        config = LlamaConfig(**self.shape.decoder, bos_token_id=1, eos_token_id=2, pad_token_id=0)
        torch.manual_seed(self.settings.seed)
        with torch.device(self.device):
            lm = LlamaForCausalLM(config)
        return lm.to(getattr(torch, self.settings.dtype)).eval()

    def encoder(self) -> SentenceTransformer:
        """A sentence encoder with random weights and mean pooling."""
        config = BertConfig(
            **self.shape.encoder,
            vocab_size=self.shape.decoder["vocab_size"],
            max_position_embeddings=BERT_TOKENS,
            pad_token_id=0,
        )
        torch.manual_seed(self.settings.seed)
        with tempfile.TemporaryDirectory() as folder:
            BertModel(config).save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            body = Transformer(folder)
        body.max_seq_length = BERT_TOKENS
        head = Pooling(body.get_embedding_dimension(), "mean")
        return SentenceTransformer(modules=[body, head], device=self.settings.device)

    def model(self, encoder: SentenceTransformer | None = None) -> LlaMaVAE:
        """The VAE with memory injection; only the decoder's embeddings and head train in it."""
        settings = {} if encoder else {"encoder_dim": self.encoder_dim}
        model = LlaMaVAE.from_backbones(
            encoder,
            self.decoder(),
            tokenizer=self.tokenizer if encoder else plain_tokenizer(),
            max_tokens=self.settings.tokens,
            **settings,
        )
        return model.to(self.device)

    @property
    def encoder_dim(self) -> int:
        return self.shape.encoder["hidden_size"]

    @property
    def latent_dim(self) -> int:
        return LlaMaVAEConfig().latent_dim

    @property
    def vocabulary(self) -> int:
        return self.shape.decoder["vocab_size"]

    @cached_property
    def texts(self) -> list[str]:
        """Real sentences, a random choice."""
        return self._sentences(self.settings.sentences)

    @cached_property
    def lines(self) -> list[str]:
        """The real sentences that are encoded, a random choice."""
        return self._sentences(self.settings.lines)

    def _sentences(self, count: int) -> list[str]:
        rows = load_corpus(self.settings.corpus, limit=count, seed=self.settings.seed)
        return list(rows["text"])

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Byte-pair encoding trained on the whole corpus, as large as the decoder's vocabulary."""
        return plain_tokenizer(load_corpus(self.settings.corpus)["text"], self.vocabulary)

    def ids(self, rows: int, tokens: int) -> torch.Tensor:
        """Random token ids (rows, tokens) without special tokens."""
        return torch.randint(3, self.vocabulary, (rows, tokens), device=self.device)

    def synchronise(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def plain_tokenizer(texts: Any = (), size: int = 259) -> PreTrainedTokenizerFast:
    """Byte-level BPE with at most `size` tokens, trained on `texts`; bytes alone without texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
