"""Verbs that make models: `train` and `demo`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from llamavae.cli.options import quiet
from llamavae.cli.output import note
from llamavae.errors import UserError

if TYPE_CHECKING:
    from llamavae.training import TrainResult

_FINE_TUNE = "fine-tune"  # recipe of `--from` without one


class _TrainCommand(TyperCommand):
    """Its help lists every setting of a recipe."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        from rich.console import Console
        from rich.table import Table

        from llamavae.training.recipe import describe_settings

        table = Table(box=None, pad_edge=False)
        table.add_column("setting", no_wrap=True)
        for name in ("type", "default", "meaning"):
            table.add_column(name, overflow="fold")
        for row in describe_settings():
            table.add_row(*(cell.replace("[", r"\[") for cell in row))
        console = Console()
        console.print("\nSettings of a recipe, for its YAML file and for --set:\n")
        console.print(table)


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command(cls=_TrainCommand)(train)
    app.command()(demo)


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
]


def train(
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", metavar="NAME_OR_FILE", help="A shipped recipe or a file."),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the output folder.")
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FOLDER_OR_ID",
            help="Go on with a trained model (start_from); without --recipe, as fine-tune says.",
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option("--corpus", "-c", help="Corpus, file or hub id of sentences (corpus.name)."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run (output.folder).")
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            metavar="EVALUATOR",
            help="Measure by this evaluator too, and keep the best model by it in best/.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only check the recipe, and print all its settings.")
    ] = False,
) -> None:
    """Train a model as a recipe says.

    Several GPUs: torchrun --nproc-per-node 4 -m llamavae.cli train --recipe ...
    """
    from llamavae.training.recipe import load_recipe, recipe_names

    if recipe is None and start is not None:
        recipe = _FINE_TUNE
    if recipe is None:
        raise UserError(
            f"no recipe: give --recipe with one of {', '.join(recipe_names())}, or a YAML file"
        )
    shortcuts = {"start_from": start, "corpus.name": corpus, "output.folder": output}
    given = [f"{key}={value}" for key, value in shortcuts.items() if value is not None]
    settings = load_recipe(recipe, [*(overrides or []), *given])
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
    result = run(settings, resume=resume, evaluator=evaluator)
    _announce(result, best=select)


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
            help="Sentences of yours to fine-tune on, one a line; else the demo writes some.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="FOLDER_OR_ID",
            help="Model to show and fine-tune. Default: small, whose backbones are fetched if "
            "they are missing, or mini where they cannot be fetched.",
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Show what a model does, and fine-tune it on your sentences: minutes on a CPU.

    --set changes the recipe fine-tune, such as --set optimisation.steps=600.
    """
    quiet()
    from llamavae.demo import run_demo

    run_demo(output, sentences, overrides or [], model=model)


def _announce(result: TrainResult, best: str | None) -> None:
    """Say where the model is, once however many processes trained it."""
    if os.environ.get("RANK", "0") == "0":
        model = result.folder / "model"
        if best is not None:
            note(f"the best model by {best} is in {result.folder / 'best'}")
        note(f"the model is in {model}; try: llamavae reconstruct --model {model} 'a sentence'")
