from __future__ import annotations

import gzip
import json
import logging
import os
import subprocess
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, IterableDataset

from llamavae.corpora import load_corpus
from llamavae.corpora.files import read_sentences
from llamavae.corpora.lines import read_lines
from llamavae.errors import UserError


def texts(data: Any) -> list[str]:
    return [row["text"] for row in data]


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


BODIES = {
    "a.txt": "one two\n\n  three four \nfive",
    "a.jsonl": '{"text": "one two"}\n\n{"text": " three four "}\n{"text": "five"}\n{"text": ""}\n',
    "a.json": '[{"text": "one two"},\n {"text": "three four"},\n {"text": "five"}]',
    "a.csv": "text\none two\nthree four\n\nfive\n",
    "a.tsv": "text\none two\r\nthree four\r\nfive\r\n",
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("streaming", [False, True])
def test_formats(write, name, streaming):
    data = load_corpus(write(name, BODIES[name]), streaming=streaming)
    assert isinstance(data, IterableDataset if streaming else Dataset)
    assert texts(data) == ["one two", "three four", "five"]
    assert texts(data) == ["one two", "three four", "five"]  # a second time


def test_parquet(tmp_path):
    path = str(tmp_path / "a.parquet")
    Dataset.from_dict({"id": [1, 2], "sentence": ["one two", "three"]}).to_parquet(path)
    assert load_corpus(path).to_dict() == {"text": ["one two", "three"], "id": [1, 2]}


def test_byte_order_mark_and_unicode_separators(write):
    data = load_corpus(write("a.txt", b"\xef\xbb\xbf" + "\u00e9t\u00e9\none\u2028two\n".encode()))
    assert texts(data) == ["\u00e9t\u00e9", "one\u2028two"]


def test_blank_lines_are_counted(write, caplog):
    with caplog.at_level(logging.WARNING, "llamavae"):
        path = write("a.txt", "a\n\n \nb\n")
        load_corpus(path)
        load_corpus(path)
        assert messages(caplog) == ["skipped 2 blank lines"]
        path = write("a.txt", "a\n\nb\nc\n")
        os.utime(path, ns=(0, 1))  # as a later change
        load_corpus(path)
    assert messages(caplog) == ["skipped 2 blank lines", "skipped 1 blank line"]


def messages(caplog):
    return [record.getMessage().split(": ")[1] for record in caplog.records]


def test_other_columns_stay(write):
    path = write("a.csv", 'id,text,label\n1,"a, b",x\n2,c,y\n')
    assert load_corpus(path, streaming=True).column_names == ["text", "id", "label"]
    assert load_corpus(path).to_dict() == {
        "text": ["a, b", "c"],
        "id": ["1", "2"],
        "label": ["x", "y"],
    }


def test_chosen_column_becomes_text(write):
    path = write("a.jsonl", '{"text": "no", "b": "yes", "n": 1}\n{"text": "no", "b": "oui"}\n')
    assert load_corpus(path, column="b").to_dict() == {"text": ["yes", "oui"], "n": [1, None]}


def test_the_only_column_with_text_is_taken(write):
    data = load_corpus(write("a.csv", "id,sentence,score\n1,a b,0.5\n2,c,1e3\n"))
    assert texts(data) == ["a b", "c"]


@pytest.mark.parametrize(
    ("header", "column"),
    [
        ("text", None),
        ("Sentence", None),
        (",text", None),  # as pandas writes it
        ("2024,text", None),
        ("what was good?", "what was good?"),
        ("1", "1"),
        ("review text,stars", None),
    ],
)
def test_names_that_show_a_header_or_are_chosen(write, header, column):
    cells = header.split(",")
    rows = [["3" if name in ("", "2024", "stars") else "a dog" for name in cells]] * 2
    lines = [header, *(",".join(row) for row in rows)]
    path = write("a.csv", "\n".join(lines))
    assert texts(load_corpus(path, column=column)) == ["a dog", "a dog"]
    assert list(read_sentences(path, column)) == [(2, "a dog"), (3, "a dog")]


def test_a_folder_of_tables_without_header_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("dog,1\ncat,2\nbird,3\n")
    with pytest.raises(UserError, match=r"has no header, or .* '1'"):
        load_corpus(tmp_path)


def test_the_command_for_another_encoding_converts_the_file(tmp_path):
    path = tmp_path / "a b.txt.gz"
    path.write_bytes(gzip.compress("ein schöner Tag\n".encode("latin-1")))
    with pytest.raises(UserError, match="invalid UTF-8") as error:
        list(read_sentences(path))
    command = str(error.value).split("`")[1]
    subprocess.run(["sh", "-c", command], check=True)
    assert list(read_sentences(tmp_path / "new-a b.txt")) == [(1, "ein schöner Tag")]


def test_choice_of_column_needed(write):
    path = write("a.csv", "id,first,second\n1,a,b\n")
    message = r"no column 'text'; its columns are id, first, second\..* column=, or --column"
    with pytest.raises(UserError, match=message):
        load_corpus(path)
    with pytest.raises(
        UserError, match=r"a\.csv has no column 'frist'; known columns: id, first, second"
    ):
        load_corpus(path, column="frist")


def test_one_line(write):
    path = write("a.txt", "only this")
    assert texts(load_corpus(path)) == ["only this"]
    with pytest.raises(UserError, match=r"1 distinct sentence.*too few to divide"):
        load_corpus(path, "train")


def test_missing_file(tmp_path, write):
    write("sentences.txt", "a")
    with pytest.raises(UserError, match=r"no such file.*Did you mean sentences.txt"):
        load_corpus(tmp_path / "sentence.txt")
    with pytest.raises(UserError, match="there is no folder"):
        load_corpus(tmp_path / "no" / "a.txt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "is empty"),
        ("a.jsonl", "", "is empty"),
        ("a.csv", "", "is empty"),
        ("a.txt", "\n  \n", "has no line with text"),
        ("a.jsonl", "\n\n", "has no line with text"),
        ("a.csv", "text\n", "has no line with text"),
        ("a.json", "[]", "has no line with text"),
        ("a.txt", b"ok\nok\na\xffb\n", r"a\.txt:3: invalid UTF-8 byte 0xff at position 2"),
        ("a.csv", b"text\nok\n\xe9t\xe9\n", r"a\.csv:3: invalid UTF-8 byte 0xe9 at position 1"),
        ("a.txt", b"PK\x03\x04\x00\x00", "contains a NUL byte"),
        ("a.txt", bytes(range(1, 256)), r"a\.txt:2: invalid UTF-8 byte 0x80"),
        ("a.txt", b"a\r\xff\r", r"a\.txt:1: invalid UTF-8 byte 0xff at position 3"),
        ("a.txt", b"a\rb\0\r", r"a\.txt:1: contains a NUL byte"),
        ("a.txt", "hello\n".encode("utf-16"), "UTF-16"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"\n', r"a\.jsonl:2: not valid JSON"),
        ("a.json", '[{"text": "a"},\n{"text" "b"}]', r"a\.json:2: not valid JSON"),
        ("a.jsonl", '{"text": "a"}\n"b"\n', r'a\.jsonl:2: expected a JSON object.*not "b"'),
        (
            "a.jsonl",
            '{"text": "a"}\n{"texts": "b"}\n',
            r"a\.jsonl:2 has no column 'text'; known columns: texts",
        ),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}\n', r"a\.jsonl:2: column 'text' holds 3 \(int\)"),
        ("a.jsonl", '{"text": "a", "b": 1}\n{"text": "c", "b": "x"}\n', "mixes types"),
        ("a.csv", "text,b\na,1\nc\n", r"a\.csv:3: 1 field, but the header has 2"),
        ("a.csv", "text,b\na, b,1\n", r"a\.csv:2: 3 fields,.*a comma"),
        ("a.tsv", "text\tb\na\t1\t2\n", r"a\.tsv:2: 3 fields,.*a tab"),
        ("a.csv", 'text\n"a" b\n', r"a\.csv:2"),
        ("a.csv", "text,text\na,b\n", "repeats a name"),
        ("a.csv", "dog,1\ncat,2\nbird,3", r"a\.csv:1: the file has no header, or .* '1'"),
        ("a.csv", "1,a dog\n2,a cat\n", "has no header, or .* '1'"),
        ("a.csv", "a dog,2024-01-01\na cat,2024-01-02\n", "has no header"),
        ("a.csv", "a dog,\na cat,x\n", "has no header, or .* ''"),
        ("a.csv", "a dog,n/a\na cat,3\n", "has no header, or .* 'n/a'"),
        ("a.csv", "a dog runs\nthe cat sleeps\n", "has no header, or .* 'a dog runs'"),
        ("a.tsv", "dog\ncat\n", "has no header, or .* 'dog'"),
        ("a.csv", f"text\n{'x' * 140_000}\n", "a field is longer than 131,072 characters"),
        ("a.csv", "text\ra\rb\r", r"carriage returns alone.*tr '.r' '.n' > .*new-a\.csv"),
        ("a.txt", "a\rb\r", r"a\.txt:1: the line ends are carriage returns alone"),
        ("a.csv", "text\na\rb\n", r"a\.csv:2: a carriage return .CR. stands in a field"),
        ("a b.csv", b"text\n\xe9\n", r"cat '\S*a b\.csv' \| iconv .* > '\S*new-a b\.csv'"),
        ("a.parquet", "text", "is not a Parquet file"),
        ("a.docx", "text", r"cannot tell the format.*\.txt, \.jsonl"),
    ],
)
def test_refused(write, name, content, message):
    with pytest.raises(UserError, match=message):
        load_corpus(write(name, content))


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_not_called_old_text(write, seed):
    content = np.random.default_rng(seed).bytes(3000)
    with pytest.raises(UserError, match=r"NUL byte|invalid UTF-8 byte"):
        load_corpus(write("a.txt", content))


