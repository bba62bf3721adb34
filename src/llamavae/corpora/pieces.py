"""Pieces of a large file that are read independently, so that streams are divided and resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

Piece = tuple[int, int]
"""Where a piece begins and ends: bytes of a file of lines, or rows of Parquet, counted from 0."""
WHOLE: Piece = (0, 0)
"""A file that is not divided."""

_BYTES = 1 << 24  # of a piece
_MULTIPLE = 8  # the number of pieces of a large file is a multiple, as the shards of a stream are


def find_pieces(path: Path) -> list[Piece]:
    """The pieces of a file of lines, or of Parquet, where row groups are not divided.

    A file of lines has pieces of at most 16 MB.
    """
    if path.suffix.lower() == ".parquet":
        return _row_groups(pq.read_metadata(path))
    size = path.stat().st_size
    if size <= _BYTES // 2:
        return [WHOLE]
    count = -(-size // (_BYTES * _MULTIPLE)) * _MULTIPLE
    with path.open("rb") as file:
        edges = [0, *(_next_line(file, size * i // count) for i in range(1, count)), size]
    return list(pairwise(edges))


def _next_line(file: BinaryIO, position: int) -> int:
    """Where the first line after a position begins."""
    file.seek(position)
    file.readline()
    return file.tell()


def _row_groups(metadata: pq.FileMetaData) -> list[Piece]:
    ends = [0]
    for group in range(metadata.num_row_groups):
        ends.append(ends[-1] + metadata.row_group(group).num_rows)
    groups = len(ends) - 1
    if groups < 2:
        return [WHOLE]
    count = groups // _MULTIPLE * _MULTIPLE or groups
    edges = [ends[groups * i // count] for i in range(count + 1)]
    return list(pairwise(edges))


def raw_lines(path: Path, piece: Piece) -> Iterator[bytes]:
    """The lines of a piece of a file."""
    position, end = piece
    with path.open("rb") as file:
        file.seek(position)
        while position < end and (line := file.readline()):
            position += len(line)
            yield line


def lines_before(path: Path, piece: Piece) -> int:
    """Number of lines before a piece of a file."""
    left, lines = piece[0], 0
    with path.open("rb") as file:
        while left and (block := file.read(min(left, 1 << 20))):
            left -= len(block)
            lines += block.count(b"\n")
    return lines


def parquet_batches(
    file: pq.ParquetFile,
    batch_size: int,
    first: int = 1,
    columns: Sequence[str] | None = None,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of a Parquet file, each with the number of its first row, counted from 1.

    Args:
        file: The file.
        batch_size: Rows of a batch.
        first: Number of the first row; row groups before it are not read.
        columns: Columns to read; None for all.
    """
    number, group = 1, 0
    while group < file.num_row_groups:
        rows = file.metadata.row_group(group).num_rows
        if number + rows > first:
            break
        number, group = number + rows, group + 1
    groups = range(group, file.num_row_groups)
    for batch in file.iter_batches(batch_size, row_groups=groups, columns=columns):
        before = min(max(first - number, 0), len(batch))
        if before < len(batch):
            yield number + before, batch.slice(before)
        number += len(batch)
