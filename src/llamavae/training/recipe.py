"""Recipes: all settings of a training run, as one YAML file, Python object and `--help` text."""

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
    """Sentences of one corpus."""

    name: str
    """Named corpus, text/JSONL/CSV file, local dataset folder or hub id."""
    path: str | None = None
    """Folder or file of a named corpus that is not in its usual place."""
    column: str | None = None
    """Column that holds the sentences; found by itself when there is one text column."""
    config: str | None = None
    """Configuration name of a hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    limit: int | None = Field(default=None, ge=1)
    """Train on at most this many sentences, chosen at random; the first ones of a stream."""
    min_words: int | None = Field(default=None, ge=1)
    """Leave out shorter sentences."""
    max_words: int | None = Field(default=None, ge=1)
    """Leave out longer sentences."""


class CorpusSettings(CorpusPart):
    """The sentences."""

    name: str = "factors"
    """Named corpus, text/JSONL/CSV file, local dataset folder or hub id."""
    streaming: bool = False
    """Read the corpus as it is needed, for one that is larger than memory and disk."""
    mix: list[CorpusPart] = []
    """Further corpora that are read beside this one, each with settings of its own."""


class ScratchEncoder(_Section):
    """A small T5-type encoder made from scratch, with a tokenizer trained on the corpus."""

    hidden_size: int = Field(default=128, ge=8)
    """Width of the encoder; also the size of the sentence vector."""
    layers: int = Field(default=2, ge=1)
    """Number of layers."""
    heads: int = Field(default=4, ge=1)
    """Attention heads; they divide the width."""
    ffn: int = Field(default=256, ge=8)
    """Width of the feed-forward layers."""
    vocabulary: int = Field(default=1024, ge=64)
    """Most entries of the tokenizer."""


class ScratchDecoder(_Section):
    """A small LLaMA-type decoder made from scratch and warmed up as a plain language model."""

    hidden_size: int = Field(default=128, ge=8)
    """Width of the decoder."""
    layers: int = Field(default=3, ge=1)
    """Number of layers."""
    heads: int = Field(default=4, ge=1)
    """Attention heads; they divide the width."""
    kv_heads: int = Field(default=2, ge=1)
    """Key/value heads; they divide the heads."""
    ffn: int = Field(default=256, ge=8)
    """Width of the feed-forward layers."""
    vocabulary: int = Field(default=1024, ge=64)
    """Most entries of the tokenizer."""
    warmup_steps: int = Field(default=1000, ge=0)
    """Steps of plain language modelling before the VAE is trained; 0 for none."""
    warmup_batch_size: int = Field(default=64, ge=1)
    """Sentences in a warm-up step."""
    warmup_learning_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the warm-up (linear rise, cosine fall)."""