@pytest.mark.parametrize("content", ["a\rb\nc\n", "a\rb\r\nc\r\n", "a\rb\nc"])
def test_a_stray_carriage_return_is_part_of_its_line(write, content):
    assert texts(load_corpus(write("a.txt", content))) == ["a\rb", "c"]


def test_a_late_error_of_a_stream_names_the_line(write):
    lines = [json.dumps({"text": "a"})] * 200 + ["{"]
    data = load_corpus(write("a.jsonl", "\n".join(lines)), streaming=True)
    with pytest.raises(UserError, match=r"a\.jsonl:201: not valid JSON"):
        list(data)


def test_quoted_line_break(write):
    data = load_corpus(write("a.csv", 'text,b\n"a\nb",1\nc,2\n'))
    assert texts(data) == ["a\nb", "c"]


@pytest.mark.parametrize(
    ("name", "header", "found"),
    [
        ("a.csv", "text;tense", "';'"),
        ("a.csv", "text\ttense", r"'\\t'"),
        ("a.tsv", "text,tense", "','"),
    ],
)
def test_a_table_with_another_delimiter_is_an_error(tmp_path, name, header, found):
    path = tmp_path / name
    path.write_text(f"{header}\na{header[4]}past\n")
    with pytest.raises(UserError, match=f":1: the header is .* which contains {found}.* Save"):
        load_corpus(path)


def test_lines_of_a_missing_file(tmp_path):
    (tmp_path / "lines.txt").write_text("a\n")
    with pytest.raises(UserError, match=r"no such file.*Did you mean lines.txt"):
        list(read_lines(tmp_path / "line.txt"))
