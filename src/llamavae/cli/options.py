"""Options that several commands share.

Each group of options is a dataclass; its methods raise a `UserError` for options that are invalid
or contradict one another.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import cached_property, wraps
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_type_hints

import typer

from llamavae.cli.output import note
from llamavae.errors import LARGEST, UserError, check_int, check_seed, counted

if TYPE_CHECKING:
    from llamavae import LlaMaVAE
    from llamavae.bulk.task import ModelSource
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
CorpusPath = Annotated[
    Path | None, typer.Option(help="Location of a named corpus, if not the default one.")
]
Split = Annotated[
    Literal["train", "validation", "test", "all"], typer.Option(help="Split of the corpus.")
]
PosteriorScale = Annotated[
    float,
    typer.Option(
        min=0,
        help="Factor applied to the posterior standard deviation when training codes are drawn; 0 "
        "uses the posterior means.",
    ),
]
TextArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TEXT", help="Texts. Without texts, or with -, they are read from standard input."
    ),
]


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """Expand parameters that are dataclasses: their fields become options of the command.

    The class attribute `panel` of such a dataclass is the panel of its options in the help.
    """
    hints = get_type_hints(verb, include_extras=True)
    groups: dict[str, Any] = {
        name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        if name in groups:
            parameters += _options(groups[name])
        else:
            parameters.append(
                parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            )

    @wraps(verb)
    def command(**values: Any) -> None:
        for name, value in values.items():
            if type(value) is int and name != "seed":  # its limits are those of torch
                check_int(f"--{name.replace('_', '-')}", value, -LARGEST)
        for name, kind in groups.items():
            fields = [field.name for field in dataclasses.fields(kind)]
            values[name] = kind(**{field: values.pop(field) for field in fields})
        verb(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _options(kind: Any) -> Iterator[inspect.Parameter]:
    """The options of a dataclass as parameters."""
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        value, option = get_args(hints[field.name])
        if panel := getattr(kind, "panel", None):
            option = copy(option)
            option.rich_help_panel = panel
        required = field.default is dataclasses.MISSING
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if required else field.default,
            annotation=Annotated[value, option],
        )


# ------------------------------------------------------------------------------ the model

Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1, mps, or auto to distribute the model over all GPUs. Default: a "
        "GPU if available, else cpu."
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option(help="Data type of the decoder's weights."),
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

    panel: ClassVar[str] = "Model"

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            envvar="LLAMAVAE_MODEL",
            metavar="FOLDER_OR_ID",
            help="Folder of a model or a run, hub id, or name listed by `llamavae models`. "
            "Default: small if its backbones are available, else mini.",
        ),
    ] = None
    device: Device = None
    dtype: Dtype = None
    batch_size: Annotated[
        int, typer.Option(min=1, help="Number of texts or latent codes per batch.")
    ] = 64

    @cached_property
    def source(self) -> str:
        """Folder, hub id or name of the model, given or default."""
        from llamavae.pretrained import MODELS

        return default_model(*MODELS) if self.model is None else self.model

    def load(self) -> LlaMaVAE:
        """Load the model."""
        quiet()
        from llamavae import LlaMaVAE
        from llamavae.pretrained.loading import placement

        return LlaMaVAE.from_pretrained(self.source, **placement(self.device, self.dtype))

    def source_for_workers(self) -> ModelSource:
        """The model for an engine whose workers load it."""
        from llamavae.bulk.task import ModelSource

        folder = Path(self.source).expanduser()
        name = str(folder.absolute()) if folder.is_dir() else self.source
        return ModelSource(name, self.device, self.dtype)

    def load_encoder(self, source: str) -> SentenceEncoder:
        """Load a sentence encoder instead, on the device and in the dtype of the options."""
        quiet()
        from llamavae.modeling.loading import load_sentence_encoder
        from llamavae.pretrained.loading import placement

        options = placement(None if self.device == "auto" else self.device, self.dtype)
        device = options.pop("device_map", "cpu")
        return load_sentence_encoder(source, **options).to(device)


def quiet() -> None:
    """Disable the logs and progress bars of transformers, except those of downloads."""
    import logging as standard

    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    enable_progress_bars()
    standard.getLogger("bitsandbytes").setLevel(standard.ERROR)  # if installed, a warning at import


# ------------------------------------------------------------------------------ text in


@dataclass
class FileOptions:
    """A file of sentences."""

    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="File of sentences: text (one per line), .jsonl, .csv, .tsv (also with .gz) or "
            ".parquet.",
        ),
    ] = None
    column: Annotated[str | None, typer.Option(help="Column of the file with the sentences.")] = (
        None
    )

    def read(self, arguments: list[str] | None) -> Iterator[str]:
        """The texts of the arguments, the file or standard input.

        Blank lines are skipped, and a note at the end has their numbers.
        """
        if self.file is not None and arguments:
            raise UserError("expected texts or --file, not both")
        if self.column is not None and self.file is None:
            raise UserError("--column requires --file")
        typed = False
        if self.file is not None:
            from llamavae.corpora.files import read_sentences

            where, found = str(self.file), read_sentences(self.file, self.column)
        elif arguments and arguments != ["-"]:
            _check_arguments(arguments)
            where, found = "the arguments", enumerate(arguments, 1)
        else:
            where, found = "standard input", _standard_input(explicit=bool(arguments))
            typed = sys.stdin.isatty()
        texts = _full(found, where)
        first = next(texts, None)  # report missing text before a model is loaded
        if first is None:
            raise UserError(f"{where}: found no text; expected one sentence per line")
        return (_Typed if typed else chain)([first], texts)


class _Typed(chain[str]):
    """Texts that are typed at a terminal, each answered before the next one is read."""


def _check_arguments(texts: list[str]) -> None:
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise UserError(f"text {number} of the arguments is empty. Omit it")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"text {number} of the arguments is not valid UTF-8: {text!r:.60}"
            ) from error


_LISTED = 10  # number of blank lines listed in the note


def _full(rows: Iterable[tuple[int, str | None]], where: str) -> Iterator[str]:
    """The texts of numbered rows, without blank ones, and a note with the numbers of those."""
    blank: list[int] = []
    found = False
    for number, text in rows:
        if text is None or not text.strip():
            blank.append(number)
        else:
            found = True
            yield text.strip()
    if blank and found:
        more = ", ..." if len(blank) > _LISTED else ""
        lines = ", ".join(map(str, blank[:_LISTED])) + more
        note(f"{where}: skipped {counted(len(blank), 'blank line')}: {lines}")


def _standard_input(explicit: bool) -> Iterator[tuple[int, str]]:
    from llamavae.corpora.lines import decode_lines

    if sys.stdin.isatty():
        if not explicit:
            raise UserError("expected text. Pass texts, --file FILE, or lines on standard input")
        note("reading sentences from the keyboard, one per line; press Ctrl-D to end")
    return decode_lines(sys.stdin.buffer, "standard input")


def batches(items: Iterator[str], size: int) -> Iterator[list[str]]:
    """The items in lists of `size`, or one by one if they are typed at a terminal."""
    if isinstance(items, _Typed):
        size = 1
    while batch := list(islice(items, size)):
        yield batch


# ------------------------------------------------------------------------------ text out

_MIN_TEMPERATURE = 1e-6  # temperature, as in `llamavae.modeling.decoder`


@dataclass
class Generation:
    """How latent codes are decoded; greedily by default."""

    panel: ClassVar[str] = "Generation"

    num_samples: Annotated[
        int, typer.Option("--num-samples", "-n", min=1, help="Number of texts per latent code.")
    ] = 1
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Sampling temperature of tokens. Default: greedy decoding, or 1 with "
            "--num-samples above 1."
        ),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Nucleus sampling: sample from the most probable tokens with this total "
            "probability."
        ),
    ] = None
    beams: Annotated[int, typer.Option(min=1, help="Number of beams; 1 for no beam search.")] = 1
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Maximum number of tokens. Default: the maximum length in training."
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option(min=0, help="Random seed, for reproducible samples.")
    ] = None

    def options(self) -> dict[str, Any]:
        """Options of `LlaMaVAE.generate`; also seeds torch."""
        if self.temperature is not None and not _MIN_TEMPERATURE <= self.temperature < math.inf:
            raise UserError(
                f"expected a finite --temperature of at least {_MIN_TEMPERATURE}; got "
                f"{self.temperature}. Omit it for greedy decoding"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"expected a --top-p above 0 and at most 1; got {self.top_p}")
        sampling = self.temperature is not None or self.top_p is not None
        if self.beams > 1 and self.num_samples > self.beams and not sampling:
            raise UserError(
                f"expected at most {self.beams} texts from {self.beams} beams; got --num-samples "
                f"{self.num_samples}. Increase --beams, or add --temperature to sample"
            )
        check_seed(self.seed)
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
