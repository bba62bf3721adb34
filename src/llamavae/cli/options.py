"""Options that several verbs share: each group is a dataclass, and is described once."""

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

Json = Annotated[bool, typer.Option("--json", help="Write one JSON object a line.")]
Refine = Annotated[
    int,
    typer.Option(
        "--refine",
        min=0,
        metavar="STEPS",
        help="Maximum number of gradient steps on each text's code after the encoder's guess, so "
        "that the text comes back more exactly; 0 is the encoder alone.",
    ),
]
TextArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT", help="Texts; - or nothing reads them from standard input."),
]


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """Let a verb take dataclasses of options: their fields become options of the command."""
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
        help="cpu, cuda, cuda:1, mps, or auto to spread it over all GPUs; default: a GPU "
        "where there is one.",
        rich_help_panel="Model",
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option(help="Type of the decoder's weights.", rich_help_panel="Model"),
]


def default_model(*names: str) -> str:
    """The first of several shipped models whose backbones are here; a note names a better one."""
    from llamavae.pretrained import preferred

    name, better = preferred(*names)
    if better:
        note(f"using {name}; `llamavae models get {better}` fetches a model that writes better")
    return name


@dataclass
class ModelOptions:
    """Which model, and where it runs."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            envvar="LLAMAVAE_MODEL",
            metavar="FOLDER_OR_ID",
            help="Folder of a run or a model, hub id, or a name of `llamavae models`. Default: "
            "small if its backbones were fetched, else mini.",
            rich_help_panel="Model",
        ),
    ] = None
    device: Device = None
    dtype: Dtype = None
    batch_size: Annotated[
        int,
        typer.Option(
            min=1, help="Texts or points that are computed together.", rich_help_panel="Model"
        ),
    ] = 64

    @cached_property
    def source(self) -> str:
        """Folder, hub id or name of the model: what was given, or the default."""
        from llamavae.pretrained import MODELS

        return default_model(*MODELS) if self.model is None else self.model

    def load(self) -> LlaMaVAE:
        """The model.

        Raises:
            UserError: It cannot be loaded, or there is no such device.
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
        """A plain sentence encoder, on the device and in the dtype of the model.

        Raises:
            UserError: It cannot be loaded, or there is no such device.
        """
        quiet()
        from llamavae.modeling import SentenceEncoder

        options = placement(None if self.device == "auto" else self.device, self.dtype)
        device = options.pop("device_map", "cpu")
        return SentenceEncoder.load(source, **options).to(device)


def placement(device: str | None, dtype: str | None) -> dict[str, Any]:
    """The options of `LlaMaVAE.from_pretrained` for a device and a dtype.

    Raises:
        UserError: There is no such device.
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
        raise UserError(f"there is no device {name!r}: use cpu, cuda, cuda:1, mps or auto") from (
            error
        )
    if device.type == "cpu":
        return "cpu"
    count = torch.accelerator.device_count() if accelerator else 0
    if accelerator is None or accelerator.type != device.type or (device.index or 0) >= count:
        here = f"{count} x {accelerator.type}" if accelerator else "only the CPU"
        raise UserError(f"there is no device {name!r} on this machine ({here})")
    return name


def quiet() -> None:
    """Silence transformers' log and its bars for weights; downloads keep theirs."""
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
            help="Read sentences from a file: text (one a line), .jsonl, .csv, .tsv, .parquet.",
        ),
    ] = None
    column: Annotated[
        str | None, typer.Option(help="Column of the file that holds the sentences.")
    ] = None

    def read(self, arguments: list[str] | None) -> Iterator[str]:
        """The texts: the arguments, or the file's, or those of standard input, without blanks.

        Raises:
            UserError: Two of these are given, or there is no text.
        """
        if self.file is not None and arguments:
            raise UserError("give texts or --file, not both")
        if self.column is not None and self.file is None:
            raise UserError("--column goes with --file")
        if self.file is not None:
            from llamavae.corpora.files import read_sentences

            where, found = str(self.file), (t for _, t in read_sentences(self.file, self.column))
        elif arguments and arguments != ["-"]:
            where, found = "the arguments", (text.strip() for text in arguments)
        else:
            where, found = "standard input", _standard_input(explicit=bool(arguments))
        texts = (text for text in found if text)
        first = next(texts, None)  # before a model is loaded in vain
        if first is None:
            raise UserError(f"{where}: there is no text; expected one sentence a line")
        return chain([first], texts)


