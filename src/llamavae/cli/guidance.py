"""Commands that use a model fitted by `fit-condition`: definitions, guidance and translation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from llamavae.cli.options import (
    Device,
    Dtype,
    FileOptions,
    Json,
    Refine,
    default_model,
    quiet,
)
from llamavae.cli.output import note, write
from llamavae.errors import UserError

if TYPE_CHECKING:
    from llamavae import InvertibleCVAE
    from llamavae.corpora.codwoe import CodwoeItem


@dataclass
class _GuideOptions:
    """The model, and the location of its VAE."""

    panel: ClassVar[str] = "Model"

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            envvar="LLAMAVAE_GUIDE",
            metavar="FOLDER_OR_ID",
            help="Folder written by fit-condition, hub id, or name listed by `llamavae models`. "
            "Default: the best definition model whose backbones are available.",
        ),
    ] = None
    vae: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER_OR_ID", help="VAE that the model was fitted to, if it has moved."
        ),
    ] = None
    word_vectors: Annotated[
        Path | None, typer.Option(help="File of word vectors, if it has moved.")
    ] = None
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER_OR_ID",
            help="Sentence encoder of the words, if it has moved and is not that of the VAE.",
        ),
    ] = None
    device: Device = None
    dtype: Dtype = None

    @cached_property
    def source(self) -> str:
        """Folder, hub id or name of the model, given or default."""
        from llamavae.pretrained import DEFINITIONS

        return default_model(*DEFINITIONS) if self.model is None else self.model

    def load(self, words: list[str] | None = None) -> InvertibleCVAE:
        """Load the model.

        Args:
            words: Words to read from a file of word vectors; None reads all of them.
        """
        quiet()
        from llamavae import InvertibleCVAE
        from llamavae.pretrained.loading import placement

        folder = Path(self.source).expanduser()
        return InvertibleCVAE.from_pretrained(
            folder if folder.is_dir() else self.source,
            self.vae,
            word_vectors=self.word_vectors,
            encoder=self.encoder,
            words=words,
            **placement(self.device, self.dtype),
        )

    def load_for(self, conditions: list[str]) -> InvertibleCVAE:
        """Load the model for conditions that are words or labels.

        Raises:
            UserError: The model encodes any text, and a condition is a label.
        """
        cvae = self.load(conditions)
        if cvae.condition.name == "encoder":  # the other conditions refuse what they do not know
            for given in conditions:
                if "=" in given and given not in cvae.vocabulary:
                    raise UserError(
                        f"{given!r} is a label, but {self.source} takes words. Use a model of "
                        "`llamavae fit-condition --labels` with --model"
                    )
        return cvae


@dataclass
class _Drawing:
    """Number and spread of the latent codes drawn from p(z|c)."""

    n: Annotated[int, typer.Option("-n", min=1, help="Number of texts per condition.")] = 3
    spread: Annotated[
        float,
        typer.Option(
            min=0,
            help="Spread of the latent codes; 0 uses the centre of p(z|c) and returns one text.",
        ),
    ] = 0.7
    seed: Annotated[
        int | None, typer.Option(min=0, help="Random seed, for reproducible draws.")
    ] = None
    draws: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of latent codes to draw and decode per condition, at least -n. Their "
            "texts are ranked by p(z|c) and their agreement with one another, and the best -n are "
            "shown. Default: -n codes without ranking.",
        ),
    ] = None

    def texts(self, cvae: InvertibleCVAE, conditions: Sequence[Any]) -> Iterator[tuple[Any, str]]:
        """Each condition with each of its texts."""
        from llamavae.guidance.sampling import check_draws

        n = 1 if self.spread == 0 else self.n
        if self.draws is not None:
            check_draws(n, self.spread, self.draws)
            for condition in conditions:
                found = cvae.generate([condition], n, self.spread, self.seed, draws=self.draws)
                yield from ((condition, text) for text in found)
            return
        z = cvae.sample_codes(conditions, n, self.spread, self.seed)
        for index, text in enumerate(cvae.vae.decode_each(z)):
            yield conditions[index // n], text


Submission = Annotated[
    Path | None,
    typer.Option(
        help="Write the predictions for a CODWOE --file to this file, in submission format."
    ),
]
CodwoeFile = Annotated[Path | None, typer.Option("--file", "-f", help="CODWOE file (JSON).")]
CodwoeVectors = Annotated[
    Literal["sgns", "char", "electra"] | None,
    typer.Option(help="Vectors of the CODWOE file to use."),
]


def define(
    model: _GuideOptions,
    drawing: _Drawing,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORD", help="Words to define.")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            help="Sentence that contains the word, to define the sense used there. For models "
            "fitted with --context."
        ),
    ] = None,
    file: CodwoeFile = None,
    vectors: CodwoeVectors = None,
    submission: Submission = None,
    json: Json = False,
) -> None:
    """Generate definitions of words."""
    if file is not None and not words:
        if context is not None:
            raise UserError("--context requires words, not --file")
        _define_file(model, drawing, file, vectors, submission, json)
        return
    if not words or file is not None:
        raise UserError("expected words, or --file with a CODWOE file")
    if submission is not None or vectors is not None:
        raise UserError("--submission and --vectors require --file")
    cvae = model.load(words)
    conditions = words if context is None else [(word, context) for word in words]
    for condition, text in drawing.texts(cvae, conditions):
        word = condition if context is None else condition[0]
        write(json, *((word, text) if len(words) > 1 else (text,)), word=word, text=text)


def _define_file(
    model: _GuideOptions,
    drawing: _Drawing,
    file: Path,
    vectors: str | None,
    submission: Path | None,
    json: bool,
) -> None:
    from llamavae.corpora.codwoe import check_submission, read_items, write_definitions

    check_submission(submission)
    items = read_items(file)
    conditions = [_item_condition(item, vectors, file) for item in items]
    cvae = model.load([item.word for item in items if item.word is not None])
    single = replace(drawing, n=1)
    texts = [text for _, text in single.texts(cvae, conditions)]
    for item, text in zip(items, texts, strict=True):
        if submission is None:
            write(json, item.word or item.id, text, id=item.id, word=item.word, text=text)
    if submission is not None:
        write_definitions(submission, [item.id for item in items], texts)
        note(f"{len(texts)} definitions are in {submission}")


def _item_condition(item: CodwoeItem, vectors: str | None, file: Path) -> Any:
    if vectors is not None:
        if vectors not in item.vectors:
            kinds = ", ".join(item.vectors) or "none"
            raise UserError(f"{file}: item {item.id} has no vector {vectors!r}; available: {kinds}")
        return item.vectors[vectors]
    if item.word is None:
        raise UserError(f"{file}: item {item.id} has no word. Choose its vectors with --vectors")
    return item.word


def guide(
    model: _GuideOptions,
    drawing: _Drawing,
    conditions: Annotated[
        list[str],
        typer.Argument(
            metavar="CONDITION", help="Conditions: labels such as tense=past, or words."
        ),
    ],
    json: Json = False,
) -> None:
    """Generate texts for a condition."""
    for condition, text in drawing.texts(model.load_for(conditions), conditions):
        columns = (condition, text) if len(conditions) > 1 else (text,)
        write(json, *columns, condition=condition, text=text)


def translate(
    model: _GuideOptions,
    source: FileOptions,
    here: Annotated[str, typer.Option("--from", help="Condition of the texts.")],
    there: Annotated[str, typer.Option("--to", help="Condition to move them to.")],
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Texts.")] = None,
    refine: Refine = 0,
    json: Json = False,
) -> None:
    """Change the condition of texts, and keep their other content."""
    texts = list(source.read(text))
    cvae = model.load_for([here, there])
    z = cvae.translate(cvae.vae.encode(texts, refine=refine).mean, [here], [there])
    for original, translation in zip(texts, cvae.vae.decode_each(z), strict=True):
        write(json, translation, text=original, translation=translation)


def reverse(
    model: _GuideOptions,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="Definition.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of words to show.")] = 10,
    candidates: Annotated[
        Path | None, typer.Option(help="File of candidate words, one per line.")
    ] = None,
    file: CodwoeFile = None,
    vectors: CodwoeVectors = None,
    submission: Submission = None,
    json: Json = False,
) -> None:
    """Find the words that match a definition (reverse dictionary)."""
    if file is not None and text is None:
        if submission is None or vectors is None:
            raise UserError("a CODWOE --file requires --submission and --vectors")
        _reverse_file(model, file, vectors, submission)
        return
    if text is None or not text.strip() or file is not None:
        raise UserError("expected a definition, or --file with a CODWOE file")
    if submission is not None or vectors is not None:
        raise UserError("--submission and --vectors require --file")
    words = None
    if candidates is not None:
        words = list(dict.fromkeys(FileOptions(file=candidates).read(None)))
    cvae = model.load(words)
    if words is not None:
        known = [word for word in words if cvae.condition.has(word)]
        if missing := [word for word in words if word not in set(known)]:
            first = ", ".join(map(repr, missing[:5])) + ", ..." * (len(missing) > 5)
            note(
                f"left out {len(missing)} of {len(words)} candidates, which have no vector: {first}"
            )
        words = known
    names = cvae.vocabulary if words is None else words
    for index, density in cvae.rank(text, words, k):
        write(json, f"{density:.2f}", names[index], word=names[index], log_prob=density)


def _reverse_file(model: _GuideOptions, file: Path, vectors: str, submission: Path) -> None:
    from llamavae.corpora.codwoe import check_submission, read_items, write_vectors

    check_submission(submission)
    items = read_items(file)
    for item in items:
        if item.gloss is None:
            raise UserError(f"{file}: item {item.id} has no gloss; expected a gloss for each item")
    cvae = model.load([])  # no words are needed
    if cvae.condition.name not in ("vectors", "word-vectors"):
        raise UserError(
            f"expected a model with word vectors as condition; got {cvae.condition.name}. Fit one "
            f"with `llamavae fit-condition --corpus codwoe --vectors {vectors}`"
        )
    c = cvae.predict([str(item.gloss) for item in items])
    write_vectors(submission, [item.id for item in items], {vectors: c.numpy()})
    note(f"{len(items)} vectors ({vectors}) are in {submission}")
