"""The settings of a recipe, their defaults and the checks across settings.

The file is long because it is the one place where every setting is described.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from llamavae.modeling.names import DecoderTraining, EncoderTraining, InjectionName, KLRule, Pooling
from llamavae.training.recipe.fresh import LSTMBackbone, ScratchDecoder, ScratchEncoder
from llamavae.training.recipe.section import Section


class CorpusPart(Section):
    """A corpus of sentences."""

    name: str
    """Named corpus, text/JSONL/CSV file, folder of a dataset, or hub id."""
    path: str | None = None
    """Folder or file of a named corpus that is not in its default location."""
    column: str | None = None
    """Column with the sentences; can be empty if there is only one text column."""
    config: str | None = None
    """Configuration name of a hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of training sentences, chosen at random, or the first ones of a stream."""
    min_words: int | None = Field(default=None, ge=1)
    """Minimum number of words of a sentence; shorter sentences are excluded."""
    max_words: int | None = Field(default=None, ge=1)
    """Maximum number of words of a sentence; longer sentences are excluded."""


class CorpusSettings(CorpusPart):
    """Sentences to train on."""

    name: str = "factors"
    """Named corpus, text/JSONL/CSV file, folder of a dataset, or hub id."""
    streaming: bool = False
    """Read the corpus during training, for a corpus that does not fit in memory or on disk."""
    shuffle_buffer: int = Field(default=10_000, ge=1)
    """Number of sentences of a streamed corpus that are shuffled together in memory."""
    shards: int | None = Field(default=None, ge=1)
    """Number of parts in which a streamed corpus is read; each optimiser step takes as many
    sentences from each, and each process reads its own parts. The run depends on this number, and
    not on the number of processes. Empty means 8, or what the batch size and the corpus allow."""
    cache_vectors: bool = False
    """Keep the outputs of a frozen encoder for a streamed corpus on disk, so that the encoder runs
    in the first pass only."""
    mix: list[CorpusPart] = Field(default=[])
    """Additional corpora to train on, each with its own settings."""


class EncoderSettings(Section):
    """Encoder, from text to sentence vectors.

    Set one of `model`, `scratch`, `lstm` and `vectors`.
    """

    model: str | None = None
    """Hub id or folder of a sentence-transformers model or a transformers encoder."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository."""
    pooling: Pooling | None = None
    """Pooling of token vectors; empty means the model's own. attention is a learned pooling."""
    pooling_heads: int = Field(default=8, ge=1)
    """Number of learned queries of attention pooling."""
    standardise: bool | None = None
    """Standardise each feature of the sentence vectors over the training set; empty means true with
    a frozen decoder and false otherwise."""
    max_tokens: int | None = Field(default=None, ge=2)
    """Maximum number of encoder tokens of a sentence; empty means the encoder's own limit."""
    training: EncoderTraining = "frozen"
    """Trained part of the encoder; the outputs of a frozen encoder are computed once and cached."""
    scratch: ScratchEncoder | None = None
    """Train a small T5 encoder from scratch; requires `training: full`."""
    lstm: LSTMBackbone | None = None
    """Train a bidirectional LSTM from scratch; requires `training: full`."""
    vectors: str | None = None
    """Column of the corpus with precomputed sentence vectors."""

    def sources(self) -> list[str]:
        """Which of `model`, `scratch`, `lstm` and `vectors` are given."""
        return [k for k in ("model", "scratch", "lstm", "vectors") if getattr(self, k) is not None]

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if len(given := self.sources()) > 1:
            raise ValueError(
                f"set one of model, scratch, lstm and vectors, not {' and '.join(given)}"
            )
        if (self.scratch or self.lstm) and self.training != "full":
            raise ValueError("an encoder from scratch must be trained. Set training to full")
        if self.vectors and self.training != "frozen":
            raise ValueError("precomputed vectors cannot be trained. Set training to frozen")
        return self