def _standard_input(explicit: bool) -> Iterator[str]:
    from llamavae.corpora.files import decode_lines

    if sys.stdin.isatty():
        if not explicit:
            raise UserError("there is no text: give texts, --file FILE, or pipe lines in")
        note("reading sentences from the keyboard, one a line; Ctrl-D ends")
    return (line.strip() for _, line in decode_lines(sys.stdin.buffer, "standard input"))


def batches(items: Iterator[str], size: int) -> Iterator[list[str]]:
    """The items in lists of `size`; a person who types gets an answer to each line."""
    if sys.stdin.isatty():
        size = 1
    while batch := list(islice(items, size)):
        yield batch


_FIT = "Fit"


@dataclass
class PairOptions:
    """A corpus of texts, each of which answers a word."""

    corpus: Annotated[
        str, typer.Option("--corpus", "-c", help="Corpus, file or hub id with texts.")
    ] = "wordnet-pairs"
    path: Annotated[
        Path | None, typer.Option(help="Where a named corpus lies, if not in its usual place.")
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many texts.")] = None
    max_words: Annotated[int | None, typer.Option(min=1, help="Leave out longer texts.")] = None
    word_vectors: Annotated[
        Path | None,
        typer.Option(
            help="File of word vectors (word2vec, GloVe, fastText .vec) for the words, in place of "
            "the sentence encoder's."
        ),
    ] = None
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER_OR_ID",
            help="Sentence encoder that reads the words; default: the model's own.",
        ),
    ] = None

    def word_condition(self, vae: LlaMaVAE, words: Collection[str]) -> Condition:
        """What turns words into vectors.

        Args:
            vae: The model.
            words: All words that will be asked of a file of word vectors.

        Raises:
            UserError: Options contradict one another, or there is nothing that reads words.
        """
        from llamavae.guidance import EncoderCondition, WordVectorCondition

        if self.word_vectors is not None and self.encoder is not None:
            raise UserError("a word has one vector: give --word-vectors or --encoder, not both")
        if self.word_vectors is not None:
            return WordVectorCondition(self.word_vectors, words)
        if self.encoder is not None:
            condition = EncoderCondition.load(self.encoder)
            condition.encoder.to(vae.posterior.linear.weight.device)
            return condition
        if vae.encoder is None:
            raise UserError(
                "the model has no sentence encoder to make a condition of words: give --encoder, "
                "--word-vectors, --labels or --vectors"
            )
        return EncoderCondition(vae.encoder)

    def rows(self, split: str | None, limit: int | None) -> Dataset:
        """One split of the corpus, or all of it."""
        from llamavae.corpora import load_corpus

        return load_corpus(
            self.corpus, split, path=self.path, limit=limit, max_words=self.max_words
        )


