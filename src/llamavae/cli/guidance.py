"""Verbs that let a condition steer a model: `fit-condition`, and what its result can do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llamavae.cli.options import (
    Device,
    Dtype,
    FileOptions,
    FlowOptions,
    Json,
    ModelOptions,
    PairOptions,
    Refine,
    default_model,
    grouped,
    placement,
    quiet,
)
from llamavae.cli.output import note, write
from llamavae.errors import UserError, unknown
from llamavae.files import disk_errors

if TYPE_CHECKING:
    from llamavae import InvertibleCVAE, LlaMaVAE
    from llamavae.corpora.codwoe import CodwoeItem
    from llamavae.flows import FlowFit
    from llamavae.guidance import Condition, Pairs


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    for verb in (fit_condition, define, guide, translate, reverse):
        app.command()(grouped(verb))


# ------------------------------------------------------------------------------- fitting


@dataclass
class ConditionOptions(PairOptions):
    """What of each row is the condition."""

    split: Annotated[
        Literal["train", "validation", "test", "all"], typer.Option(help="Part of the corpus.")
    ] = "train"
    word: Annotated[
        str, typer.Option(help="Column with the words, for the encoder or a file of word vectors.")
    ] = "word"
    context: Annotated[
        str | None,
        typer.Option(
            help="Column with the sentence around each word, or nothing. The model learns such a "
            "word both ways, alone and in its sentence."
        ),
    ] = None
    labels: Annotated[
        str | None, typer.Option(help="Columns of labels, divided by commas, as the condition.")
    ] = None
    vectors: Annotated[
        str | None,
        typer.Option(
            help="Column with a vector in each row, or a matrix in .npy or .parquet with a row for "
            "each text, as the condition."
        ),
    ] = None

    def pairs(self, vae: LlaMaVAE) -> tuple[Condition, Pairs, list[str]]:
        """The condition, the texts with theirs, and what can be asked.

        Raises:
            UserError: Options contradict one another, or the corpus does not fit them.
        """
        from llamavae.guidance import make_pairs

        kinds = ("word_vectors", "encoder", "labels", "vectors")
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) > 1:
            names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UserError(f"a model has one condition; got {names}")
        data = self.rows(None if self.split == "all" else self.split, self.limit)
        condition, vectors = self._condition(vae, data)
        pairs = make_pairs(
            data,
            condition,
            word=self.word,
            context=self.context,
            also_alone=True,
            vectors=vectors,
        )
        if self.vectors is not None:
            words: list[str] = []  # vectors of the user's own have no words
        elif self.context is None:
            words = pairs.names
        else:
            words = [str(word) for word in data[self.word]]
        return condition, pairs, list(dict.fromkeys(words))

    def _condition(self, vae: LlaMaVAE, data: Any) -> tuple[Condition, Any]:
        from llamavae.corpora.matrices import column_matrix, read_matrix
        from llamavae.guidance import LabelCondition, VectorCondition
        from llamavae.guidance.conditions import read_column

        if self.labels is not None:
            columns = [name.strip() for name in self.labels.split(",")]
            return LabelCondition.from_rows(data, columns), None
        if self.vectors is not None:
            if self.vectors in data.column_names:
                column = data.select_columns(self.vectors).with_format("arrow")[:]
                matrix = column_matrix(column.column(self.vectors), f"column {self.vectors!r}")
            elif Path(self.vectors).suffix in (".npy", ".parquet"):
                matrix = read_matrix(Path(self.vectors))
            else:
                raise unknown(
                    "column", self.vectors, data.column_names, hint="A .npy or .parquet serves too."
                )
            return VectorCondition(matrix.shape[1]), matrix
        words = set() if self.word_vectors is None else set(map(str, read_column(data, self.word)))
        return self.word_condition(vae, words), None


def fit_condition(
    model: ModelOptions,
    source: ConditionOptions,
    options: FlowOptions,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the result.")] = Path(
        "runs/guided"
    ),
    flow: Annotated[
        str, typer.Option(help="Architecture: glow, spline, maf, linear-gaussian or gaussian.")
    ] = "glow",
    form: Annotated[
        Literal["reference", "conditional"],
        typer.Option(help="Condition as mean in the flow's output space, or as its input."),
    ] = "reference",
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the fit in the output folder.")
    ] = False,
) -> None:
    """Fit an invertible CVAE: a flow that leads from a condition to a model's latent space.

    The condition is the sentence encoder's vector of a word, unless an option says otherwise.
    """
    import torch

    from llamavae.flows import flow_names

    if flow not in flow_names():
        raise unknown("flow", flow, flow_names())
    fitting, networks = options.fitting(seed), options.networks(form)
    if (output / "config.json").is_file():
        raise UserError(f"{output} already holds a model; choose another place with --output")
    state = output / "state"
    if state.exists() and not resume:
        raise UserError(
            f"{output} holds an interrupted fit. Continue it with --resume, or choose another "
            "place with --output"
        )
    vae = model.load()
    from llamavae import InvertibleCVAE

    condition, pairs, vocabulary = source.pairs(vae)
    torch.manual_seed(seed)
    cvae = InvertibleCVAE.build(vae, condition, flow, form, **networks)
    note(f"{len(pairs):,} pairs with conditions of size {condition.dim}")
    with disk_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    try:
        fit = cvae.fit(
            pairs,
            vocabulary=vocabulary,
            posterior_scale=options.posterior_scale,
            fitting=fitting,
            state=state,
        )
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"interrupted; continue with the same command and --resume (state in {state})"
        ) from error
    cvae.save_pretrained(output)
    shutil.rmtree(state, ignore_errors=True)
    _show(fit)
    note(f"the model is in {output}; use it with --model {output}")


def _show(fit: FlowFit) -> None:
    """The held-out NLLs, best first."""
    rows = {**fit.references, "this flow": fit.nll}
    for name, nll in sorted(rows.items(), key=lambda row: row[1]):
        write(False, f"{nll:.4f}", name)
    note(
        f"held-out NLL in nats per dimension, lower is better; stopped: {fit.stopped}, kept step "
        f"{fit.best_step}; largest inverse error {fit.inverse_error:.1e}"
    )


# ------------------------------------------------------------------------------- using


@dataclass
class GuideOptions:
    """Which model, and where its VAE is."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            envvar="LLAMAVAE_GUIDE",
            metavar="FOLDER_OR_ID",
            help="What fit-condition wrote, hub id, or a name of `llamavae models`. Default: the "
            "best model of definitions of which all backbones were fetched.",
            rich_help_panel="Model",
        ),
    ] = None
    vae: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER_OR_ID",
            help="The VAE it was fitted for, where it has moved.",
            rich_help_panel="Model",
        ),
    ] = None
    word_vectors: Annotated[
        Path | None,
        typer.Option(help="The file of word vectors, where it has moved.", rich_help_panel="Model"),
    ] = None
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER_OR_ID",
            help="The sentence encoder that reads words, where it is not the VAE's and has moved.",
            rich_help_panel="Model",
        ),
    ] = None
    device: Device = None
    dtype: Dtype = None

    def load(self, words: list[str] | None = None) -> InvertibleCVAE:
        """The model.

        Args:
            words: All that will be asked of a file of word vectors; None reads the whole file.

        Raises:
            UserError: It cannot be loaded.
        """
        quiet()
        from llamavae import InvertibleCVAE
        from llamavae.pretrained import DEFINITIONS

        name = default_model(*DEFINITIONS) if self.model is None else self.model
        source = Path(name).expanduser()
        return InvertibleCVAE.from_pretrained(
            source if source.is_dir() else name,
            self.vae,
            word_vectors=self.word_vectors,
            encoder=self.encoder,
            words=words,
            **placement(self.device, self.dtype),
        )


