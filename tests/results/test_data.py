"""The files that the experiments on public datasets read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from results import data

from llamavae.errors import UserError

STORY = "An owl woke up. Was it late?  It read a letter! Then it slept."


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of small datasets in the formats of their publishers."""
    place = tmp_path / "public"
    texts = {
        "wikisplit/sentences.txt": "a  dog runs\nA dog runs\n" + "long " * 41 + "\na river\n",
        "rocstories/roc_valid.json": json.dumps([STORY]) + "\n",
        "stsb-dev/stsb-en-dev.csv": "a dog,a cat,2.0\n",
        "reverse-dictionary/MultiRD_test.csv": "WORD,DEFINITION\nowl,a bird\n",
        "reverse-dictionary/Hei++.csv": "WORD,DEFINITION\nold owl,a bird of age\n",
        "yelp-sentiment/reference.0": "it was bad .\tit was good .\n",
        "yelp-sentiment/reference.1": "i like it\ti hate it\n",
    }
    for part in ("dev", "test"):
        texts |= {f"yelp-sentiment/{part}.0": f"{part} was slow\nIt was bad .\n"}
        texts |= {f"yelp-sentiment/{part}.1": f"{part} was fast, and clean\n"}
    for part in ("valid", "test"):
        texts |= {f"dailydialog/{part}.utts.txt": f"Hello {part} . __eou__ Who is it ? __eou__\n"}
        texts |= {f"dailydialog/{part}.act.txt": "1 2 \n"}
    for name, text in texts.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")
    return place


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_sentences_are_distinct_and_not_long(folder, tmp_path):
    counts = data.prepare(folder, tmp_path / "made")
    assert lines(tmp_path / "made/wikipedia.txt") == ["a dog runs", "a river"]
    assert counts["wikipedia.txt"] == 2
    assert set(counts) == set(data.FILES)


def test_stories_are_split_into_sentences(folder):
    expected = ["An owl woke up.", "Was it late?", "It read a letter!", "Then it slept."]
    assert list(data.rocstories(folder)) == expected


def test_labels_are_those_of_the_sentences(folder, tmp_path):
    data.prepare(folder, tmp_path)
    with (tmp_path / "yelp.csv").open(encoding="utf-8", newline="") as file:
        sentiments = {row["text"]: row["label"] for row in csv.DictReader(file)}
    assert sentiments["dev was fast, and clean"] == "positive"
    assert sentiments["test was slow"] == "negative"
    assert "It was bad ." not in sentiments  # a sentence of the style transfer test
    with (tmp_path / "dailydialog-acts.csv").open(encoding="utf-8", newline="") as file:
        acts = {row["text"]: row["label"] for row in csv.DictReader(file)}
    assert acts == {"Hello valid .": "inform", "Who is it ?": "question", "Hello test .": "inform"}


def test_a_sample_is_reproducible_and_keeps_the_order(monkeypatch):
    monkeypatch.setattr(data, "LINES", 5)
    texts = [f"sentence {i}" for i in range(50)]
    first = data.sentences(texts)
    assert first == data.sentences(texts)
    assert first != data.sentences(texts, seed=1)
    found = first.splitlines()
    assert len(found) == 5
    assert found == sorted(found, key=texts.index)


def test_existing_files_are_kept(folder, tmp_path):
    (tmp_path / "wikipedia.txt").write_text("mine\n", encoding="utf-8")
    assert data.prepare(folder, tmp_path)["wikipedia.txt"] == 1
    assert lines(tmp_path / "wikipedia.txt") == ["mine"]


def test_a_missing_file_is_named_and_the_next_run_resumes(folder, tmp_path):
    story = folder / "rocstories/roc_valid.json"
    text = story.read_text(encoding="utf-8")
    story.unlink()
    with pytest.raises(UserError, match=r"roc_valid.json. Set LLAMAVAE_EVIDENCE"):
        data.prepare(folder, tmp_path)
    assert (tmp_path / "wikipedia.txt").is_file()
    story.write_text(text, encoding="utf-8")
    assert data.prepare(folder, tmp_path)["rocstories.txt"] == 4


def test_dialogues_without_their_acts_are_an_error(folder):
    (folder / "dailydialog/valid.act.txt").write_text("1 5\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"valid.act.txt:1: expected a number from 1 to 4"):
        list(data.dialogue_acts(folder))
    (folder / "dailydialog/valid.act.txt").write_text("1 2\n1 2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"expected 1 lines as in valid.utts.txt; got 2"):
        list(data.dialogue_acts(folder))