@dataclass
class FlowOptions:
    """How a flow from conditions to points is fitted."""

    steps: Annotated[
        int, typer.Option(min=1, help="Maximum number of steps.", rich_help_panel=_FIT)
    ] = 4000
    train_batch_size: Annotated[
        int, typer.Option(min=1, help="Pairs per training step.", rich_help_panel=_FIT)
    ] = 256
    learning_rate: Annotated[
        float, typer.Option(help="Peak learning rate.", rich_help_panel=_FIT)
    ] = 1e-3
    posterior_scale: Annotated[
        float,
        typer.Option(
            min=0,
            help="Width of the posteriors, as a multiple of their own.",
            rich_help_panel=_FIT,
        ),
    ] = 1.0
    contrastive_weight: Annotated[
        float,
        typer.Option(
            min=0,
            help="Weight of telling conditions apart, for reverse and for labels; form reference.",
            rich_help_panel=_FIT,
        ),
    ] = 0.0
    base_hidden: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHS",
            help="Widths, divided by commas, of a network beside the linear map of conditions; "
            "form reference. Default: none.",
            rich_help_panel=_FIT,
        ),
    ] = None
    ensemble_size: Annotated[
        int,
        typer.Option(
            min=1, help="How many such networks; their mean is taken.", rich_help_panel=_FIT
        ),
    ] = 1
    dropout: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.9,
            help="Share of the networks' hidden units that a step leaves out.",
            rich_help_panel=_FIT,
        ),
    ] = 0.0
    context_noise: Annotated[
        float,
        typer.Option(
            min=0,
            help="Noise on conditions in each step, in their standard deviations.",
            rich_help_panel=_FIT,
        ),
    ] = 0.0
    patience: Annotated[
        int,
        typer.Option(
            min=1,
            help="Stop after this many looks, one every 200 steps, without a better one.",
            rich_help_panel=_FIT,
        ),
    ] = 5

    def fitting(self, seed: int = 0) -> FitConfig:
        """Settings of the fit.

        Raises:
            UserError: One is out of range.
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
        """Options of `build_flow` for its networks.

        Args:
            forms: The forms that will be fitted.

        Raises:
            UserError: The widths are no numbers from 2, or a form cannot have what is asked.
        """
        widths = [width.strip() for width in (self.base_hidden or "").split(",") if width.strip()]
        if not all(width.isdecimal() and int(width) > 1 for width in widths):
            raise UserError(
                f"--base-hidden takes widths from 2, such as 512,512; got {self.base_hidden!r}"
            )
        widths = [int(width) for width in widths]
        if "conditional" in forms and (self.contrastive_weight or widths):
            raise UserError(
                "--contrastive-weight and --base-hidden are for the reference form: add "
                "--form reference"
            )
        if self.ensemble_size > 1 and not widths:
            raise UserError("--ensemble-size needs their widths: add --base-hidden 512,512, say")
        networks = {"base_hidden": widths, "ensemble_size": self.ensemble_size}
        return {**networks, "dropout": self.dropout}


# ------------------------------------------------------------------------------ text out


_PANEL = "Generation"


@dataclass
class Generation:
    """How texts are written from points; greedy unless an option says otherwise."""

    num_samples: Annotated[
        int,
        typer.Option("--num-samples", "-n", min=1, help="Texts a point.", rich_help_panel=_PANEL),
    ] = 1
    temperature: Annotated[
        float | None,
        typer.Option(help="Sample tokens at this temperature.", rich_help_panel=_PANEL),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Sample from the most probable tokens that have this mass together.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    beams: Annotated[
        int, typer.Option(min=1, help="Search with this many beams.", rich_help_panel=_PANEL)
    ] = 1
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Longest text in tokens; default: the longest the model was trained on.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Make random choices repeatable.", rich_help_panel=_PANEL),
    ] = None

    def options(self) -> dict[str, Any]:
        """The options of `LlaMaVAE.generate`; also seeds torch.

        Raises:
            UserError: A value is out of range, or options contradict one another.
        """
        if self.temperature is not None and self.temperature <= 0:
            raise UserError("--temperature must be above 0; without it, decoding is greedy")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"--top-p must lie above 0 and at most at 1; got {self.top_p}")
        sampling = self.temperature is not None or self.top_p is not None
        if self.beams > 1 and self.num_samples > self.beams and not sampling:
            raise UserError(
                f"{self.beams} beams give at most {self.beams} texts; got --num-samples "
                f"{self.num_samples}"
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
