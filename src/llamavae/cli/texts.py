"""Commands between texts and latent codes."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llamavae.cli.options import (
    FileOptions,
    Generation,
    Json,
    ModelOptions,
    Refine,
    TextArguments,
    batches,
)
from llamavae.cli.output import write
from llamavae.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from llamavae import LlaMaVAE

SEARCH_BATCH = 512  # minimum number of sentences per search
Steps = Annotated[int, typer.Option(help="Number of latent codes.")]


def reconstruct(
    model: ModelOptions,
    source: FileOptions,
    generation: Generation,
    text: TextArguments = None,
    refine: Refine = 0,
    json: Json = False,
) -> None:
    """Encode texts and decode their latent codes."""
    options = generation.options()
    originals = source.read(text)
    vae = model.load()
    for batch in batches(originals, model.batch_size):
        z = vae.posterior_means(batch, model.batch_size, refine=refine)
        texts = vae.decode_each(z, model.batch_size, **options)
        for index, reconstruction in enumerate(texts):
            original = batch[index // generation.num_samples]
            write(json, reconstruction, text=original, reconstruction=reconstruction)


def sample(
    model: ModelOptions,
    generation: Generation,
    count: Annotated[int, typer.Argument(min=1, help="Number of latent codes.")] = 1,
    spread: Annotated[
        float,
        typer.Option(
            min=0, help="Spread of the latent codes; below 1, they are closer to the centre."
        ),
    ] = 1.0,
    prior: Annotated[
        str | None,
        typer.Option(
            metavar="KIND_OR_FOLDER",
            help="Prior to sample from: standard, which is N(0, I), or one fitted by fit-prior "
            "(gaussian, mixture, flow, or its folder). Default: the model's default prior.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Sample latent codes from a prior and decode them."""
    options = generation.options()
    vae = model.load()
    z = vae.sample_codes(count, prior, spread, generation.seed)
    for text in vae.decode_each(z, model.batch_size, **options):
        write(json, text, text=text)


def interpolate(
    model: ModelOptions,
    source: FileOptions,
    generation: Generation,
    text: TextArguments = None,
    steps: Steps = 9,
    mode: Annotated[
        Literal["linear", "slerp"],
        typer.Option(help="linear: along a straight line. slerp: along an arc."),
    ] = "linear",
    refine: Refine = 0,
    json: Json = False,
) -> None:
    """Interpolate between the latent codes of two texts."""
    from llamavae.latent.paths import PATHS

    options = generation.options()
    start, end = _exactly(2, source.read(text))
    vae = model.load()
    a, b = (vae.latent_code(text, refine=refine) for text in (start, end))
    z = PATHS[mode](a, b, steps)
    texts = vae.decode_each(z, model.batch_size, **options)
    for index, decoded in enumerate(texts):
        position = index // generation.num_samples / (steps - 1)
        write(json, f"{position:.2f}", decoded, position=position, text=decoded)


def traverse(
    model: ModelOptions,
    source: FileOptions,
    generation: Generation,
    dim: Annotated[int, typer.Option(help="Latent dimension to change, from 0.")],
    text: TextArguments = None,
    steps: Steps = 7,
    refine: Refine = 0,
    json: Json = False,
) -> None:
    """Vary one latent dimension of texts over the range of the prior."""
    from llamavae.latent import traversal

    options = generation.options()
    starts = source.read(text)
    vae = model.load()
    for start in starts:
        z = traversal(vae.latent_code(start, refine=refine), dim, steps)
        values = [float(value) for value in z[:, dim]]
        for index, decoded in enumerate(vae.decode_each(z, model.batch_size, **options)):
            value = values[index // generation.num_samples]
            write(json, f"{value:+.2f}", decoded, start=start, value=value, text=decoded)


def arithmetic(
    model: ModelOptions,
    source: FileOptions,
    generation: Generation,
    text: TextArguments = None,
    refine: Refine = 0,
    json: Json = False,
) -> None:
    """Decode A - B + C of the latent codes of three texts."""
    options = generation.options()
    a, b, c = _exactly(3, source.read(text))
    for decoded in model.load().arithmetic(a, b, c, refine=refine, **options):
        write(json, decoded, a=a, b=b, c=c, text=decoded)


def average(
    model: ModelOptions,
    source: FileOptions,
    generation: Generation,
    text: TextArguments = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Weight of a text, in the order of the texts. Default: equal weights."),
    ] = None,
    refine: Refine = 0,
    json: Json = False,
) -> None:
    """Decode the mean of the latent codes of several texts."""
    options = generation.options()
    texts = list(source.read(text))
    if weight is not None and len(weight) != len(texts):
        raise UserError(f"expected a --weight for each of {len(texts)} texts; got {len(weight)}")
    encoding = {"refine": refine, "batch_size": model.batch_size}
    for decoded in model.load().average(texts, weight, **encoding, **options):
        write(json, decoded, texts=texts, text=decoded)


