"""Recipes: the settings of a training run as a YAML file, a Python object and `--help` text."""

from __future__ import annotations

import copy
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llamavae.errors import UserError, nearest, unknown
from llamavae.modeling.names import (
    DecoderTraining,
    EncoderTraining,
    InjectionName,
    KLRule,
    Pooling,
)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, use_attribute_docstrings=True)


class CorpusPart(_Section):
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
    """Minimum number of words of a sentence; shorter sentences are left out."""
    max_words: int | None = Field(default=None, ge=1)
    """Maximum number of words of a sentence; longer sentences are left out."""


class CorpusSettings(CorpusPart):
    """Sentences to train on."""

    name: str = "factors"
    """Named corpus, text/JSONL/CSV file, folder of a dataset, or hub id."""
    streaming: bool = False
    """Read the corpus during training, for a corpus that does not fit in memory or on disk."""
    mix: list[CorpusPart] = []
    """Additional corpora to train on, each with its own settings."""


class ScratchEncoder(_Section):
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


class ScratchDecoder(_Section):
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


class EncoderSettings(_Section):
    """Encoder, from text to sentence vectors.

    Give one of `model`, `scratch` and `vectors`.
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
    vectors: str | None = None
    """Column of the corpus with precomputed sentence vectors."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [k for k in ("model", "scratch", "vectors") if getattr(self, k) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of model, scratch and vectors, not {' and '.join(given)}")
        if self.scratch and self.training != "full":
            raise ValueError("an encoder from scratch must be trained: set training to full")
        if self.vectors and self.training != "frozen":
            raise ValueError("precomputed vectors cannot be trained: set training to frozen")
        return self


class DecoderSettings(_Section):
    """Decoder, from latent codes z to text.

    Give one of `model` and `scratch`.
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
    pretrained decoder, and heads for a decoder from scratch."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Data type of the frozen weights; trained weights are in float32."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention implementation."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Quantise the frozen decoder; requires a GPU and `pip install llamavae[quant]`."""
    scratch: ScratchDecoder | None = None
    """Train a small LLaMA decoder from scratch."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.model is not None and self.scratch is not None:
            raise ValueError("give one of model and scratch, not both")
        if self.quantization and self.training == "full":
            raise ValueError(
                "a quantised decoder cannot be trained in full: use frozen, heads or lora"
            )
        return self


class LatentSettings(_Section):
    """Latent space, and how z conditions the decoder."""

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


class LoraSettings(_Section):
    """LoRA adapters of an encoder or decoder with `training: lora`."""

    rank: int = Field(default=16, ge=1)
    """Rank of the LoRA matrices."""
    alpha: int = Field(default=32, ge=1)
    """Scaling factor alpha of the LoRA matrices."""


class ObjectiveSettings(_Section):
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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.schedule == "target_rate") != (self.target_rate is not None):
            raise ValueError(
                "target_rate and schedule: target_rate must be set together: set both or neither"
            )
        if (self.kl_rule == "none") != (self.kl_threshold == 0):
            raise ValueError("kl_rule and kl_threshold must be set together: set both or neither")
        if self.schedule == "linear" and self.start + self.ramp > 1:
            raise ValueError("expected start + ramp of at most 1, the whole run")
        if self.schedule == "cyclical" and self.zero + self.ramp > 1:
            raise ValueError("expected zero + ramp of at most 1, a whole cycle")
        return self


class TeacherSettings(_Section):
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


class OptimisationSettings(_Section):
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
    workers: int = Field(default=0, ge=0)
    """Number of data loader processes; 0 loads batches in the main process."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Random seed of the initial weights, data order, noise and word dropout."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give one of epochs and steps, not both")
        if self.epochs is None and self.steps is None:
            self.epochs = 3
        micro = self.micro_batch_size
        if micro is not None and self.batch_size % micro:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {micro}"
            )
        return self


class EvaluationSettings(_Section):
    """Evaluation on held-out sentences during training."""

    every: int = Field(default=500, ge=1)
    """Steps between evaluations; step 0 and the last step are always evaluated."""
    sentences: int = Field(default=500, ge=2)
    """Number of held-out sentences for NLL, KL, active units and mutual information."""
    decoded: int = Field(default=100, ge=0)
    """Number of these sentences that are decoded greedily for BLEU, with their own z and with
    shuffled z as control."""


