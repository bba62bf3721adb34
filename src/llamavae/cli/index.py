"""The command that builds an index of latent codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamavae.cli.options import ModelOptions
from llamavae.cli.output import note, progress_bar


def index(
    model: ModelOptions,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Files of sentences, or Parquet files of `llamavae encode --output`.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the index.")],
    column: Annotated[
        str | None,
        typer.Option(help="Column with the sentences. Default: text, else the only one with text."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
) -> None:
    """Build an index of sentences for `llamavae neighbours --index`.

    The sentences are encoded in parts, and their codes wait on disk. Up to 20,000 sentences are
    searched exactly.
    """
    from llamavae.index import build_index, check_index_output

    check_index_output(output)  # before loading the model
    vae = model.load()
    with progress_bar("encoding", "sentences") as update:
        built = build_index(
            vae,
            files,
            output,
            column=column,
            batch_size=model.batch_size,
            seed=seed,
            progress=lambda done: update(done, None),
        )
    kind = f"{built.cells:,} cells" if built.cells else "exact search"
    note(f"{built.sentences:,} sentences are in {output} ({kind})")