def steer(
    model: ModelOptions,
    source: FileOptions,
    generation: Generation,
    towards: Annotated[
        Path, typer.Option(help="File of sentences that have a property, one per line.")
    ],
    away_from: Annotated[Path, typer.Option(help="File of sentences that lack the property.")],
    text: TextArguments = None,
    strength: Annotated[
        float, typer.Option(help="Factor on the direction; below 0 moves the other way.")
    ] = 1.0,
    refine: Refine = 0,
    json: Json = False,
) -> None:
    """Move texts along the direction between two kinds of sentences, and decode them."""
    options = generation.options()
    if not math.isfinite(strength):
        raise UserError(f"expected a finite --strength; got {strength}")
    originals = source.read(text)
    kinds = [list(FileOptions(file=path).read(None)) for path in (towards, away_from)]
    vae = model.load()
    encoding = {"refine": refine, "batch_size": model.batch_size}
    direction = vae.direction(*kinds, **encoding)
    for batch in batches(originals, model.batch_size):
        found = vae.steer(batch, direction, strength, **encoding, **options)
        for index, steered in enumerate(found):
            original = batch[index // generation.num_samples]
            write(json, steered, text=original, steered=steered)


def _exactly(count: int, texts: Iterator[str]) -> list[str]:
    found = list(texts)
    if len(found) != count:
        raise UserError(f"expected {count} texts; got {len(found)}")
    return found


def neighbours(
    model: ModelOptions,
    source: FileOptions,
    query: Annotated[str, typer.Argument(help="Text to find neighbours of.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Number of neighbours.")] = 5,
    index: Annotated[
        Path | None,
        typer.Option(help="Search in this index of `llamavae index`, instead of a file."),
    ] = None,
    probes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of cells of the index that are read. More cells find more of the nearest "
            "sentences, in more time.",
        ),
    ] = 128,
    refine: Refine = 0,
    json: Json = False,
) -> None:
    """Find the nearest sentences to a text, among those of a file or of standard input.

    A Parquet file written by `llamavae encode --output` is searched without encoding it again. Use
    the same --refine as for that command. Many sentences are searched faster with --index.
    """
    if index is not None:
        if source.file is not None:
            raise UserError("expected --file or --index, not both")
        from llamavae.index import Index

        searched = Index(index, probes)
        vae = model.load()
        searched.check_model(vae)
        for number, cosine, text in searched.neighbours(vae.latent_code(query, refine=refine), k):
            write(json, f"{cosine:.4f}", text, cosine=cosine, index=number, text=text)
        return
    codes = source.file if source.file is not None and _has_codes(source.file) else None
    sentences = source.read(None) if codes is None else iter(())
    vae = model.load()
    z_query = vae.latent_code(query, refine=refine)
    if codes is None:
        candidates = _from_sentences(vae, sentences, model.batch_size, refine)
    else:
        candidates = _from_codes(vae, codes)
    best: list[tuple[float, int, str]] = []
    offset = 0
    for texts, z in candidates:
        found = vae.neighbours(z_query, z, k)
        rows = [(cosine, -(offset + index), texts[index]) for index, cosine in found]
        best = heapq.nlargest(k, [*best, *rows])
        offset += len(texts)
    for cosine, position, text in best:
        write(json, f"{cosine:.4f}", text, cosine=cosine, index=-position, text=text)


Candidates = Iterator[tuple[list[str], "Tensor"]]


def _from_sentences(
    vae: LlaMaVAE, sentences: Iterator[str], batch_size: int, refine: int
) -> Candidates:
    for batch in batches(sentences, max(batch_size, SEARCH_BATCH)):
        yield batch, vae.posterior_means(batch, batch_size, refine=refine)


def _from_codes(vae: LlaMaVAE, file: Path) -> Candidates:
    from llamavae.data import code_files

    code_files.check_same_model(vae, file)
    for codes in code_files.read_latent_codes(file):
        yield codes.texts or [str(number) for number in codes.ids], codes.z


def _has_codes(path: Path) -> bool:
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return path.suffix.lower() == ".npy"
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return "mean" in pq.read_schema(path).names
    except (pa.ArrowException, OSError):
        return False