class OutputSettings(_Section):
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
    report_to: list[Literal["tensorboard", "wandb"]] = []
    """Experiment trackers to log scalars to."""


class Recipe(_Section):
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
        encoder, decoder, streaming = self.encoder, self.decoder, self.corpus.streaming
        fresh, decided = self.start_from is None, self._decided_by_checkpoint()
        wrong = {
            "start_from: the checkpoint determines the architecture; leave out "
            + ", ".join(decided): not fresh and bool(decided),
            "encoder: give one of model, scratch and vectors": fresh
            and encoder.model is None
            and encoder.scratch is None
            and encoder.vectors is None,
            "decoder: give one of model and scratch": fresh
            and decoder.model is None
            and decoder.scratch is None,
            "a streamed corpus has no known length: set optimisation.steps": streaming
            and self.optimisation.steps is None,
            "encoder.vectors: precomputed vectors cannot be streamed; set corpus.streaming to "
            "false": streaming and encoder.vectors is not None,
            "a stream is read by one process: set optimisation.workers to 0 or 1": streaming
            and self.optimisation.workers > 1,
            "corpus.mix: only one corpus can be streamed; set corpus.streaming to false": streaming
            and bool(self.corpus.mix),
            "corpus.mix: precomputed vectors (encoder.vectors) support only one corpus; leave out "
            "one of the two": encoder.vectors is not None and bool(self.corpus.mix),
            "teacher.model: the teacher encodes all sentences before training; set "
            "corpus.streaming to false": streaming and self.teacher.model is not None,
        }
        if any(wrong.values()):
            raise ValueError("\n  ".join(text for text, found in wrong.items() if found))
        return self

    def _decided_by_checkpoint(self) -> list[str]:
        """Settings that differ from their defaults although `start_from` determines them."""
        sections = {n: getattr(self, n) for n in ("encoder", "decoder", "latent", "lora")}
        return [
            f"{name}.{key}"
            for name, section in sections.items()
            for key, default in type(section)()
            if getattr(section, key) != default and f"{name}.{key}" not in _LOADING
        ]


_LOADING = {"decoder.dtype", "decoder.attention", "decoder.quantization"}
"""Settings of how a decoder is loaded, which can be changed with `start_from`."""


# ------------------------------------------------------------------------------- reading


def recipe_names() -> list[str]:
    """Names of the bundled recipes."""
    folder = resources.files("llamavae.recipes")
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def recipe_text(name: str) -> str:
    """YAML text of a bundled recipe, including comments."""
    if name not in recipe_names():
        raise unknown("recipe", name, recipe_names())
    file = resources.files("llamavae.recipes") / f"{name}.yaml"
    return file.read_text(encoding="utf-8")


def load_recipe(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    values: Mapping[str, Any] | None = None,
) -> Recipe:
    """Load a recipe by name or from a file, and change some of its settings.

    Args:
        source: Name of a bundled recipe, or path of a `.yaml` file.
        overrides: Changes as text, `section.key=value`, each value read as YAML.
        values: Changes as Python values by dotted key, taken as they are. They take precedence over
            `overrides`.

    Raises:
        UserError: There is no such recipe, it is not valid YAML, or settings are invalid. All
            invalid settings are reported together.

    Example:
        >>> recipe = load_recipe("demo", ["latent.dim=16"], values={"output.folder": "2024-01-01"})
        >>> recipe.latent.dim, recipe.output.folder
        (16, '2024-01-01')
    """
    text = str(source)
    if text.endswith((".yaml", ".yml")):
        path = Path(text)
        if not path.is_file():
            raise UserError(f"there is no recipe file {path}")
        text = path.read_text(encoding="utf-8")
    else:
        text = recipe_text(text)
    try:
        settings = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not valid YAML: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{source} is not a recipe: expected settings by name; got {settings!r}")
    changes = [*map(_read_override, overrides), *(values or {}).items()]
    for key, value in changes:
        _assign(settings, key, value)
    changed = {key for key, _ in changes}
    for name, other in (("epochs", "steps"), ("steps", "epochs")):
        if f"optimisation.{name}" in changed and f"optimisation.{other}" not in changed:
            settings["optimisation"].pop(other, None)  # the changed length replaces the recipe's
    return parse_recipe(settings)


