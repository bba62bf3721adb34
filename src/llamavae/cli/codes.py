"""The commands `encode` and `decode`: texts to latent codes and back, also for large files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from llamavae.cli.engine import EngineOptions
from llamavae.cli.options import (
    FileOptions,
    Generation,
    Json,
    ModelOptions,
    Refine,
    TextArguments,
    batches,
)
from llamavae.cli.output import note, progress_bar, resumable, write
from llamavae.errors import UserError


def encode(
    model: ModelOptions,
    source: FileOptions,
    engine: EngineOptions,
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
    refine: Refine = 0,
    vectors: Annotated[
        Path | None,
        typer.Option(
            help="File of sentence vectors to encode instead of texts: .npy of shape (N, H), "
            "Parquet with a column h or vector, or JSON lines with one vector each. For models "
            "trained on precomputed vectors."
        ),
    ] = None,
) -> None:
    """Encode texts to the mean and log-variance of the posterior q(z|x).

    Without --output, the result is one JSON object per line on standard output.
    """
    runner = engine.create(output)
    if vectors is not None:
        if text or source.file is not None or output is not None or refine:
            raise UserError("--vectors is used alone: without texts, --file, --output and --refine")
        _encode_vectors(model, vectors)
        return
    if output is None:
        texts = source.read(text)
        vae = model.load()
        for batch in batches(texts, model.batch_size):
            posterior = vae.encode(batch, model.batch_size, refine=refine)
            means, logvars = posterior.mean.tolist(), posterior.logvar.tolist()
            for one, mean, logvar in zip(batch, means, logvars, strict=True):
                write(True, text=one, mean=mean, logvar=logvar)
        return
    if source.file is None or text:
        raise UserError(
            "--output requires a file of sentences, so that the run can resume. Use --file"
        )
    from llamavae.bulk import check_paths, encode_file

    check_paths(source.file, output, engine.overwrite)  # before loading the model
    with progress_bar("encoding", "sentences") as update, resumable():
        report = encode_file(
            engine.model(model),
            source.file,
            output,
            column=source.column,
            batch_size=model.batch_size,
            overwrite=engine.overwrite,
            refine=refine,
            progress=update,
            engine=runner,
        )
    remarks = [f"{report.sentences:,} sentences are in {report.output}"]
    if report.resumed:
        remarks.append(f"{report.resumed:,} of them from an interrupted run")
    if report.blank:
        remarks.append(f"{report.blank:,} blank lines skipped")
    if report.truncated:
        remarks.append(f"{report.truncated:,} truncated to the encoder's maximum length")
    note("; ".join(remarks))


def _encode_vectors(model: ModelOptions, file: Path) -> None:
    vae = model.load()
    from llamavae.data import code_files

    empty = True
    for batch in code_files.read_latent_codes(file, model.batch_size, code_files.SENTENCE_VECTORS):
        empty = False
        posterior = vae.encode(batch.z)
        means, logvars = posterior.mean.tolist(), posterior.logvar.tolist()
        for i, (mean, logvar) in enumerate(zip(means, logvars, strict=True)):
            text = {} if batch.texts is None else {"text": batch.texts[i]}
            write(True, id=batch.ids[i], **text, mean=mean, logvar=logvar)
    if empty:
        raise UserError(f"{file}: found no sentence vectors; expected at least one")


def decode(
    model: ModelOptions,
    generation: Generation,
    engine: EngineOptions,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="File of latent codes: Parquet as written by `encode --output`, .npy of shape "
            "(N, D), or JSON lines with one vector each. Default: JSON lines on standard input.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Parquet file to write, with columns id and text. Requires --file. An interrupted "
            "run resumes when the command is repeated.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Decode latent codes to text. The inverse of `encode`.

    Without --output, the texts are written to standard output.
    """
    if file is None and output is not None:
        raise UserError(
            "--output requires a file of latent codes, so that the run can resume. Use --file"
        )
    if file is None and sys.stdin.isatty():
        raise UserError("expected latent codes. Pass --file FILE, or JSON lines on standard input")
    runner = engine.create(output)
    options = generation.options()
    if file is not None and output is not None:
        from llamavae.bulk import check_paths, decode_file

        check_paths(file, output, engine.overwrite)  # before loading the model
        with progress_bar("decoding", "codes") as update, resumable():
            report = decode_file(
                engine.model(model),
                file,
                output,
                batch_size=model.batch_size,
                seed=generation.seed,
                overwrite=engine.overwrite,
                progress=update,
                engine=runner,
                **options,
            )
        resumed = f"; {report.resumed:,} of them from an interrupted run" * bool(report.resumed)
        note(f"{report.texts:,} texts are in {report.output}{resumed}")
        return
    vae = model.load()
    from llamavae.data import code_files

    if file is not None:
        code_files.check_same_model(vae, file)
    empty = True
    for codes in code_files.read_latent_codes(file or sys.stdin.buffer, model.batch_size):
        texts = vae.decode_each(codes.z, model.batch_size, **options)
        for index, text in enumerate(texts):
            write(json, text, id=codes.ids[index // generation.num_samples], text=text)
            empty = False
    if empty:
        raise UserError(
            f"{file or 'standard input'}: found no latent codes; expected at least one vector"
        )
