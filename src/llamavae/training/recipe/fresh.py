"""Settings of the backbones that are trained from scratch."""

from __future__ import annotations

from pydantic import Field

from llamavae.training.recipe.section import Section


class ScratchEncoder(Section):
    """Small randomly initialised T5 encoder, with a tokenizer trained on the corpus."""

    hidden_size: int = Field(default=128, ge=8)
    """Hidden size of the encoder, which is also the size of the sentence vector."""
    layers: int = Field(default=2, ge=1)
    """Number of layers."""
    heads: int = Field(default=4, ge=1)
    """Number of attention heads; must divide the hidden size."""
    ffn: int = Field(default=256, ge=8)
    """Hidden size of the feed-forward layers."""
    vocabulary: int = Field(default=1024, ge=64)
    """Maximum vocabulary size of the tokenizer."""


class ScratchDecoder(Section):
    """Small randomly initialised LLaMA decoder, pretrained as a language model."""

    hidden_size: int = Field(default=128, ge=8)
    """Hidden size of the decoder."""
    layers: int = Field(default=3, ge=1)
    """Number of layers."""
    heads: int = Field(default=4, ge=1)
    """Number of attention heads; must divide the hidden size."""
    kv_heads: int = Field(default=2, ge=1)
    """Number of key/value heads; must divide the number of attention heads."""
    ffn: int = Field(default=256, ge=8)
    """Hidden size of the feed-forward layers."""
    vocabulary: int = Field(default=1024, ge=64)
    """Maximum vocabulary size of the tokenizer."""
    warmup_steps: int = Field(default=1000, ge=0)
    """Steps of unconditional language modelling before the VAE is trained; 0 for none."""
    warmup_batch_size: int = Field(default=64, ge=1)
    """Batch size of the language model warm-up."""
    warmup_learning_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the language model warm-up (linear warm-up, cosine decay)."""


class LSTMBackbone(Section):
    """LSTM encoder or decoder with a word tokenizer; its sizes are those of arXiv 1905.12777."""

    embedding_size: int = Field(default=512, ge=1)
    """Size of a word embedding."""
    hidden_size: int = Field(default=1024, ge=1)
    """Size of an LSTM state; the encoder has one in each direction."""
    layers: int = Field(default=1, ge=1)
    """Number of layers."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout of the decoder's word embeddings and outputs; the encoder has none."""
    vocabulary: int = Field(default=10_000, ge=8)
    """Maximum vocabulary size: the most frequent words of the corpus; others are unknown words."""
    min_count: int = Field(default=2, ge=1)
    """Minimum number of occurrences of a word in the vocabulary."""
