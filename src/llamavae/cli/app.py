"""The application: global options and error handling.

The commands import torch and transformers when they run, so that `--help` is fast.
"""

from __future__ import annotations

import gc
import io
import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llamavae import __version__
from llamavae.cli import codes, evaluate, guidance, prior, score, sweep, texts, training
from llamavae.cli.check import check
from llamavae.cli.condition import fit_condition
from llamavae.cli.explore import explore
from llamavae.cli.index import index
from llamavae.cli.models import models
from llamavae.cli.options import grouped
from llamavae.cli.output import configure, note, show_error
from llamavae.cli.plan import plan
from llamavae.cli.recipes import corpora, recipes
from llamavae.cli.serve import serve
from llamavae.cli.study import study
from llamavae.errors import Terminated, UserError, lacks_memory

USER_ERROR = 2
INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143  # 128 + signal number, as in a shell


class _Group(TyperGroup):
    """Turns errors that the user can correct into one message and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
            return result
        except UserError as error:
            if ctx.params.get("debug"):
                raise
            show_error(str(error))
            raise typer.Exit(USER_ERROR) from error
        except KeyboardInterrupt as error:
            note(str(error) or "interrupted")
            status = TERMINATED if isinstance(error, Terminated) else INTERRUPTED
            raise typer.Exit(status) from error
        except BrokenPipeError as error:
            _discard_output()
            raise typer.Exit(BROKEN_PIPE) from error
        except UnicodeEncodeError as error:  # of a library that cannot use the name of a file
            if ctx.params.get("debug"):
                raise
            show_error(f"{error.object!r:.200} is not in UTF-8. Rename the file or folder")
            raise typer.Exit(USER_ERROR) from error
        except (MemoryError, RuntimeError) as error:
            if ctx.params.get("debug") or not lacks_memory(error):
                raise
            show_error(
                "not enough memory. Use smaller numbers, such as a smaller --batch-size, or a "
                "smaller model"
            )
            raise typer.Exit(USER_ERROR) from error
        except OSError as error:
            if ctx.params.get("debug"):
                raise
            _show_system_error(error)
            raise typer.Exit(USER_ERROR) from error


def _show_system_error(error: OSError) -> None:
    _discard_output()
    name = "" if error.filename is None else f": {shlex.quote(os.fsdecode(error.filename))}"
    show_error(f"{error.strerror or error}{name}")


def _discard_output() -> None:
    """Keep Python from flushing to a closed pipe or a full disk at exit."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    cls=_Group,
    name="llamavae",
    help="Sentence VAEs with pretrained encoders and decoders: encode text to latent codes, and "
    "decode latent codes to text.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=training.TrainCommand)(training.train)
for command in (
    training.demo,
    plan,
    corpora,
    texts.reconstruct,
    texts.sample,
    texts.interpolate,
    texts.traverse,
    texts.arithmetic,
    texts.average,
    texts.steer,
    texts.neighbours,
    index,
    prior.fit_prior,
    codes.encode,
    codes.decode,
    fit_condition,
    guidance.define,
    guidance.guide,
    guidance.translate,
    guidance.reverse,
    evaluate.evaluate,
    score.score,
    evaluate.report,
    evaluate.compare,
    sweep.sweep,
    check,
    serve,
    explore,
):
    app.command()(grouped(command))
for name, group in (("recipes", recipes), ("models", models), ("study", study)):
    app.add_typer(group, name=name)


def _version(value: bool) -> None:
    if value:
        print(f"llamavae {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="LLAMAVAE_DEBUG", help="Show the tracebacks of errors."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    configure()
    if sys.stdin is None:  # closed
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # its encoding can be ASCII
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        try:
            app(prog_name="llamavae")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # what --help has written
    except OSError as error:
        _show_system_error(error)
        sys.exit(USER_ERROR)
    finally:
        gc.freeze()


def _terminate(number: int, frame: object) -> None:
    raise Terminated("terminated")