def parse_recipe(values: dict[str, Any]) -> Recipe:
    """Build a recipe from nested settings; all errors are reported together.

    Raises:
        UserError: Settings are unknown or invalid.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        found = error.errors()
    # unknown settings prevent the checks across settings: validate again without them
    known = copy.deepcopy(values)
    for error in found:
        if error["type"] == "extra_forbidden":
            _drop(known, error["loc"])
    try:
        Recipe.model_validate(known)
    except ValidationError as error:
        found += [e for e in error.errors() if (e["loc"], e["msg"]) not in _seen(found)]
    text = "\n".join(_complaint(e) for e in found)
    raise UserError(f"the recipe has {len(text.splitlines())} mistake(s):\n{text}")


def _seen(errors: list[Any]) -> list[Any]:
    return [(e["loc"], e["msg"]) for e in errors]


def _drop(values: dict[str, Any], place: tuple[Any, ...]) -> None:
    """Delete one of nested settings."""
    *parents, key = place
    for parent in parents:
        values = values[parent]
    del values[key]


_PLAIN = {"model_type": "expected settings by name", "missing": "is required"}
"""Type of a pydantic error -> message in terms of recipes."""


def _complaint(error: Any) -> str:
    place = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        parent = _section(error["loc"][:-1])
        near = nearest(str(error["loc"][-1]), parent.model_fields if parent else [])
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"  {place}: no such setting{hint}"
    message = _PLAIN.get(error["type"], error["msg"].removeprefix("Value error, "))
    given = "" if isinstance(error.get("input"), dict | BaseModel) else f" (got {error['input']!r})"
    return f"  {place + ': ' if place else ''}{message}{given}"


def _section(path: tuple[Any, ...]) -> type[_Section] | None:
    """The section class at `path`, also inside optional types and lists."""
    section: type[_Section] = Recipe
    for name in (part for part in path if not isinstance(part, int)):
        field = section.model_fields.get(str(name))
        found = _section_of(field.annotation) if field else None
        if found is None:
            return None
        section = found
    return section


def _section_of(annotation: Any) -> type[_Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, _Section):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list):
        found = (_section_of(a) for a in typing.get_args(annotation))
        return next((s for s in found if s is not None), None)
    return None


def _read_override(text: str) -> tuple[str, Any]:
    """Key and value of `section.key=value`, the value read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set expects section.key=value; got {text!r}")
    try:
        return key.strip(), _number(yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise UserError(f"--set {text!r}: {value!r} is not valid YAML: {error}") from error


def _assign(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set one value in nested settings by its dotted key."""
    *parents, last = key.split(".")
    for parent in parents:
        inner = settings.get(parent)
        if not isinstance(inner, dict):
            inner = settings[parent] = {}
        settings = inner
    settings[last] = value


def _number(value: Any) -> Any:
    """Convert text such as 1e-3, which YAML 1.1 reads as a string, to a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def describe_groups() -> Iterator[tuple[str, str]]:
    """Name and summary of every group of settings, for `--help`."""
    for name, field in Recipe.model_fields.items():
        if section := _section_of(field.annotation):
            yield name, (section.__doc__ or "").partition("\n")[0]


def describe_settings(
    section: type[_Section] = Recipe, prefix: str = ""
) -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and description of every setting, for `--help-all` and the documentation.

    Keys of settings in a list of sections contain N, an index from 0: `corpus.mix.N.name`.
    """
    for name, field in section.model_fields.items():
        inner = _section_of(field.annotation)
        key = f"{prefix}{name}"
        several = typing.get_origin(field.annotation) is list
        if inner is None or several:
            yield key, _type_name(field.annotation), _default(field), field.description or ""
        if inner is not None:
            yield from describe_settings(inner, f"{key}.N." if several else f"{key}.")


def _default(field: Any) -> str:
    return "" if field.is_required() or field.default is None else str(field.default)


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return " | ".join(str(a) for a in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [a for a in typing.get_args(annotation) if a is not type(None)]
        return " | ".join(_type_name(p) for p in parts)
    if typing.get_origin(annotation) is list and _section_of(annotation):
        return "list of sections"
    if typing.get_origin(annotation) is list:
        return f"list of {_type_name(typing.get_args(annotation)[0])}"
    return getattr(annotation, "__name__", str(annotation))