@dataclass
class Drawing:
    """How many texts, and how far from the centre of p(z|c)."""

    n: Annotated[int, typer.Option("-n", min=1, help="Texts for each condition.")] = 3
    spread: Annotated[
        float,
        typer.Option(
            min=0,
            help="Spread of the latent codes; 0 takes the centre of p(z|c) and gives one text.",
        ),
    ] = 0.7
    seed: Annotated[int | None, typer.Option(min=0, help="Make draws repeatable.")] = None
    draws: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Codes that are drawn and decoded for each condition, at least -n; the best texts "
            "are shown, by p(z|c) of the text and its agreement with the others. Default: -n "
            "codes, unranked.",
        ),
    ] = None

    def texts(self, cvae: InvertibleCVAE, asked: Sequence[Any]) -> Iterator[tuple[Any, str]]:
        """What was asked, with each of its texts."""
        from llamavae.guidance.sampling import check_draws

        n = 1 if self.spread == 0 else self.n
        if self.draws is not None:
            check_draws(n, self.spread, self.draws)
            for one in asked:
                found = cvae.generate([one], n, self.spread, self.seed, draws=self.draws)
                yield from ((one, text) for text in found)
            return
        z = cvae.points(asked, n, self.spread, self.seed)
        for index, text in enumerate(cvae.vae.decode_each(z)):
            yield asked[index // n], text


Submission = Annotated[
    Path | None,
    typer.Option(help="Write the predictions for a CODWOE --file in its submission format."),
]
CodwoeFile = Annotated[
    Path | None, typer.Option("--file", "-f", help="CODWOE file (JSON) with many of them.")
]
CodwoeVectors = Annotated[
    Literal["sgns", "char", "electra"] | None,
    typer.Option(help="With a CODWOE file: which vectors are the condition."),
]


def define(
    model: GuideOptions,
    drawing: Drawing,
    words: Annotated[list[str] | None, typer.Argument(metavar="WORD", help="Words.")] = None,
    context: Annotated[
        str | None,
        typer.Option(
            help="A sentence in which the word stands, for its sense there; for models that were "
            "fitted with --context."
        ),
    ] = None,
    file: CodwoeFile = None,
    vectors: CodwoeVectors = None,
    submission: Submission = None,
    json: Json = False,
) -> None:
    """Write definitions of words."""
    if file is not None and not words:
        if context is not None:
            raise UserError("--context goes with words, not with --file")
        _define_file(model, drawing, file, vectors, submission, json)
        return
    if not words or file is not None:
        raise UserError("give words, or --file with a CODWOE file")
    if submission is not None or vectors is not None:
        raise UserError("--submission and --vectors go with --file")
    cvae = model.load(words)
    asked = words if context is None else [(word, context) for word in words]
    for one, text in drawing.texts(cvae, asked):
        word = one if context is None else one[0]
        write(json, *((word, text) if len(words) > 1 else (text,)), word=word, text=text)


def _define_file(
    model: GuideOptions,
    drawing: Drawing,
    file: Path,
    vectors: str | None,
    submission: Path | None,
    json: bool,
) -> None:
    from llamavae.corpora.codwoe import read_items, write_definitions

    _check_place(submission)
    items = read_items(file)
    asked = [_asked(item, vectors, file) for item in items]
    cvae = model.load([item.word for item in items if item.word is not None])
    one = replace(drawing, n=1)
    texts = [text for _, text in one.texts(cvae, asked)]
    for item, text in zip(items, texts, strict=True):
        if submission is None:
            write(json, item.word or item.id, text, id=item.id, word=item.word, text=text)
    if submission is not None:
        write_definitions(submission, [item.id for item in items], texts)
        note(f"{len(texts)} definitions are in {submission}")


def _check_place(submission: Path | None) -> None:
    """Refuse a file that cannot be written before its contents are computed."""
    if submission is not None and not submission.expanduser().parent.is_dir():
        raise UserError(f"there is no folder {submission.parent} for --submission: make it first")


def _asked(item: CodwoeItem, vectors: str | None, file: Path) -> Any:
    if vectors is not None:
        if vectors not in item.vectors:
            kinds = ", ".join(item.vectors) or "none"
            raise UserError(f"{file}: item {item.id} has no vector {vectors!r} (it has: {kinds})")
        return item.vectors[vectors]
    if item.word is None:
        raise UserError(f"{file}: item {item.id} has no word; name its vectors with --vectors")
    return item.word


def guide(
    model: GuideOptions,
    drawing: Drawing,
    asked: Annotated[
        list[str], typer.Argument(metavar="CONDITION", help="Labels such as tense=past, or words.")
    ],
    json: Json = False,
) -> None:
    """Write texts that a condition asks for."""
    for one, text in drawing.texts(model.load(asked), asked):
        write(json, *((one, text) if len(asked) > 1 else (text,)), condition=one, text=text)


def translate(
    model: GuideOptions,
    source: FileOptions,
    here: Annotated[str, typer.Option("--from", help="The condition that the texts answer.")],
    there: Annotated[str, typer.Option("--to", help="The condition that they are to answer.")],
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Texts.")] = None,
    refine: Refine = 0,
    json: Json = False,
) -> None:
    """Move texts from one condition to another, and keep what is particular to each."""
    texts = list(source.read(text))
    cvae = model.load([here, there])
    z = cvae.translate(cvae.vae.encode(texts, refine=refine).mean, [here], [there])
    for original, written in zip(texts, cvae.vae.decode_each(z), strict=True):
        write(json, written, text=original, translation=written)


def reverse(
    model: GuideOptions,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="A definition.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many are shown.")] = 10,
    candidates: Annotated[
        Path | None, typer.Option(help="File of words to choose from, one a line.")
    ] = None,
    file: CodwoeFile = None,
    vectors: CodwoeVectors = None,
    submission: Submission = None,
    json: Json = False,
) -> None:
    """Find the words that a definition defines: a reverse dictionary."""
    if file is not None and text is None:
        if submission is None or vectors is None:
            raise UserError("a CODWOE --file goes with --submission and --vectors")
        _reverse_file(model, file, vectors, submission)
        return
    if text is None or not text.strip() or file is not None:
        raise UserError("give a definition, or --file with a CODWOE file")
    if submission is not None or vectors is not None:
        raise UserError("--submission and --vectors go with --file")
    words = None
    if candidates is not None:
        words = list(dict.fromkeys(FileOptions(file=candidates).read(None)))
    cvae = model.load(words)
    if words is not None:
        known = [word for word in words if cvae.condition.has(word)]
        if missing := [word for word in words if word not in set(known)]:
            first = ", ".join(map(repr, missing[:5])) + ", ..." * (len(missing) > 5)
            note(f"{len(missing)} of {len(words)} candidates left out, without a vector: {first}")
        words = known
    names = cvae.vocabulary if words is None else words
    for index, density in cvae.rank(text, words, k):
        write(json, f"{density:.2f}", names[index], word=names[index], log_prob=density)


def _reverse_file(model: GuideOptions, file: Path, vectors: str, submission: Path) -> None:
    from llamavae.corpora.codwoe import read_items, write_vectors

    _check_place(submission)
    items = read_items(file)
    for item in items:
        if item.gloss is None:
            raise UserError(f"{file}: item {item.id} has no gloss to find a vector for")
    cvae = model.load([])  # no word is asked
    if cvae.condition.name not in ("matrix", "word-vectors"):
        raise UserError(
            f"the condition of this model is {cvae.condition.name}, not a vector of words: for a "
            f"submission fit one with `llamavae fit-condition --corpus codwoe --vectors {vectors}`"
        )
    c = cvae.predict([str(item.gloss) for item in items])
    write_vectors(submission, [item.id for item in items], {vectors: c.numpy()})
    note(f"{len(items)} vectors ({vectors}) are in {submission}")
