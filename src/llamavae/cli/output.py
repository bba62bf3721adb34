"""Output: results on standard output, messages and progress on standard error."""

from __future__ import annotations

import gc
import json
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llamavae.errors import UserError
from llamavae.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False)


def note(message: str) -> None:
    """Print a message for the user."""
    _console().print(_shortened(message), style="dim", markup=False)


def show_error(message: str) -> None:
    """Print an error message."""
    from rich.text import Text

    _console().print(Text.assemble(("error: ", "bold red"), _shortened(message)))


def _shortened(message: str) -> str:
    """The message as printable text, with very long words shortened.

    Further lines are indented, so that quoted text cannot look like a message of its own.
    """
    message = re.sub(r"\S{300,}", lambda word: f"{word[0][:200]}...", message)
    return re.sub(r"\n(?=\S)", "\n  ", printable(message))


def write_text(text: str) -> None:
    """Write text, with control characters escaped, and flush it.

    Raises:
        UserError: Standard output is closed.
    """
    if sys.stdout is None:
        raise UserError("standard output is closed. Redirect it to a file, or to /dev/null")
    print(printable(text), end="", flush=True)


def write(as_json: bool, *columns: str, **record: Any) -> None:
    """Write one result as a line, and flush it.

    Args:
        as_json: Write the record as a JSON object instead of the columns.
        *columns: Human-readable cells, separated by tabs; line breaks become spaces.
            Control characters are escaped, here and in JSON.
        **record: The same result as a record.
    """
    if as_json:
        unicode = (getattr(sys.stdout, "encoding", None) or "utf").lower().startswith("utf")
        line = json.dumps(record, ensure_ascii=not unicode)
    else:
        line = "\t".join(" ".join(column.split()) for column in columns)
    write_text(f"{line}\n")


def write_table(table: Sequence[Sequence[str]]) -> None:
    """Write rows of cells with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        write_text(f"{line.rstrip()}\n")


def write_nlls(nlls: Mapping[str, float], remark: str) -> None:
    """Write held-out NLLs by name, lowest first, with a remark."""
    for name, nll in sorted(nlls.items(), key=lambda row: row[1]):
        write(False, f"{nll:.4f}", name)
    note(f"held-out NLL in nats per dimension, lower is better; {remark}")


@contextmanager
def resumable(how: str = "repeat the command to resume") -> Iterator[None]:
    """Tell how to resume if the block is interrupted."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise type(error)(f"interrupted; {how}") from error


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Any]:
    """Progress bar with speed and remaining time on standard error; gives `update(done, total)`."""
    from rich import progress
    from rich.text import Text

    class Speed(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f} {unit}/s")

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.completed:,.0f}"),
        Speed(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=_console()) as bar:
        task = bar.add_task(what, total=None)
        begun = False

        def update(done: int, total: int | None) -> None:
            nonlocal begun
            if not begun:  # the speed excludes what an earlier run did
                bar.reset(task, completed=done, total=total)
                begun = True
            bar.update(task, completed=done)

        yield update


def configure() -> None:
    """Settings of every process of a command."""
    # Imports create many long-lived objects. With default thresholds, garbage collection takes a
    # third of the run time of a short command.
    gc.set_threshold(100_000, 20, 100)
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_: Any) -> None:
    """Show a warning as a message, without the line of code that it comes from."""
    note(f"warning: {printable(str(message))}")
