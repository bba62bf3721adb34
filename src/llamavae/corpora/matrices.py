"""Numbers (N, C) from a user's file: a NumPy array or Parquet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llamavae.corpora.lines import check_file
from llamavae.corpora.text import no_column
from llamavae.errors import UserError, counted


def read_matrix(path: str | os.PathLike[str], column: str | None = None) -> np.ndarray:
    """Numbers (N, C), float32, from a NumPy array or a Parquet file.

    Args:
        path: A .npy file of shape (N, C), or a Parquet file with one vector per row: a column of
            lists, or else all columns of numbers.
        column: The column of lists; default: the only one.

    Raises:
        UserError: No such file, or one in another format; not numbers of shape (N, C); a row of
            another size, or with a number that is not finite. The message names the row, counted
            from 1.
    """
    path = Path(path).expanduser()
    check_file(path)
    with path.open("rb") as file:
        magic = file.read(6)
    if magic == b"\x93NUMPY":
        if column is not None:
            raise UserError(f"{path} is a NumPy array, which has no column {column!r}")
        try:
            array = np.load(path)
        except (ValueError, EOFError) as error:
            raise UserError(f"{path} is damaged, or is not an array of numbers") from error
        return check_matrix(array, str(path))
    if magic[:4] != b"PAR1":
        raise UserError(f"{path}: expected a NumPy array (.npy) or a Parquet file")
    try:
        return _from_parquet(path, column)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is damaged, or is not a Parquet file: {error}") from error


def _from_parquet(path: Path, column: str | None) -> np.ndarray:
    schema = pq.read_schema(path)
    if column is not None and column not in schema.names:
        raise no_column(str(path), column, schema.names)
    lists = [field.name for field in schema if _holds_lists(field.type)]
    if column is None and len(lists) > 1:
        raise UserError(f"{path} has several vectors per row. Name one of {', '.join(lists)}")
    if column is not None or lists:
        name = column or lists[0]
        return column_matrix(
            pq.read_table(path, columns=[name]).column(name), f"{path}, column {name!r}"
        )
    numbers = [field.name for field in schema if _holds_numbers(field.type)]
    if not numbers:
        raise UserError(f"{path} has no column of numbers; its columns: {', '.join(schema.names)}")
    table = pq.read_table(path, columns=numbers)
    return check_matrix(np.column_stack([part.to_numpy() for part in table.columns]), str(path))


def _holds_numbers(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _holds_lists(kind: pa.DataType) -> bool:
    is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in is_list) and _holds_numbers(kind.value_type)


def column_matrix(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """A column with a list of numbers per row, as numbers (N, C), float32.

    Args:
        column: The column.
        where: Its name for error messages.

    Raises:
        UserError: As for `read_matrix`.
    """
    if not _holds_lists(column.type):
        raise UserError(f"{where}: expected a list of numbers per row; it holds {column.type}")
    sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy()  # type: ignore[attr-defined]
    if not len(sizes):
        raise UserError(f"{where}: no rows")
    odd = np.flatnonzero((sizes != sizes[0]) | (sizes == 0))
    if len(odd):
        row = odd[0]
        expected = f"{sizes[0]}, as in row 1" if sizes[0] else "at least one"
        size = counted(int(sizes[row]), "number")
        raise UserError(f"{where}: row {row + 1} has {size}; expected {expected}")
    values = pc.list_flatten(column).to_numpy()  # type: ignore[attr-defined]
    return check_matrix(values.reshape(len(sizes), -1), where)


def check_matrix(values: Any, where: str) -> np.ndarray:
    """`values` as float32 (N, C), if they are finite numbers of that shape.

    Args:
        values: An array, or lists of numbers.
        where: Name of the values for error messages.

    Raises:
        UserError: They are not; names the first wrong row, counted from 1.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise UserError(f"{where}: the rows differ in size; expected (N, C) numbers") from error
    if array.dtype.kind not in "fiu" or array.ndim != 2 or not array.size:
        raise UserError(
            f"{where}: expected numbers of shape (N, C); got {array.dtype} of shape {array.shape}"
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise UserError(f"{where}: row {bad[0] + 1}{more} holds NaN, infinity or an empty value")
    return array