class DecoderSettings(Section):
    """Decoder, from latent codes z to text.

    Set one of `model`, `scratch` and `lstm`.
    """

    model: str | None = None
    """Hub id or folder of a transformers causal language model."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository."""
    max_tokens: int = Field(default=64, ge=2)
    """Maximum number of tokens of a sentence, including the end-of-sentence token; longer sentences
    are truncated."""
    training: DecoderTraining | None = None
    """Trained part of the decoder: nothing (frozen), token embeddings and LM head (heads), these
    and LoRA matrices in the hidden layers (lora), or all weights (full). Empty means frozen for a
    pretrained decoder, heads for `scratch`, and full for `lstm`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Data type of the frozen weights; trained weights are in float32. `auto` is that of the
    checkpoint, except that a CPU without bfloat16 instructions uses float32."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention implementation."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Quantise the frozen layers of the decoder; requires `pip install llamavae[quant]`."""
    scratch: ScratchDecoder | None = None
    """Train a small LLaMA decoder from scratch."""
    lstm: LSTMBackbone | None = None
    """Train an LSTM from scratch; requires the injection add or soft_prompt."""

    def sources(self) -> list[str]:
        """Which of `model`, `scratch` and `lstm` are given."""
        return [k for k in ("model", "scratch", "lstm") if getattr(self, k) is not None]

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if len(given := self.sources()) > 1:
            raise ValueError(f"set one of model, scratch and lstm, not {' and '.join(given)}")
        if self.lstm and self.training not in (None, "full"):
            raise ValueError("an LSTM must be trained. Set training to full")
        if self.quantization and (self.training == "full" or self.lstm):
            raise ValueError(
                "a quantised decoder cannot be trained in full. Use frozen, heads or lora"
            )
        return self


class LatentSettings(Section):
    """Latent space, and how z is injected into the decoder."""

    dim: int = Field(default=128, ge=1)
    """Dimension D of the latent space."""
    injection: InjectionName = "memory"
    """How z is injected into the decoder."""
    slots: int = Field(default=1, ge=1)
    """Number of memory slots or prompt embeddings."""
    hidden: int = Field(default=256, ge=0)
    """Hidden size of the MLP that z passes through before injection; 0 for a linear map."""
    tied_kv: bool = False
    """Use one vector as both key and value of a memory slot, as Optimus does."""
    scaled_memory: bool | None = None
    """Scale memory to the norms of the decoder's own keys and values in each layer; empty means
    true with a frozen decoder and false otherwise."""
    initial_std: float | None = Field(default=None, gt=0)
    """Standard deviation of the posterior at initialisation. With a large value, such as the
    prior's 1, noise dominates the mean, and a pretrained decoder learns to ignore z. Empty means
    0.05 with a frozen decoder, and about 1 otherwise."""


class LoraSettings(Section):
    """LoRA adapters of an encoder or decoder with `training: lora`."""

    rank: int = Field(default=16, ge=1)
    """Rank of the LoRA matrices."""
    alpha: int = Field(default=32, ge=1)
    """Scaling factor alpha of the LoRA matrices."""


class ObjectiveSettings(Section):
    """Loss: -E log p(x|z) + beta * KL, in nats per sentence."""

    schedule: Literal["constant", "linear", "cyclical", "target_rate"] = "cyclical"
    """Schedule of beta over the run."""
    beta: float = Field(default=1.0, ge=0)
    """Maximum beta."""
    start: float = Field(default=0.0, ge=0, lt=1)
    """linear: fraction of the run before beta increases."""
    ramp: float = Field(default=0.5, gt=0, le=1)
    """Fraction of the run (linear) or of each cycle (cyclical) during which beta increases."""
    zero: float = Field(default=0.0, ge=0, lt=1)
    """cyclical: fraction of each cycle at beta 0, before beta increases (Optimus: 0.5)."""
    cycles: int = Field(default=4, ge=1)
    """cyclical: number of cycles."""
    target_rate: float | None = Field(default=None, gt=0)
    """target_rate: KL in nats per sentence that a controller maintains by adjusting beta."""
    kl_rule: KLRule = "none"
    """Rule that applies a threshold to the KL term."""
    kl_threshold: float = Field(default=0.0, ge=0)
    """Threshold in nats: per sentence for sentence_threshold, per dimension otherwise."""
    word_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the decoder's input tokens that are masked in training."""
    bag_of_words: float = Field(default=0.0, ge=0)
    """Weight of an auxiliary loss that predicts the bag of words of a sentence directly from z;
    speeds up the training of an encoder from scratch."""
    sample: bool = True
    """Decode a draw from the posterior in training, or, with false, its mean: an autoencoder."""
    adversarial: float = Field(default=0.0, ge=0)
    """Weight of an adversarial loss, by which a discriminator moves the distribution of z towards
    N(0, I), as in an adversarial autoencoder."""
    discriminator_hidden: int = Field(default=512, ge=1)
    """Hidden size of that discriminator."""
    logvar_penalty: float = Field(default=0.0, ge=0)
    """Weight of the sum over dimensions of |log variance| of the posterior, which keeps the noise
    of z from vanishing without a KL term."""
    token_deletion: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which each token of the encoder's input is deleted in training, as in a
    denoising autoencoder; requires an encoder that is trained."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.schedule == "target_rate") != (self.target_rate is not None):
            raise ValueError("schedule target_rate and the value target_rate must be set together")
        if (self.kl_rule == "none") != (self.kl_threshold == 0):
            raise ValueError("kl_rule and kl_threshold must be set together")
        if self.schedule == "linear" and self.start + self.ramp > 1:
            raise ValueError("expected start + ramp of at most 1, the whole run")
        if self.schedule == "cyclical" and self.zero + self.ramp > 1:
            raise ValueError("expected zero + ramp of at most 1, a whole cycle")
        if self.logvar_penalty and not self.sample:
            raise ValueError("logvar_penalty has no effect without noise. Set sample to true")
        return self


