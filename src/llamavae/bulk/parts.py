"""The folder of the parts of an unfinished output, which are verified before they are used."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llamavae.data.code_files import METADATA, metadata
from llamavae.errors import UserError
from llamavae.files import remove_leftovers, replacing, write_json
from llamavae.parsing import read_json

logger = logging.getLogger(__name__)

KIND = "the parts of a bulk run"
"""What the folder holds, for `llamavae.folders`."""
_FACTS = "run.json"  # what the parts were made from


class PartFolder:
    """The parts of an unfinished output, each in a Parquet file with its facts.

    Processes on several machines may write to it, each its own parts.

    Args:
        output: The output; the folder stands beside it.
    """

    def __init__(self, output: Path) -> None:
        self.path = output.absolute().with_name(f"{output.name}.partial")

    def open(self, facts: dict[str, Any]) -> None:
        """Check that the parts belong to this run, or start a new run.

        Args:
            facts: Everything that the results depend on.

        Raises:
            UserError: The parts belong to a run with other facts.
        """
        self._forget_attempts()
        path = self.path / _FACTS
        try:
            known = path.is_file() and bool(read_json(path)) and bool(self._files())
        except UserError:
            logger.warning("%s is damaged: everything is computed again", path)
            known = False
        if known:
            self.check(facts)
            return
        for part in self._files():  # of unknown origin
            part.unlink()
        write_json(path, facts)

    def check(self, facts: dict[str, Any]) -> None:
        """Check that the parts belong to a run with these facts.

        Raises:
            UserError: They belong to another run.
        """
        found = read_json(self.path / _FACTS)
        if other := [key for key in facts if found.get(key) != facts[key]]:
            raise UserError(
                f"{self.path} belongs to an interrupted run with another {' and '.join(other)}. "
                "Delete it to start again, or choose another output"
            )

    def complete(self) -> dict[int, dict[str, Any]]:
        """Facts of the complete parts by number; damaged parts are removed."""
        done: dict[int, dict[str, Any]] = {}
        for path in self._files():
            number = path.stem.removeprefix("part-")
            facts = self.facts(int(number)) if number.isdecimal() else None
            if facts is None:
                logger.warning("%s is damaged: computed again", path)
                path.unlink()
            else:
                done[int(number)] = facts
        return done

    def facts(self, part: int) -> dict[str, Any] | None:
        """Facts of a part; None if it is missing or damaged."""
        try:
            table = read_table(self._file(part))
            facts = metadata(table.schema)
            return facts if len(table) == facts["rows"] and facts["part"] == part else None
        except PermissionError:
            raise
        except (OSError, KeyError, ValueError, pa.ArrowException):  # a wrong checksum, or no file
            return None

    def write(self, part: int, table: pa.Table, counts: dict[str, Any]) -> dict[str, Any]:
        """Write a part atomically; returns its facts."""
        facts = {"part": part, "rows": len(table), **counts}
        write_tables([table], self._file(part), facts)
        self._attempts(part).unlink(missing_ok=True)
        return facts

    def attempt(self, part: int) -> int:
        """Count an attempt at a part, and return their number since `open`."""
        path = self._attempts(part)
        with path.open("ab") as file:
            file.write(b".")
        return path.stat().st_size

    def join(self, parts: Iterable[int], output: Path, facts: dict[str, Any]) -> None:
        """Write the parts one after the other to the output, and remove them."""
        tables = (read_table(self._file(part)) for part in parts)
        write_tables((table for table in tables if len(table)), output, facts)
        self.remove()

    def remove(self) -> None:
        """Remove the parts; `folders.locked` removes the folder if it holds nothing else."""
        for path in (self.path / _FACTS, *self._files()):  # without the facts, no part is used
            path.unlink(missing_ok=True)
        self._forget_attempts()
        remove_leftovers(self.path)

    def _file(self, part: int) -> Path:
        return self.path / f"part-{part:08d}.parquet"

    def _attempts(self, part: int) -> Path:
        return self._file(part).with_suffix(".attempts")

    def _forget_attempts(self) -> None:
        for path in self.path.glob("part-*.attempts"):
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("part-*.parquet"))


def write_tables(tables: Iterable[pa.Table], path: Path, facts: dict[str, Any]) -> None:
    """Write tables of one schema to a Parquet file, each as a row group."""
    tables = iter(tables)
    first = next(tables)
    schema = first.schema.with_metadata({METADATA: json.dumps(facts).encode()})
    with (
        replacing(path) as new,
        pq.ParquetWriter(new, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for table in chain([first], tables):
            writer.write_table(table.replace_schema_metadata(schema.metadata), max(1, len(table)))


def read_table(path: Path) -> pa.Table:
    """A Parquet file, with its checksums verified."""
    return pq.read_table(path, page_checksum_verification=True)
