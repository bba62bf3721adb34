"""Options that several commands share. Each group of options is a dataclass."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, wraps
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from llamavae.cli.output import note
from llamavae.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from llamavae import LlaMaVAE
    from llamavae.flows import FitConfig
    from llamavae.guidance import Condition
    from llamavae.modeling import SentenceEncoder

Json = Annotated[bool, typer.Option("--json", help="Write one JSON object per line.")]
Refine = Annotated[
    int,
    typer.Option(
        "--refine",
        min=0,
        metavar="STEPS",
        help="Maximum number of gradient steps that refine the latent code of each text for a more "
        "exact reconstruction, starting from the encoder's output; 0 disables refinement.",
    ),
]
TextArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TEXT", help="Texts. Without texts, or with -, they are read from standard input."
    ),
]


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """Expand parameters that are dataclasses: their fields become options of the command."""
    hints = get_type_hints(verb, include_extras=True)
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        kind = hints[name]
        if not dataclasses.is_dataclass(kind):
            parameters.append(
                parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY)
            )
            continue
        groups[name] = kind  # type: ignore[assignment]
        field_types = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=field_types[field.name],
            )
            for field in dataclasses.fields(kind)
        ]

    @wraps(verb)
    def command(**values: Any) -> None:
        for name, kind in groups.items():
            fields = [field.name for field in dataclasses.fields(kind)]
            values[name] = kind(**{field: values.pop(field) for field in fields})
        verb(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


# ------------------------------------------------------------------------------ the model

Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1, mps, or auto to distribute the model over all GPUs. Default: a "
        "GPU if available, else cpu.",
        rich_help_panel="Model",
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option(help="Data type of the decoder's weights.", rich_help_panel="Model"),
]


def default_model(*names: str) -> str:
    """The first bundled model whose backbones are available; a note names a better model."""
    from llamavae.pretrained import preferred

    name, better = preferred(*names)
    if better:
        note(f"using {name}; `llamavae models get {better}` downloads a better model")
    return name


@dataclass
class ModelOptions:
    """The model and its device."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            envvar="LLAMAVAE_MODEL",
            metavar="FOLDER_OR_ID",
            help="Folder of a model or a run, hub id, or name listed by `llamavae models`. "
            "Default: small if its backbones are available, else mini.",
            rich_help_panel="Model",
        ),
    ] = None
    device: Device = None
    dtype: Dtype = None
    batch_size: Annotated[
        int,
        typer.Option(
            min=1, help="Number of texts or latent codes per batch.", rich_help_panel="Model"
        ),
    ] = 64

    @cached_property
    def source(self) -> str:
        """Folder, hub id or name of the model, given or default."""
        from llamavae.pretrained import MODELS

        return default_model(*MODELS) if self.model is None else self.model

    def load(self) -> LlaMaVAE:
        """Load the model.

        Raises:
            UserError: The model cannot be loaded, or the device is not available.
        """
        source = Path(self.source).expanduser()
        if not (source / "config.json").exists() and (source / "model" / "config.json").exists():
            source = source / "model"  # the folder of a run
        quiet()
        from llamavae import LlaMaVAE

        return LlaMaVAE.from_pretrained(
            source if source.is_dir() else self.source, **placement(self.device, self.dtype)
        )

    def load_encoder(self, source: str) -> SentenceEncoder:
        """Load a sentence encoder instead, on the device and in the dtype of the options.

        Raises:
            UserError: The encoder cannot be loaded, or the device is not available.
        """
        quiet()
        from llamavae.modeling.loading import load_sentence_encoder

        options = placement(None if self.device == "auto" else self.device, self.dtype)
        device = options.pop("device_map", "cpu")
        return load_sentence_encoder(source, **options).to(device)


def placement(device: str | None, dtype: str | None) -> dict[str, Any]:
    """Options of `LlaMaVAE.from_pretrained` for a device and a dtype.

    Raises:
        UserError: The device is not available.
    """
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    place = _device(device)
    return options if place == "cpu" else options | {"device_map": place}


def _device(name: str | None) -> str:
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name is None:
        return accelerator.type if accelerator else "cpu"
    if name == "auto":
        return name
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(
            f"unknown device {name!r}: expected cpu, cuda, cuda:1, mps or auto"
        ) from error
    if device.type == "cpu":
        return "cpu"
    count = torch.accelerator.device_count() if accelerator else 0
    if accelerator is None or accelerator.type != device.type or (device.index or 0) >= count:
        here = f"cpu, {count} x {accelerator.type}" if accelerator else "cpu"
        raise UserError(f"device {name!r} is not available; available: {here}")
    return name


