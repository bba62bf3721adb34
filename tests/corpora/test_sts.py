from __future__ import annotations

import logging

import datasets
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
        "a.csv:2: 2 cell(s) instead of 3",
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
    assert "left out 4 malformed row(s) among 6" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,b,1\n", "at least 2 pairs; got 1"),
        ("a.csv", 'a,b,1\n"c,d,2\ne,f,3\n', "a.csv:3: unexpected end of data"),
        ("a.csv", "sentence1,score\na,1\n", "a.csv:2: no sentence2 or sentence_b"),
        ("a.jsonl", '{"sentence1": "a"\n"b"\n', "2 malformed.*a.jsonl:1: not a JSON object"),
        ("a.jsonl", '{"sentence1": 1, "sentence2": "b", "score": 1}\n', "a sentence is missing"),
        ("a.txt", "a,b,1\n", "expected a .csv, .tsv or .jsonl file"),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_pairs(tmp_path / name)


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