class TeacherSettings(Section):
    """Sentence encoder to distil similarities from; optional.

    The cosines between posterior means learn to match the cosines between its sentence vectors. It
    is used in training only.
    """

    model: str | None = None
    """Hub id or folder of a sentence-transformers model; empty for no distillation."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of the mean squared difference between the cosines, in nats."""


class OptimisationSettings(Section):
    """Optimiser, batch size and length of the run."""

    epochs: float | None = Field(default=None, gt=0)
    """Number of epochs; 3 if neither epochs nor steps is given."""
    steps: int | None = Field(default=None, ge=1)
    """Number of optimiser steps."""
    batch_size: int = Field(default=32, ge=1)
    """Sentences per optimiser step, over all devices and gradient accumulation."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Sentences per forward pass on one device; empty means the whole batch. The optimiser steps
    are the same, except that kl_rule free_bits then takes the mean over a micro batch."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Maximum number of padded decoder tokens per forward pass on one device, for a streamed
    corpus. A forward pass then has fewer sentences than micro_batch_size if they are long, and each
    sentence keeps its weight in the loss."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of newly initialised weights (AdamW)."""
    posterior_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of the posterior's linear map and of attention pooling; empty means
    learning_rate. A step of AdamW changes z in proportion to this rate and to the size of the
    sentence vector, so sentence vectors of thousands of features need a lower rate."""
    backbone_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of encoder and decoder weights, including LoRA matrices. Empty means 1/20
    of learning_rate for a pretrained encoder.model or decoder.model, and learning_rate for
    backbones from scratch and with start_from."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of AdamW."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of AdamW's average of the gradient; lower values suit an adversarial loss."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps of linear learning rate warm-up."""
    decay: Literal["linear", "cosine", "constant"] = "cosine"
    """Learning rate schedule after the warm-up."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Maximum gradient norm, for gradient clipping."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the backbones in mixed precision; posterior and KL are computed in float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    shard_decoder: bool = False
    """Distribute the frozen layers of the decoder over all processes (FSDP2), so that each keeps a
    part. Requires a launcher such as torchrun; one process keeps them whole."""
    cpu_offload: bool = False
    """With shard_decoder: keep these parts in the memory of the CPU while they are not used."""
    workers: int = Field(default=0, ge=0)
    """Number of data loader processes; 0 loads batches in the main process."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Random seed of the initial weights, data order, noise and word dropout."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("set one of epochs and steps, not both")
        if self.epochs is None and self.steps is None:
            self.epochs = 3
        if self.cpu_offload and not self.shard_decoder:
            raise ValueError("cpu_offload moves the parts of shard_decoder. Set it to true as well")
        micro = self.micro_batch_size
        if micro is not None and self.batch_size % micro:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {micro}"
            )
        return self


class EvaluationSettings(Section):
    """Evaluation on held-out sentences during training."""

    every: int = Field(default=500, ge=1)
    """Steps between evaluations; step 0 and the last step are always evaluated."""
    sentences: int = Field(default=500, ge=2)
    """Number of held-out sentences for NLL, KL, active units and mutual information."""
    decoded: int = Field(default=100, ge=0)
    """Number of these sentences that are decoded greedily for BLEU, with their own z and with
    shuffled z as control."""


