"""Commands that list bundled recipes and named corpora."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from llamavae.cli import output
from llamavae.cli.options import Json
from llamavae.cli.output import note, write
from llamavae.errors import UserError
from llamavae.files import write_text

recipes = typer.Typer(help="List, print and copy bundled recipes.")
Name = Annotated[str, typer.Argument(help="Name of a bundled recipe.")]


@recipes.callback(invoke_without_command=True)
def _list(context: typer.Context, json: Json = False) -> None:
    if context.invoked_subcommand is not None:
        return
    from llamavae.training.recipe import load_recipe, recipe_names

    names = recipe_names()
    _table(json, [{"name": name, "description": load_recipe(name).description} for name in names])


@recipes.command()
def show(name: Name) -> None:
    """Print the YAML of a recipe, including comments."""
    from llamavae.training.recipe import recipe_text

    output.write_text(recipe_text(name))


@recipes.command()
def copy(name: Name, file: Annotated[Path, typer.Argument(help="Path of the new file.")]) -> None:
    """Copy a recipe to a file that you can edit and pass to `llamavae train --recipe FILE`."""
    from llamavae.training.recipe import recipe_text

    text = recipe_text(name)
    if file.suffix not in (".yaml", ".yml"):
        raise UserError(f"expected a file name that ends in .yaml; got {file}")
    if file.exists():
        raise UserError(f"{file} already exists. Choose another name")
    write_text(file, text)
    note(f"wrote {file}. Train with: llamavae train --recipe {shlex.quote(str(file))}")


def corpora(json: Json = False) -> None:
    """List the named corpora. Commands also accept files and hub datasets as corpora."""
    from llamavae.corpora.registry import describe_corpora

    _table(json, describe_corpora())


def _table(json: bool, rows: list[dict[str, Any]]) -> None:
    """Write rows as aligned columns, or as JSON."""
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        if json:
            write(True, **row)
        else:
            name, *others = row.values()
            output.write_text(f"{name:{width}}  {'; '.join(others)}\n")
