"""A computation over the rows of a file, divided into parts that engines run in any order.

The rows of a part, and which of them are computed together, depend on their numbers alone. So the
output is the same to the bit whichever engine, number of workers and interruptions there were.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from llamavae import __version__
from llamavae.bulk.parts import KIND, PartFolder
from llamavae.corpora.lines import check_file
from llamavae.errors import UserError
from llamavae.files import disk_errors
from llamavae.folders import check_output, locked
from llamavae.modeling import LlaMaVAE
from llamavae.modeling.refine import Progress
from llamavae.pretrained.loading import placement

Row = tuple[int, Any]
"""Number of a row of the source, from 1, and what it holds."""
Tell = Callable[[int], None]
"""Told the number of the last row that is done."""


@dataclass(frozen=True)
class ModelSource:
    """A model by name, which each worker loads for itself.

    Attributes:
        name: Folder, hub id or name of a pretrained model.
        device: Device; None for a GPU if there is one.
        dtype: Data type of the decoder's weights.
    """

    name: str
    device: str | None = None
    dtype: str | None = None

    def load(self) -> LlaMaVAE:
        """Load the model."""
        return LlaMaVAE.from_pretrained(self.name, **placement(self.device, self.dtype))


class Task(ABC):
    """What is computed from the rows of a file; engines send it to their workers.

    Args:
        source: The file.
        part_size: Rows of the source in a part, which is the most that an interruption loses.

    Attributes:
        nothing: What is wrong with a source without results.
    """

    nothing = "has no rows"

    def __init__(self, source: Path, part_size: int) -> None:
        self.source, self.part_size = source.absolute(), part_size

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Everything that the results depend on but the source, as JSON."""

    @abstractmethod
    def read(self, first: int = 1) -> Iterator[Row]:
        """The rows of the source, beginning with number `first` or the next one after it."""

    @abstractmethod
    def compute(self, part: int, rows: list[Row], tell: Tell) -> tuple[pa.Table, dict[str, Any]]:
        """The results of the rows of a part, and numbers to report."""

    def part_of(self, number: int) -> int:
        """The part that a row belongs to."""
        return (number - 1) // self.part_size

    def rows_of(self, part: int) -> list[Row]:
        """The rows of a part."""
        rows = self.read(part * self.part_size + 1)
        return list(takewhile(lambda row: self.part_of(row[0]) == part, rows))

    def length(self) -> int | None:
        """Number of rows of the source, if it can be told without reading it."""
        if self.source.suffix.lower() != ".parquet":
            return None
        try:
            return pq.read_metadata(self.source).num_rows
        except (pa.ArrowException, OSError) as error:
            message = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.source} is not a Parquet file, or damaged: {message}"
            ) from error


class ModelTask(Task):
    """A task that needs a model.

    Args:
        model: The model, or where each worker loads it from.
        source: As for `Task`.
        part_size: As for `Task`.
    """

    def __init__(self, model: LlaMaVAE | ModelSource, source: Path, part_size: int) -> None:
        super().__init__(source, part_size)
        self.given = model

    @cached_property
    def model(self) -> LlaMaVAE:
        """The model; loaded at the first use."""
        return self.given.load() if isinstance(self.given, ModelSource) else self.given


class Engine(Protocol):
    """Runs the parts of a task."""

    def session(self) -> AbstractContextManager[None]:
        """Prepares the engine; both other methods are called in it."""
        ...

    def facts(self, task: Task) -> dict[str, Any]:
        """`task.facts()`, where the model can be loaded."""
        ...

    def run(
        self, task: Task, folder: PartFolder, done: set[int], tell: Tell
    ) -> Iterator[dict[str, Any]]:
        """Compute the parts that are not `done` and write them; yields the facts of each."""
        ...


def run(
    task: Task,
    output: Path,
    engine: Engine,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> tuple[list[dict[str, Any]], int]:
    """Compute all parts of a task that are not there yet, and join them to the output.

    Args:
        task: What is computed.
        output: The Parquet file.
        engine: Runs the parts.
        progress: Told the rows of the source that are done, and of how many if it is known.
        overwrite: As for `check_paths`.

    Returns:
        The facts of all parts in their order, and the number of rows of the output that were there
        before.

    Raises:
        UserError: See `check_paths` and `PartFolder.open`; or no row gives a result.
    """
    check_paths(task.source, output, overwrite)
    folder = PartFolder(output)
    then = f"run the same again: it resumes from what is kept in {folder.path.name} beside it"
    with engine.session():
        facts = {"format": 2, **engine.facts(task)}
        facts["source"], lines = _digest(task.source)
        lines = task.length() or lines

        def tell(number: int) -> None:
            if progress is not None:
                progress(number, lines)

        with locked(folder.path, KIND), disk_errors(output, then):
            folder.open(facts)
            done = folder.complete()
            resumed = sum(part["rows"] for part in done.values())
            before = len(done) * task.part_size
            tell(min(before, lines or before))
            for found in engine.run(task, folder, set(done), tell):
                done[found["part"]] = found
            parts = [done[number] for number in sorted(done)]
            if rows := sum(part["rows"] for part in parts):
                facts |= {"rows": rows, "version": __version__}
                folder.join((part["part"] for part in parts), output, facts)
            else:
                folder.remove()
    if not rows:
        raise UserError(f"{task.source} {task.nothing}")
    return parts, resumed


def check_paths(source: Path, output: Path, overwrite: bool = False) -> None:
    """Check the paths of a bulk run; nothing is written.

    Args:
        source: The file to read.
        output: The Parquet file to write.
        overwrite: Allow an output that exists.

    Raises:
        UserError: The source is not a file, the output exists or is not named `.parquet`, or the
            folder of the parts holds something else.
    """
    check_file(source)
    if output.is_dir():
        raise UserError(f"{output} is a folder. Name a file in it")
    if output.suffix.lower() != ".parquet":
        raise UserError(f"the output is a Parquet file. Name it {output.with_suffix('.parquet')}")
    if output.exists() and output.samefile(source):
        raise UserError(
            f"{output} is the input itself, which is never overwritten. Choose another output"
        )
    if output.exists() and not overwrite:
        raise UserError(
            f"{output} already exists. Choose another name, or overwrite it (--overwrite)"
        )
    check_output(PartFolder(output).path, KIND)


def _digest(source: Path) -> tuple[str, int | None]:
    """A hash of the file, and its number of lines, if they are its rows."""
    digest, lines, end = hashlib.blake2b(digest_size=16), 0, b"\n"
    with source.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            lines += block.count(b"\n")
            end = block
    known = source.suffix.lower() not in (".json", ".parquet", ".gz", ".npy")
    return digest.hexdigest(), lines + (not end.endswith(b"\n")) if known else None
