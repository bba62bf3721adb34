"""The application: global options, and what happens to errors.

torch and transformers are imported inside the verbs, so that `--help` is quick.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llamavae import __version__
from llamavae.cli import (
    evaluate,
    guidance,
    models,
    points,
    prior,
    recipes,
    study,
    sweep,
    texts,
    training,
)
from llamavae.cli.output import note, show_error
from llamavae.errors import UserError

USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141  # the last two as a shell reports signals


class _Group(TyperGroup):
    """Ends with a status and one line where a traceback would not help the user."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except UserError as error:
            if ctx.params.get("debug"):
                raise
            show_error(str(error))
            raise typer.Exit(USER_ERROR) from error
        except KeyboardInterrupt as error:
            note(str(error) or "interrupted")
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError as error:
            _abandon_stdout()
            raise typer.Exit(BROKEN_PIPE) from error


def _abandon_stdout() -> None:
    """Keep Python from writing to the closed pipe once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    cls=_Group,
    name="llamavae",
    help="Sentence VAEs on pretrained encoders and decoders: text to a small continuous space "
    "and back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (training, recipes, models, texts, prior, points, guidance, evaluate, sweep, study):
    group.register(app)


def _version(value: bool) -> None:
    if value:
        print(f"llamavae {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="LLAMAVAE_DEBUG", help="Show tracebacks of errors.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    # Imports make very many objects that stay: looking through them again and again for garbage,
    # and once more at the end, would take a third of a short command's time.
    gc.set_threshold(100_000, 20, 100)
    try:
        app(prog_name="llamavae")
    finally:
        gc.freeze()