class OutputSettings(Section):
    """Results: folder, log and checkpoints."""

    folder: str = "runs/latest"
    """Folder of the run, with checkpoints, log, and the final model in model/."""
    log_every: int = Field(default=20, ge=1)
    """Steps between log entries."""
    save_every: int = Field(default=500, ge=1)
    """Steps between checkpoints, from which the run can be resumed."""
    keep: int = Field(default=2, ge=1)
    """Maximum number of checkpoints to keep."""
    embed_backbones: bool | None = None
    """Save encoder and decoder with the model; empty means only those trained from scratch."""
    prior_sentences: int = Field(default=20_000, ge=0)
    """Maximum number of training sentences to fit the model's default prior to; 0 fits none."""
    report_to: list[Literal["tensorboard", "wandb"]] = Field(default=[])
    """Experiment trackers to log scalars to."""


class Recipe(Section):
    """Settings of a training run."""

    name: str = "custom"
    """Name of the recipe."""
    description: str = ""
    """One-line description of the recipe."""
    start_from: str | None = None
    """Folder or hub id of a trained LlaMaVAE to start from, instead of backbones."""
    corpus: CorpusSettings = CorpusSettings()
    encoder: EncoderSettings = EncoderSettings()
    decoder: DecoderSettings = DecoderSettings()
    latent: LatentSettings = LatentSettings()
    lora: LoraSettings = LoraSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    teacher: TeacherSettings = TeacherSettings()
    optimisation: OptimisationSettings = OptimisationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    output: OutputSettings = OutputSettings()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        decoder, streaming, steps = self.decoder, self.corpus.streaming, self.optimisation.steps
        vectors, mix = self.encoder.vectors is not None, bool(self.corpus.mix)
        fresh, decided = self.start_from is None, self._decided_by_checkpoint()
        wrong = {
            "start_from: the checkpoint determines the architecture. Omit "
            + ", ".join(decided): not fresh and bool(decided),
            "encoder: set one of model, scratch, lstm and vectors": fresh
            and not self.encoder.sources(),
            "decoder: set one of model, scratch and lstm": fresh and not decoder.sources(),
            "decoder.lstm: an LSTM has no attention for memory. Set latent.injection to add or "
            "soft_prompt": decoder.lstm is not None and "memory" in self.latent.injection,
            "a streamed corpus has no known length. Set optimisation.steps": streaming
            and steps is None,
            "encoder.vectors: precomputed vectors cannot be streamed. Set corpus.streaming to "
            "false": streaming and vectors,
            "a stream is read by one process. Set optimisation.workers to 0 or 1": streaming
            and self.optimisation.workers > 1,
            "corpus.mix: only one corpus can be streamed. Set corpus.streaming to false": streaming
            and mix,
            "optimisation.batch_tokens and corpus.shards, shuffle_buffer and cache_vectors are "
            "settings of a stream. Set corpus.streaming to true, or omit them": not streaming
            and self._streams(),
            "corpus.cache_vectors: the encoder runs beside the model. Set optimisation.workers to "
            "0": self.corpus.cache_vectors and self.optimisation.workers > 0,
            "corpus.cache_vectors: an encoder that is trained has no constant outputs. Set "
            "encoder.training to frozen, or omit the setting": self.corpus.cache_vectors
            and self.encoder.training != "frozen",
            "corpus.mix: precomputed vectors (encoder.vectors) support only one corpus. Omit one "
            "of the two": vectors and mix,
            "teacher.model: the teacher encodes all sentences before training. Set "
            "corpus.streaming to false": streaming and self.teacher.model is not None,
            "optimisation.shard_decoder distributes frozen layers. Omit it, or set "
            "decoder.training to frozen, heads or lora": self.optimisation.shard_decoder
            and (decoder.training == "full" or decoder.lstm is not None),
            "a quantised decoder cannot be sharded. Omit decoder.quantization or "
            "optimisation.shard_decoder": self.optimisation.shard_decoder
            and decoder.quantization is not None,
        }
        if any(wrong.values()):
            raise ValueError("\n  ".join(text for text, found in wrong.items() if found))
        return self

    def _streams(self) -> bool:
        """Whether a setting is given that only a stream has."""
        fields = type(self.corpus).model_fields
        names = ("shards", "shuffle_buffer", "cache_vectors")
        changed = any(getattr(self.corpus, name) != fields[name].default for name in names)
        return changed or self.optimisation.batch_tokens is not None

    def _decided_by_checkpoint(self) -> list[str]:
        """Settings that differ from their defaults although `start_from` determines them."""
        free = {"decoder.dtype", "decoder.attention", "decoder.quantization"}  # how it is loaded
        return [
            key
            for name in ("encoder", "decoder", "latent", "lora")
            for field, value in getattr(self, name)
            if (key := f"{name}.{field}") not in free
            and value != getattr(type(self).model_fields[name].default, field)
        ]
