from __future__ import annotations

import csv
import logging
from typing import Any

import datasets
import pandas
import pytest

from llamavae.corpora.sts import GROUPS, TASKS, ScoredPairs, load_pairs, read_pairs
from llamavae.errors import UserError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'one,"two, too",3\nfour,five,0.5\n'),
        ("a.csv", 'sentence1,sentence2,score\none,"two, too",3\n\nfour,five,0.5\n'),
        ("a.tsv", "one\ttwo, too\t3\nfour\tfive\t0.5\n"),
        (
            "a.tsv",
            "pair_ID\tsentence_A\tsentence_B\trelatedness_score\n"
            "1\tone\ttwo, too\t3\n2\tfour\tfive\t0.5\n",
        ),
        (
            "a.jsonl",
            '{"sentence1": "one", "sentence2": "two, too", "similarity_score": 3}\n'
            '{"sentence2": "five", "sentence1": "four", "similarity_score": 0.5}\n',
        ),
    ],
)
def test_formats(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_pairs(tmp_path / name) == ScoredPairs(
        ["one", "four"], ["two, too", "five"], [3, 0.5]
    )


MALFORMED = 'a,b,1\nc,d\ne,,2\nf,g,high\nh,"i\nj",nan\nk,l,3\n'


def test_malformed_rows_are_refused_by_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(MALFORMED)
    with pytest.raises(UserError, match="4 malformed row") as error:
        read_pairs(path)
    message = str(error.value)
    for part in (
        "a.csv:2: 2 cells instead of 3",
        "a.csv:3: a sentence is missing",
        "a.csv:4: the score is 'high', which is not a number",
        "a.csv:6: the score is 'nan'",
        "among 6",
        "malformed='skip'",
    ):
        assert part in message


def test_malformed_rows_are_skipped_with_a_note(tmp_path, caplog):
    path = tmp_path / "a.csv"
    path.write_text(MALFORMED)
    with caplog.at_level(logging.WARNING):
        pairs = read_pairs(path, malformed="skip")
    assert (pairs.first, pairs.second, pairs.scores) == (["a", "k"], ["b", "l"], [1, 3])
    assert len(pairs.skipped) == 4
    assert "left out 4 malformed rows among 6" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,b,1\n", "at least 2 pairs; got 1"),
        ("a.csv", 'a,b,1\n"c,d,2\ne,f,3\n', "a.csv:3: unexpected end of data"),
        ("a.csv", "sentence1,score\na,1\n", "a.csv:2: no sentence2 or sentence_b"),
        ("a.jsonl", '{"sentence1": "a"\n"b"\n', "2 malformed.*a.jsonl:1: not a JSON object"),
        ("a.jsonl", '{"sentence1": 1, "sentence2": "b", "score": 1}\n', "a sentence is missing"),
        ("a.parquet", "a,b,1\n", "expected a .csv, .tsv, .txt or .jsonl file"),
        ("a.csv", "\n", "a.csv is empty"),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_pairs(tmp_path / name)


STSB = (
    'main-captions\tMSRvid\t2012test\t0001\t4.750\tA goat eats "hay".\tThe goat is eating hay.\n'
    'main-news\theadlines\t2015\t0002\t0.25\t"Rain,\tNo rain\n'
    "main-forums\tdeft\t2014\t0003\t2\tBoats, and oars.\tAn oar\tsource a\tsource b\n"
)
SICK = (
    "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    '4\tA goat eats "hay".\tThe goat is eating hay.\t4.75\tENTAILMENT\n'
    '5\t"Rain,\tNo rain\t0.25\tCONTRADICTION\n'
    "9\tBoats, and oars.\tAn oar\t2\tNEUTRAL\n"
)
SCORE_FIRST = (
    '4.75\tA goat eats "hay".\tThe goat is eating hay.\n'
    '0.25\t"Rain,\tNo rain\n'
    "2\tBoats, and oars.\tAn oar\tsource a\n"
)
SENTENCE_FIRST = (
    'A goat eats "hay".\tThe goat is eating hay.\t4.75\n'
    '"Rain,\tNo rain\t0.25\nBoats, and oars.\tAn oar\t2\n'
)


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("sts-dev.csv", STSB, [5, 6, 4]),
        ("SICK_test_annotated.txt", SICK, ["sentence_A", "sentence_B", "relatedness_score"]),
        ("a.tsv", SCORE_FIRST, [1, 2, 0]),
        ("a.tsv", SENTENCE_FIRST, [0, 1, 2]),
    ],
)
def test_files_as_they_are_distributed_are_those_of_pandas(tmp_path, name, text, columns):
    path = tmp_path / name
    path.write_text(text)
    options: dict[str, Any] = {"header": None, "names": range(9)}
    if name.startswith("SICK"):
        options = {}
    table = pandas.read_csv(path, sep="\t", quoting=csv.QUOTE_NONE, **options)
    expected = (table[column].tolist() for column in columns)
    found = read_pairs(path)
    assert found == ScoredPairs(*expected)
    assert found.first == ['A goat eats "hay".', '"Rain,', "Boats, and oars."]
    assert found.scores == [4.75, 0.25, 2]


