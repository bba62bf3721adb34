from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from llamavae.corpora.matrices import check_matrix, column_matrix, read_matrix
from llamavae.errors import UserError

ROWS = [[1.0, 2.5], [-3.0, 0.0], [4.0, 1e-3]]


@pytest.fixture
def array(tmp_path):
    def write(values) -> Path:
        np.save(tmp_path / "a.npy", values)
        return tmp_path / "a.npy"

    return write


@pytest.fixture
def table(tmp_path):
    def write(**columns) -> Path:
        pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=2)
        return tmp_path / "a.parquet"

    return write


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "uint8"])
def test_numpy(array, dtype):
    values = np.arange(6).reshape(3, 2).astype(dtype)
    read = read_matrix(array(values))
    assert read.dtype == np.float32
    assert np.array_equal(read, values)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float32(), 2),
        pa.list_(pa.float16()),
    ],
)
def test_parquet_lists(table, kind):
    path = table(id=[1, 2, 3], text=["a", "b", "c"], mean=pa.array(ROWS, kind))
    read = read_matrix(path)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, ROWS, rtol=1e-3)
    assert np.array_equal(read, read_matrix(path, "mean"))


def test_parquet_columns_of_numbers(table):
    read = read_matrix(table(a=[1, 2], text=["a", "b"], b=[0.5, 1.5], c=[True, False]))
    assert read.tolist() == [[1, 0.5], [2, 1.5]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], r"a\.npy: expected numbers of shape \(N, C\); got float64 of shape \(2,\)"),
        (np.zeros((2, 2, 2)), r"got float64 of shape \(2, 2, 2\)"),
        (np.zeros((0, 3)), r"of shape \(0, 3\)"),
        ([["a", "b"]], "expected numbers"),
        ([[True, False]], "got bool"),
        ([[1j, 2]], "got complex128"),
        ([[1, 2], [3, np.nan], [np.inf, 0]], r"row 2 \(and 1 more\) holds NaN"),
        ([[1, 2], [3, 1e39]], "row 2 holds NaN, infinity"),
        (np.array([[1, None]], dtype=object), r"a\.npy is damaged, or is not an array of numbers"),
    ],
)
def test_arrays_that_are_no_matrix(array, values, message):
    with pytest.raises(UserError, match=message):
        read_matrix(array(values))


@pytest.mark.parametrize(
    ("columns", "column", "message"),
    [
        ({"a": ROWS}, "b", r"a\.parquet has no column 'b'; known columns: a"),
        ({"a": ROWS, "b": ROWS}, None, r"several vectors per row. Name one of a, b"),
        ({"a": ["x", "y"]}, None, "has no column of numbers; its columns: a"),
        ({"a": [1, 2]}, "a", "column 'a': expected a list of numbers per row; it holds int64"),
        ({"a": [["x"]]}, "a", "it holds list<"),
        ({"a": [[1, 2], [3, 4], [5]]}, None, r"row 3 has 1 number; expected 2, as in row 1"),
        ({"a": [[1, 2], None]}, None, r"row 2 has 0 numbers; expected 2"),
        ({"a": [None, [1, 2]]}, None, r"row 1 has 0 numbers; expected at least one"),
        ({"a": [[1, 2], [3, None]]}, None, "row 2 holds NaN, infinity or an empty value"),
        ({"a": [[1.0, 2], [3, 4], [np.inf, 0]]}, None, "column 'a': row 3 holds NaN"),
        ({"a": [1, 2], "b": [1.5, None]}, None, "row 2 holds NaN, infinity or an empty value"),
        ({"a": pa.array([], pa.list_(pa.float32()))}, None, "column 'a': no rows"),
        ({"a": pa.array([], pa.int64())}, None, r"of shape \(0, 1\)"),
    ],
)
def test_tables_that_are_no_matrix(table, columns, column, message):
    with pytest.raises(UserError, match=message):
        read_matrix(table(**columns), column)


def test_other_files(tmp_path, array, table):
    with pytest.raises(UserError, match="no such file"):
        read_matrix(tmp_path / "b.npy")
    (tmp_path / "a.txt").write_text("1 2 3\n")
    with pytest.raises(UserError, match=r"expected a NumPy array \(\.npy\) or a Parquet file"):
        read_matrix(tmp_path / "a.txt")
    with pytest.raises(UserError, match="has no column 'a'"):
        read_matrix(array(ROWS), "a")
    whole = array(ROWS)
    whole.write_bytes(whole.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"a\.npy is damaged"):
        read_matrix(whole)
    whole = table(a=ROWS)
    whole.write_bytes(whole.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"a\.parquet is damaged"):
        read_matrix(whole)


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 4)),
        elements=st.floats(-(2.0**99), 2.0**99, width=32),
    ),
    st.integers(1, 3),
)
def test_a_column_in_chunks_is_its_rows(values, size):
    rows = values.tolist()
    chunks = [rows[i : i + size] for i in range(0, len(rows), size)]
    column = pa.chunked_array(chunks, pa.list_(pa.float32()))
    assert np.array_equal(column_matrix(column, "here"), values)
    assert np.array_equal(check_matrix(rows, "here"), values)


def test_lists_of_different_size():
    with pytest.raises(UserError, match="here: the rows differ in size"):
        check_matrix([[1.0], [1.0, 2.0]], "here")
