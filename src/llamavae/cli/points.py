"""Verbs between text and points: `encode` and `decode`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from llamavae.cli.options import (
    FileOptions,
    Generation,
    Json,
    ModelOptions,
    Refine,
    TextArguments,
    batches,
    grouped,
)
from llamavae.cli.output import note, progress_bar, write
from llamavae.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    for verb in (encode, decode):
        app.command()(grouped(verb))


def encode(
    model: ModelOptions,
    source: FileOptions,
    text: TextArguments = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write a Parquet file (id, text, mean, logvar) of the sentences of --file. A run "
            "that was interrupted resumes when it is called again.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output that exists.")
    ] = False,
    refine: Refine = 0,
) -> None:
    """Turn texts into points: mean and log-variance of q(z|x).

    Without --output, they are written as one JSON object a line.
    """
    if output is not None:
        if source.file is None or text:
            raise UserError(
                "--output reads a file, so that it can resume: give the sentences with --file"
            )
        _encode_file(model, source, source.file, output, overwrite, refine)
        return
    texts = source.read(text)
    vae = model.load()
    for batch in batches(texts, model.batch_size):
        posterior = vae.encode(batch, model.batch_size, refine=refine)
        means, logvars = posterior.mean.tolist(), posterior.logvar.tolist()
        for one, mean, logvar in zip(batch, means, logvars, strict=True):
            write(True, text=one, mean=mean, logvar=logvar)


def _encode_file(
    model: ModelOptions,
    source: FileOptions,
    file: Path,
    output: Path,
    overwrite: bool,
    refine: int,
) -> None:
    vae = model.load()
    from llamavae.bulk import encode_file

    with progress_bar("encoding", "sentences") as update:
        try:
            report = encode_file(
                vae,
                file,
                output,
                column=source.column,
                batch_size=model.batch_size,
                overwrite=overwrite,
                refine=refine,
                progress=update,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the same command resumes") from None
    remarks = [f"{report.sentences:,} sentences in {report.output}"]
    if report.resumed:
        remarks.append(f"{report.resumed:,} of them from an interrupted run")
    if report.blank:
        remarks.append(f"{report.blank:,} blank lines skipped")
    if report.truncated:
        remarks.append(f"{report.truncated:,} longer than the encoder reads, and cut")
    note("; ".join(remarks))


def decode(
    model: ModelOptions,
    generation: Generation,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="Latent codes: a Parquet file of `encode --output`, a .npy file of shape (N, D), "
            "or JSON lines with a vector each. Default: such lines from standard input.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write the texts of points: the way back from `encode`."""
    if file is None and sys.stdin.isatty():
        raise UserError("there are no points: give --file FILE, or pipe JSON lines in")
    options = generation.options()
    vae = model.load()
    from llamavae import bulk

    if file is not None:
        bulk.check_same_model(vae, file)
    empty = True
    for points in bulk.read_latent_codes(file or sys.stdin.buffer, model.batch_size):
        texts = vae.decode_each(points.z, model.batch_size, **options)
        for index, written in enumerate(texts):
            write(json, written, id=points.ids[index // generation.num_samples], text=written)
            empty = False
    if empty:
        raise UserError(f"{file or 'standard input'}: there are no points in it")