class EncoderSettings(_Section):
    """Text to sentence vector. Give one of `model`, `scratch` and `vectors`."""

    model: str | None = None
    """Hub id or folder of a sentence-transformers model or transformers encoder."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository."""
    pooling: Pooling | None = None
    """Pooling rule for a transformers encoder; empty takes the model's own. attention learns it."""
    pooling_heads: int = Field(default=8, ge=1)
    """Number of learned queries of attention pooling."""
    standardise: bool | None = None
    """Standardise each feature of the sentence vectors over the training set; empty does so with a
    frozen decoder."""
    max_tokens: int | None = Field(default=None, ge=2)
    """Most encoder tokens of a sentence; empty keeps the encoder's own limit."""
    training: EncoderTraining = "frozen"
    """What of the encoder trains; the outputs of a frozen one are computed once and cached."""
    scratch: ScratchEncoder | None = None
    """Make a small T5-type encoder instead; it trains in full."""
    vectors: str | None = None
    """Column of the corpus that holds precomputed sentence vectors."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [k for k in ("model", "scratch", "vectors") if getattr(self, k) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of model, scratch and vectors, not {' and '.join(given)}")
        if self.scratch and self.training != "full":
            raise ValueError("an encoder made from scratch must train: set training to full")
        if self.vectors and self.training != "frozen":
            raise ValueError("precomputed vectors cannot train: set training to frozen")
        return self


class DecoderSettings(_Section):
    """Point z to text. Give one of `model` and `scratch`."""

    model: str | None = None
    """Hub id or folder of any transformers causal language model."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository."""
    max_tokens: int = Field(default=64, ge=2)
    """Most tokens of a sentence, its end-of-sentence token included; longer ones are cut."""
    training: DecoderTraining | None = None
    """What of the decoder trains: nothing (frozen), token embeddings and LM head (heads), these and
    LoRA matrices in the hidden layers (lora), or all of it (full). Empty means frozen for a
    pretrained decoder and heads for one made from scratch."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Type of the frozen weights; what trains is kept in float32."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Load the frozen decoder quantised; needs a GPU and `pip install llamavae[quant]`."""
    scratch: ScratchDecoder | None = None
    """Make a small LLaMA-type decoder instead."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.model is not None and self.scratch is not None:
            raise ValueError("give one of model and scratch, not both")
        if self.quantization and self.training == "full":
            raise ValueError("a quantised decoder cannot train in full: use frozen, heads or lora")
        return self


class LatentSettings(_Section):
    """The latent space and how it reaches the decoder."""

    dim: int = Field(default=128, ge=1)
    """Size D of z."""
    injection: InjectionName = "memory"
    """How z steers the decoder."""
    slots: int = Field(default=1, ge=1)
    """Memory slots or prompt embeddings."""
    hidden: int = Field(default=256, ge=0)
    """Width of the hidden layer of the map from z; 0 makes it linear."""
    tied_kv: bool = False
    """One vector as both key and value of a memory slot (Optimus)."""
    scaled_memory: bool | None = None
    """Scale memory to the sizes of the decoder's own keys and values in each layer; empty does so
    with a frozen decoder."""
    initial_std: float | None = Field(default=None, gt=0)
    """Standard deviation of the posterior before training. A wide one, such as the prior's 1, hides
    the mean behind noise, and a pretrained decoder learns to do without z. Empty means 0.05 with
    a frozen decoder, and about 1 otherwise."""


class LoraSettings(_Section):
    """Low-rank adapters, for whatever trains as `lora`."""

    rank: int = Field(default=16, ge=1)
    """Rank of the LoRA matrices."""
    alpha: int = Field(default=32, ge=1)
    """Scale of the LoRA matrices."""


class ObjectiveSettings(_Section):
    """-E log p(x|z) + beta * KL term, in nats per sentence."""

    schedule: Literal["constant", "linear", "cyclical", "target_rate"] = "cyclical"
    """How beta changes over the run."""
    beta: float = Field(default=1.0, ge=0)
    """Largest beta."""
    start: float = Field(default=0.0, ge=0, lt=1)
    """linear: part of the run before beta rises."""
    ramp: float = Field(default=0.5, gt=0, le=1)
    """linear: part of the run in which beta rises; cyclical: part of each cycle."""
    zero: float = Field(default=0.0, ge=0, lt=1)
    """cyclical: part of each cycle with beta 0, before it rises (Optimus: 0.5)."""
    cycles: int = Field(default=4, ge=1)
    """cyclical: number of cycles."""
    target_rate: float | None = Field(default=None, gt=0)
    """target_rate: the KL in nats per sentence that a controller holds by moving beta."""
    kl_rule: KLRule = "none"
    """Threshold rule of the KL term."""
    kl_threshold: float = Field(default=0.0, ge=0)
    """Its threshold in nats: per dimension, or per sentence for sentence_threshold."""
    word_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Part of the decoder's input tokens that are blanked in training."""
    bag_of_words: float = Field(default=0.0, ge=0)
    """Weight of the loss of predicting a sentence's words, in no order, from z directly; an encoder
    from scratch learns sooner with it."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.schedule == "target_rate") != (self.target_rate is not None):
            raise ValueError("target_rate goes with schedule: target_rate, and is needed there")
        if (self.kl_rule == "none") != (self.kl_threshold == 0):
            raise ValueError("kl_rule and kl_threshold go together: set both or neither")
        if self.schedule == "linear" and self.start + self.ramp > 1:
            raise ValueError("start + ramp is more than the whole run")
        if self.schedule == "cyclical" and self.zero + self.ramp > 1:
            raise ValueError("zero + ramp is more than a whole cycle")
        return self


class TeacherSettings(_Section):
    """A sentence encoder whose similarities the posterior mean learns; used in training only."""

    model: str | None = None
    """Hub id or folder of a sentence-transformers model; empty for none."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository."""
    weight: float = Field(default=1.0, ge=0)
    """Nats that are added to the loss for a mean squared difference of 1 between the cosines."""


class OptimisationSettings(_Section):
    """The optimiser and the length of the run."""

    epochs: float | None = Field(default=None, gt=0)
    """Passes over the corpus; 3 where neither epochs nor steps is given."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(default=32, ge=1)
    """Sentences in an optimiser step, over all devices and accumulation."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Sentences on one device at one time; empty puts the whole batch through at once. The steps
    are the same, except that kl_rule free_bits then looks at the mean of such a part."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate (AdamW) of fresh weights."""
    posterior_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of the posterior's linear map and of attention pooling; empty takes
    learning_rate. A step of AdamW moves z in proportion to it and to the size of the sentence
    vector, so a vector of thousands of features needs a lower one."""
    backbone_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of encoder and decoder weights, LoRA matrices included. Empty takes a
    twentieth of learning_rate for a pretrained encoder.model or decoder.model, and learning_rate
    for backbones made from scratch and with start_from."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's weight decay."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps in which the learning rate rises."""
    decay: Literal["linear", "cosine", "constant"] = "cosine"
    """How the learning rate falls after that."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the backbones in mixed precision; posterior and KL stay in float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, to save memory."""
    workers: int = Field(default=0, ge=0)
    """Processes that prepare batches; 0 prepares them in the main process."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of initial weights, data order, noise and word dropout."""

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
    """What is measured during training, on held-out sentences."""

    every: int = Field(default=500, ge=1)
    """Steps between evaluations; step 0 and the end are always evaluated."""
    sentences: int = Field(default=500, ge=2)
    """Held-out sentences for NLL, KL, active units and mutual information."""
    decoded: int = Field(default=100, ge=0)
    """How many of them are decoded freely for BLEU, with the right and with shuffled z."""


