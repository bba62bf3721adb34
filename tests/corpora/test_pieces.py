"""Large files are divided into pieces that together hold each row once."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llamavae.corpora import load_corpus, pieces
from llamavae.corpora.pieces import WHOLE, find_pieces, parquet_batches, raw_lines
from llamavae.errors import UserError

TEXTS = [f"sentence {'é' * (number % 9)} {number}" for number in range(200)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(pieces, "_BYTES", 100)


@pytest.mark.parametrize("end", ["", "\n"])
def test_lines(tmp_path, end):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(TEXTS) + end, encoding="utf-8")
    found = find_pieces(path)
    assert len(found) % 8 == 0
    lines = [line.decode().rstrip("\n") for piece in found for line in raw_lines(path, piece)]
    assert lines == TEXTS
    assert load_corpus(path, streaming=True).num_shards == len(found)
    assert [row["text"] for row in load_corpus(path, streaming=True)] == TEXTS


@pytest.mark.parametrize(("group", "expected"), [(300, [WHOLE]), (70, 3), (10, 16)])
def test_row_groups(tmp_path, group, expected):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=group)
    found = find_pieces(path)
    assert found == expected or len(found) == expected
    assert [row["text"] for row in load_corpus(path, streaming=True)] == TEXTS


@pytest.mark.parametrize("first", [1, 2, 10, 11, 57, 200, 201])
def test_parquet_from_a_row_on(tmp_path, first):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=10)
    rows = []
    for number, batch in parquet_batches(pq.ParquetFile(path), 7, first):
        rows += enumerate(batch["text"].to_pylist(), number)
    assert rows == list(enumerate(TEXTS, 1))[first - 1 :]


def test_an_error_names_the_line_in_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": text}) for text in TEXTS]
    lines[150] = '{"text": 3}'
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"a.jsonl:151: column 'text' holds 3"):
        list(load_corpus(path, streaming=True))


def test_what_is_not_divided(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps([{"text": text} for text in TEXTS]))
    assert load_corpus(path, streaming=True).num_shards == 1
    assert [row["text"] for row in load_corpus(path, streaming=True)] == TEXTS
    (tmp_path / "a.txt").write_text("short\n")
    assert find_pieces(tmp_path / "a.txt") == [WHOLE]


def test_a_carriage_return_where_a_piece_begins(tmp_path):
    path = tmp_path / "a.txt"
    lines = ["a dog", *["an\rowl"] * 60]
    path.write_bytes("\n".join(lines).encode())
    assert [row["text"] for row in load_corpus(path, streaming=True)] == lines
