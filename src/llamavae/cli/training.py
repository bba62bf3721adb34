"""Commands that train models: `train` and `demo`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from llamavae.cli.options import quiet
from llamavae.cli.output import note
from llamavae.errors import UserError

if TYPE_CHECKING:
    from llamavae.training.recipe import Recipe

_FINE_TUNE = "fine-tune"  # the default recipe of --from
_ALL_SETTINGS = "llamavae.all_settings"  # key in the metadata of a context


class TrainCommand(TyperCommand):
    """Adds the settings of a recipe to the help: their groups, or with --help-all each of them."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, then the settings."""
        super().format_help(ctx, formatter)
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        from llamavae.training.recipe import describe_groups, describe_settings

        table = Table(box=None, pad_edge=False)
        if ctx.meta.get(_ALL_SETTINGS):
            title = "Settings of a recipe, for its YAML file and for --set:"
            rows = describe_settings()
            table.add_column("setting", no_wrap=True)
            for name in ("type", "default", "meaning"):
                table.add_column(name, overflow="fold")
        else:
            title = (
                "Groups of settings of a recipe, for its YAML file and for --set. List all "
                "settings with --help-all."
            )
            rows = describe_groups()
            table.add_column("group", no_wrap=True)
            table.add_column("meaning", overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        console = Console(highlight=False)
        console.print(f"{title}\n")
        console.print(table)


def _help_all(context: typer.Context, value: bool) -> None:
    if value:
        context.meta[_ALL_SETTINGS] = True
        print(context.get_help())
        raise typer.Exit


Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting; the value is read as YAML. Can be repeated.",
    ),
]


Start = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FOLDER_OR_ID",
        help="Trained model to start from (start_from). Default recipe: fine-tune.",
    ),
]


def chosen_recipe(
    name: str | None, start: str | None, overrides: list[str] | None, **further: Any
) -> Recipe:
    """The recipe that the options choose.

    Args:
        name: Bundled recipe or YAML file.
        start: Trained model to start from.
        overrides: Changes as text.
        **further: Values by key, with two underscores in place of a dot; None for no change.
    """
    from llamavae.training.recipe import load_recipe, recipe_names

    if name is None and start is not None:
        name = _FINE_TUNE
    if name is None:
        raise UserError(
            f"no recipe given. Pass --recipe with a bundled recipe ({', '.join(recipe_names())}) "
            "or a YAML file"
        )
    options = {"start_from": start, **further}
    values = {key.replace("__", "."): v for key, v in options.items() if v is not None}
    return load_recipe(name, overrides or (), values=values)


def train(
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", "-r", metavar="NAME_OR_FILE", help="Bundled recipe, or a YAML file."
        ),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in the output folder.")
    ] = False,
    start: Start = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            "--corpus", "-c", help="Named corpus, file, or hub id of a dataset (corpus.name)."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run (output.folder).")
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            metavar="EVALUATOR",
            help="Also run this evaluator at each evaluation, and save the best model by its "
            "primary metric to best/.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Validate the recipe and print all settings, then exit.")
    ] = False,
    help_all: Annotated[
        bool,
        typer.Option(
            "--help-all",
            callback=_help_all,
            is_eager=True,
            help="Show this message with every setting of a recipe and exit.",
        ),
    ] = False,
) -> None:
    """Train a model with the settings of a recipe.

    On several GPUs: torchrun --nproc-per-node 4 -m llamavae train --recipe ...
    """
    folder = None if output is None else str(output)
    settings = chosen_recipe(recipe, start, overrides, corpus__name=corpus, output__folder=folder)
    if check:
        import yaml

        print(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), end="")
        return
    quiet()
    from llamavae.training.run import train as run

    evaluator = None
    if select is not None:
        from llamavae.training.best import model_evaluator

        evaluator = model_evaluator(select, settings)
    folder = run(settings, resume=resume, evaluator=evaluator).folder
    if os.environ.get("RANK", "0") == "0":  # once for all processes of a distributed run
        model = folder / "model"
        if select is not None:
            note(f"the best model by {select} is in {folder / 'best'}")
        command = shlex.join(["llamavae", "reconstruct", "--model", str(model), "a sentence"])
        note(f"the model is in {model}; try: {command}")


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run and its report.")
    ] = Path("runs/demo"),
    sentences: Annotated[
        Path | None,
        typer.Option(
            "--sentences",
            "-s",
            metavar="FILE",
            help="File of sentences to fine-tune on, one per line. Default: generated sentences.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="FOLDER_OR_ID",
            help="Model to demonstrate and fine-tune. Default: small, whose backbones are "
            "downloaded if needed, or mini if they cannot be downloaded.",
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Demonstrate a model and fine-tune it on your sentences. Takes minutes on a CPU.

    --set changes settings of the recipe fine-tune, for example --set optimisation.steps=600.
    """
    quiet()
    from llamavae.demo import run_demo

    run_demo(output, sentences, overrides or [], model=model)