class OutputSettings(_Section):
    """Where results go."""

    folder: str = "runs/latest"
    """Folder of the run: checkpoints, log, and the final model in model/."""
    log_every: int = Field(default=20, ge=1)
    """Steps between log lines."""
    save_every: int = Field(default=500, ge=1)
    """Steps between checkpoints that the run can resume from."""
    keep: int = Field(default=2, ge=1)
    """How many of those checkpoints are kept."""
    embed_backbones: bool | None = None
    """Save encoder and decoder inside the model; empty does so only for those made from scratch."""
    prior_sentences: int = Field(default=20_000, ge=0)
    """Maximum number of training sentences that the model's default prior is fitted to; 0: none."""
    report_to: list[Literal["tensorboard", "wandb"]] = []
    """Trackers that receive the scalars."""


class Recipe(_Section):
    """A training run."""

    name: str = "custom"
    """Name of the recipe."""
    description: str = ""
    """What it is for."""
    start_from: str | None = None
    """Folder or hub id of a trained LlaMaVAE to go on with, in place of backbones."""
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
            "start_from: the checkpoint decides what the model is; leave out "
            + ", ".join(decided): not fresh and bool(decided),
            "encoder: give one of model, scratch and vectors": fresh
            and encoder.model is None
            and encoder.scratch is None
            and encoder.vectors is None,
            "decoder: give one of model and scratch": fresh
            and decoder.model is None
            and decoder.scratch is None,
            "a streamed corpus has no known length: give optimisation.steps": streaming
            and self.optimisation.steps is None,
            "encoder.vectors: precomputed vectors need corpus.streaming false": streaming
            and encoder.vectors is not None,
            "a stream is read in one place: set optimisation.workers to 0 or 1": streaming
            and self.optimisation.workers > 1,
            "corpus.mix: a stream is of one corpus; set corpus.streaming to false": streaming
            and bool(self.corpus.mix),
            "corpus.mix: precomputed vectors (encoder.vectors) are of one corpus; leave one of the "
            "two out": encoder.vectors is not None and bool(self.corpus.mix),
            "teacher.model: the teacher reads the sentences before training; set corpus.streaming "
            "to false": streaming and self.teacher.model is not None,
        }
        if any(wrong.values()):
            raise ValueError("\n  ".join(text for text, found in wrong.items() if found))
        return self

    def _decided_by_checkpoint(self) -> list[str]:
        """Settings that are not the default and that `start_from` leaves no choice in."""
        sections = {n: getattr(self, n) for n in ("encoder", "decoder", "latent", "lora")}
        return [
            f"{name}.{key}"
            for name, section in sections.items()
            for key, default in type(section)()
            if getattr(section, key) != default and f"{name}.{key}" not in _LOADING
        ]


_LOADING = {"decoder.dtype", "decoder.attention", "decoder.quantization"}
"""How a decoder is loaded, not what it is: free with `start_from`."""


# ------------------------------------------------------------------------------- reading


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("llamavae.recipes")
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def recipe_text(name: str) -> str:
    """The YAML text of a shipped recipe, comments included."""
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
        UserError: There is no such recipe, it is not valid YAML, or settings are wrong. All wrong
            settings are reported together.

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
    """A recipe from nested settings; all mistakes are reported together.

    Raises:
        UserError: Settings are unknown or wrong.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        found = error.errors()
    # unknown settings hide contradictions between the known ones: look for those without them
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
    """Leave one setting out of nested ones."""
    *parents, key = place
    for parent in parents:
        values = values[parent]
    del values[key]


_PLAIN = {"model_type": "expected settings by name", "missing": "is needed"}
"""Type of an error of pydantic -> what it means to someone who writes a recipe."""


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
    """The section class at `path`, looking through optional ones and into lists."""
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
    """YAML 1.1 reads 1e-3 as text; people mean the number."""
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
    """Key, type, default and meaning of every setting, for `--help` and the documentation.

    What a list of sections holds has N in its key: `corpus.mix.N.name`, N from 0.
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