def quiet() -> None:
    """Disable the logs and progress bars of transformers, except those of downloads."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    enable_progress_bars()


# ------------------------------------------------------------------------------ text in


@dataclass
class FileOptions:
    """A file of sentences."""

    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="File of sentences: text (one per line), .jsonl, .csv, .tsv or .parquet.",
        ),
    ] = None
    column: Annotated[str | None, typer.Option(help="Column of the file with the sentences.")] = (
        None
    )

    def read(self, arguments: list[str] | None) -> Iterator[str]:
        """The texts of the arguments, the file or standard input, without blank ones.

        Raises:
            UserError: Both arguments and a file are given, or there is no text.
        """
        if self.file is not None and arguments:
            raise UserError("expected texts or --file, not both")
        if self.column is not None and self.file is None:
            raise UserError("--column requires --file")
        if self.file is not None:
            from llamavae.corpora.files import read_sentences

            where, found = str(self.file), (t for _, t in read_sentences(self.file, self.column))
        elif arguments and arguments != ["-"]:
            where, found = "the arguments", (text.strip() for text in arguments)
        else:
            where, found = "standard input", _standard_input(explicit=bool(arguments))
        texts = (text for text in found if text)
        first = next(texts, None)  # report missing text before a model is loaded
        if first is None:
            raise UserError(f"{where}: found no text; expected one sentence per line")
        return chain([first], texts)


def _standard_input(explicit: bool) -> Iterator[str]:
    from llamavae.corpora.files import decode_lines

    if sys.stdin.isatty():
        if not explicit:
            raise UserError("expected text: give texts, --file FILE, or lines on standard input")
        note("reading sentences from the keyboard, one per line; press Ctrl-D to end")
    return (line.strip() for _, line in decode_lines(sys.stdin.buffer, "standard input"))


def batches(items: Iterator[str], size: int) -> Iterator[list[str]]:
    """The items in lists of `size`, or one by one if they are typed at a terminal."""
    if sys.stdin.isatty():
        size = 1
    while batch := list(islice(items, size)):
        yield batch


_FIT = "Fit"


@dataclass
class PairOptions:
    """A corpus of texts, each with a word, such as definitions."""

    corpus: Annotated[
        str, typer.Option("--corpus", "-c", help="Named corpus, file, or hub id of a dataset.")
    ] = "wordnet-pairs"
    path: Annotated[
        Path | None, typer.Option(help="Location of a named corpus, if not the default one.")
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of texts.")] = None
    max_words: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of words of a text; longer texts are left out."),
    ] = None
    word_vectors: Annotated[
        Path | None,
        typer.Option(
            help="File of word vectors (word2vec, GloVe or fastText .vec) to represent words, "
            "instead of the sentence encoder."
        ),
    ] = None
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER_OR_ID",
            help="Sentence encoder to represent words. Default: the encoder of the model.",
        ),
    ] = None

    def word_condition(self, vae: LlaMaVAE, words: Collection[str]) -> Condition:
        """The condition that represents words as vectors.

        Args:
            vae: The model.
            words: Words to read from a file of word vectors.

        Raises:
            UserError: Options contradict one another, or there is no encoder of words.
        """
        from llamavae.guidance import EncoderCondition, WordVectorCondition

        if self.word_vectors is not None and self.encoder is not None:
            raise UserError("expected --word-vectors or --encoder, not both")
        if self.word_vectors is not None:
            return WordVectorCondition(self.word_vectors, words)
        if self.encoder is not None:
            condition = EncoderCondition.load(self.encoder)
            condition.encoder.to(vae.posterior.linear.weight.device)
            return condition
        if vae.encoder is None:
            raise UserError(
                "the model has no sentence encoder to represent words: give --encoder, "
                "--word-vectors, --labels or --vectors"
            )
        return EncoderCondition(vae.encoder)

    def rows(self, split: str | None, limit: int | None) -> Dataset:
        """One split of the corpus, or the whole corpus."""
        from llamavae.corpora import load_corpus

        return load_corpus(
            self.corpus, split, path=self.path, limit=limit, max_words=self.max_words
        )


@dataclass
class FlowOptions:
    """Settings of fitting a flow from conditions to latent codes."""

    steps: Annotated[
        int, typer.Option(min=1, help="Maximum number of training steps.", rich_help_panel=_FIT)
    ] = 4000
    train_batch_size: Annotated[
        int, typer.Option(min=1, help="Number of pairs per training step.", rich_help_panel=_FIT)
    ] = 256
    learning_rate: Annotated[
        float, typer.Option(help="Peak learning rate.", rich_help_panel=_FIT)
    ] = 1e-3
    posterior_scale: Annotated[
        float,
        typer.Option(
            min=0,
            help="Multiple of the posteriors' standard deviation.",
            rich_help_panel=_FIT,
        ),
    ] = 1.0
    contrastive_weight: Annotated[
        float,
        typer.Option(
            min=0,
            help="Weight of the contrastive loss, which improves `reverse` and labels. Requires "
            "form reference.",
            rich_help_panel=_FIT,
        ),
    ] = 0.0
    base_hidden: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHS",
            help="Comma-separated hidden sizes of an MLP that is added to the linear map of the "
            "condition. Requires form reference. Default: no MLP.",
            rich_help_panel=_FIT,
        ),
    ] = None
    ensemble_size: Annotated[
        int,
        typer.Option(
            min=1, help="Number of MLPs whose outputs are averaged.", rich_help_panel=_FIT
        ),
    ] = 1
    dropout: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.9,
            help="Dropout rate of the hidden layers of the MLPs.",
            rich_help_panel=_FIT,
        ),
    ] = 0.0
    context_noise: Annotated[
        float,
        typer.Option(
            min=0,
            help="Standard deviation of the noise added to conditions, relative to their own.",
            rich_help_panel=_FIT,
        ),
    ] = 0.0
    patience: Annotated[
        int,
        typer.Option(
            min=1,
            help="Stop after this many evaluations without improvement; evaluates every 200 steps.",
            rich_help_panel=_FIT,
        ),
    ] = 5

    def fitting(self, seed: int = 0) -> FitConfig:
        """Settings of the fit.

        Raises:
            UserError: A value is out of range.
        """
        from llamavae.flows import FitConfig

        return FitConfig(
            steps=self.steps,
            batch_size=self.train_batch_size,
            learning_rate=self.learning_rate,
            contrastive_weight=self.contrastive_weight,
            context_noise=self.context_noise,
            patience=self.patience,
            seed=seed,
        )

    def networks(self, *forms: str) -> dict[str, Any]:
        """Options of `build_flow` for the MLPs of the base distribution.

        Args:
            forms: Forms to fit.

        Raises:
            UserError: The hidden sizes are invalid, or a form does not support an option.
        """
        widths = [width.strip() for width in (self.base_hidden or "").split(",") if width.strip()]
        if not all(width.isdecimal() and int(width) > 1 for width in widths):
            raise UserError(
                f"--base-hidden expects hidden sizes of at least 2, such as 512,512; got "
                f"{self.base_hidden!r}"
            )
        widths = [int(width) for width in widths]
        if "conditional" in forms and (self.contrastive_weight or widths):
            raise UserError(
                "--contrastive-weight and --base-hidden require the reference form: add "
                "--form reference"
            )
        if self.ensemble_size > 1 and not widths:
            raise UserError(
                "--ensemble-size above 1 requires --base-hidden, for example --base-hidden 512"
            )
        networks = {"base_hidden": widths, "ensemble_size": self.ensemble_size}
        return {**networks, "dropout": self.dropout}


# ------------------------------------------------------------------------------ text out


_PANEL = "Generation"


@dataclass
class Generation:
    """How latent codes are decoded; greedily by default."""

    num_samples: Annotated[
        int,
        typer.Option(
            "--num-samples",
            "-n",
            min=1,
            help="Number of texts per latent code.",
            rich_help_panel=_PANEL,
        ),
    ] = 1
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Sampling temperature of tokens. Default: greedy decoding.", rich_help_panel=_PANEL
        ),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Nucleus sampling: sample from the most probable tokens with this total "
            "probability.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    beams: Annotated[
        int,
        typer.Option(min=1, help="Number of beams; 1 for no beam search.", rich_help_panel=_PANEL),
    ] = 1
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of tokens. Default: the maximum length in training.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Random seed, for reproducible samples.", rich_help_panel=_PANEL),
    ] = None

    def options(self) -> dict[str, Any]:
        """Options of `LlaMaVAE.generate`; also seeds torch.

        Raises:
            UserError: A value is out of range, or options contradict one another.
        """
        if self.temperature is not None and self.temperature <= 0:
            raise UserError(
                f"expected a --temperature above 0; got {self.temperature}. Leave it out for "
                "greedy decoding"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"expected a --top-p above 0 and at most 1; got {self.top_p}")
        sampling = self.temperature is not None or self.top_p is not None
        if self.beams > 1 and self.num_samples > self.beams and not sampling:
            raise UserError(
                f"expected at most {self.beams} texts from {self.beams} beams; got --num-samples "
                f"{self.num_samples}. Increase --beams, or add --temperature to sample"
            )
        if self.seed is not None:
            import torch

            torch.manual_seed(self.seed)
        chosen = {
            "num_return_sequences": self.num_samples if self.num_samples > 1 else None,
            "do_sample": sampling or (self.num_samples > 1 and self.beams == 1) or None,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "num_beams": self.beams if self.beams > 1 else None,
            "max_new_tokens": self.max_new_tokens,
        }
        return {key: value for key, value in chosen.items() if value is not None}
