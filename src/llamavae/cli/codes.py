"""Commands between text and latent codes: `encode` and `decode`."""

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
    """Add the commands of this module."""
    for command in (encode, decode):
        app.command()(grouped(command))


def encode(
    model: ModelOptions,
    source: FileOptions,
    text: TextArguments = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Parquet file to write, with columns id, text, mean and logvar. Requires --file. "
            "An interrupted run resumes when the command is repeated.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing output file.")
    ] = False,
    refine: Refine = 0,
) -> None:
    """Encode texts to the mean and log-variance of the posterior q(z|x).

    Without --output, the result is one JSON object per line on standard output.
    """
    if output is not None:
        if source.file is None or text:
            raise UserError(
                "--output requires a file of sentences, so that the run can resume: use --file"
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
            raise KeyboardInterrupt("interrupted; repeat the command to resume") from None
    remarks = [f"{report.sentences:,} sentences are in {report.output}"]
    if report.resumed:
        remarks.append(f"{report.resumed:,} of them from an interrupted run")
    if report.blank:
        remarks.append(f"{report.blank:,} blank lines skipped")
    if report.truncated:
        remarks.append(f"{report.truncated:,} truncated to the encoder's maximum length")
    note("; ".join(remarks))


def decode(
    model: ModelOptions,
    generation: Generation,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="File of latent codes: Parquet as written by `encode --output`, .npy of shape "
            "(N, D), or JSON lines with one vector each. Default: JSON lines on standard input.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Decode latent codes to text. The inverse of `encode`."""
    if file is None and sys.stdin.isatty():
        raise UserError("expected latent codes: give --file FILE, or JSON lines on standard input")
    options = generation.options()
    vae = model.load()
    from llamavae import bulk

    if file is not None:
        bulk.check_same_model(vae, file)
    empty = True
    for codes in bulk.read_latent_codes(file or sys.stdin.buffer, model.batch_size):
        texts = vae.decode_each(codes.z, model.batch_size, **options)
        for index, text in enumerate(texts):
            write(json, text, id=codes.ids[index // generation.num_samples], text=text)
            empty = False
    if empty:
        raise UserError(
            f"{file or 'standard input'}: found no latent codes; expected at least one vector"
        )