def write_semeval(folder, name, scores):
    lines = [f"one {i}\ttwo {i}\tsource\n" for i in range(len(scores))]
    (folder / f"STS.input.{name}.txt").write_text("".join(lines))
    (folder / f"STS.gs.{name}.txt").write_text("".join(f"{score}\n" for score in scores))


def test_unscored_rows_of_semeval_are_left_out(tmp_path, caplog):
    write_semeval(tmp_path, "images", ["4.2", "", "1"])
    write_semeval(tmp_path, "belief", ["0.5", "3"])
    with caplog.at_level(logging.WARNING):
        found = read_pairs(tmp_path)
    assert found.scores == [0.5, 3, 4.2, 1]
    assert found.second == ["two 0", "two 1", "two 0", "two 2"]
    [skipped] = found.skipped
    assert skipped.endswith("STS.input.images.txt:2: no score")
    assert "left out 1 row without a score" in caplog.text
    assert read_pairs(tmp_path / "STS.input.belief.txt").scores == [0.5, 3]


def test_semeval_without_scores(tmp_path):
    with pytest.raises(UserError, match=r"is a folder without files STS\.input\.\*\.txt"):
        read_pairs(tmp_path)
    write_semeval(tmp_path, "images", ["4.2", "2"])
    (tmp_path / "STS.gs.images.txt").write_text("4.2\n")
    with pytest.raises(UserError, match=r"for each of the 2 lines of STS\.input.*; got 1"):
        read_pairs(tmp_path)
    (tmp_path / "STS.gs.images.txt").unlink()
    with pytest.raises(UserError, match=r"no such file.*STS\.gs\.images"):
        read_pairs(tmp_path)


def test_missing_file(tmp_path):
    (tmp_path / "pairs.csv").write_text("a,b,1\nc,d,2\n")
    with pytest.raises(UserError, match=r"no such file.*Did you mean pairs\.csv"):
        read_pairs(tmp_path / "pair.csv")


def test_hub(monkeypatch):
    asked = []

    def load_dataset(name, config, **options):
        asked.append((name, config))
        columns = {
            "sentence1": ["a dog runs"] * 2,
            "sentence2": ["robots paint"] * 2,
            "similarity_score": [4.5, 0.2],
        }
        return {"dev": datasets.Dataset.from_dict(columns)}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    pairs = load_pairs("stsb-de")
    assert pairs == ScoredPairs(["a dog runs"] * 2, ["robots paint"] * 2, [4.5, 0.2])
    assert asked == [("PhilipMay/stsb_multi_mt", "de")]
    with pytest.raises(UserError, match="unknown split 'test'"):
        load_pairs("sts12")


def test_groups_are_all_tasks():
    assert sorted(task for group in GROUPS.values() for task in group) == sorted(TASKS)


def test_unknown_task():
    with pytest.raises(UserError, match=r"unknown STS task 'stbs'\. Did you mean 'stsb'"):
        load_pairs("stbs")
