from __future__ import annotations

import socket
import time
from typing import Any

import datasets
import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import constants

from llamavae.corpora import load_corpus
from llamavae.errors import UserError


def values(data: Any, column: str) -> list[Any]:
    return [row[column] for row in data]


@pytest.fixture
def loader(monkeypatch):
    """Replaces `datasets.load_dataset`; returns the list of its calls."""

    def replace(result):
        calls = []

        def load_dataset(*args, **kwargs):
            calls.append((args, kwargs))
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return replace


def test_an_absent_dataset_fails_at_once_without_a_network(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for offline in (True, False):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        start = time.perf_counter()
        with pytest.raises(UserError, match=r"'owner/absent': the Hugging Face hub cannot be"):
            load_corpus("owner/absent")
        assert time.perf_counter() - start < 2


def test_code_of_a_dataset_is_not_run(monkeypatch, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "data.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    (folder / "train.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match="Dataset scripts are no longer supported"):
        load_corpus(str(folder))
    assert not (tmp_path / "ran").exists()


def test_hub_id(loader):
    data = DatasetDict({"train": Dataset.from_dict({"sentence": ["a b", "c"], "label": [0, 1]})})
    calls = loader(data)
    result = load_corpus("owner/name", config="small", revision="abc", column="sentence")
    assert result.to_dict() == {"text": ["a b", "c"], "label": [0, 1]}
    (args, kwargs) = calls[0]
    assert args == ("owner/name", "small")
    assert kwargs["revision"] == "abc"
    assert kwargs["streaming"] is False


def test_column_is_guessed_and_an_old_text_gives_way(loader):
    loader(DatasetDict({"train": Dataset.from_dict({"sentence": ["a"], "n": [1]})}))
    assert load_corpus("owner/name").column_names == ["text", "n"]
    loader(DatasetDict({"train": Dataset.from_dict({"sentence": ["a"], "text": ["b"]})}))
    assert load_corpus("owner/name", column="sentence").to_dict() == {"text": ["a"]}
    loader(DatasetDict({"train": Dataset.from_dict({"first": ["a"], "second": ["b"]})}))
    with pytest.raises(UserError, match=r"owner/name has no column 'text'.*first, second"):
        load_corpus("owner/name")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no route"), r"hub cannot be reached \(no route\).*HF_HUB_OFFLINE.*local"),
        (DatasetNotFoundError("x"), r"no dataset 'owner/name'.*hf auth login"),
        (ValueError("BuilderConfig 'x' not found.\nmore"), r"BuilderConfig 'x' not found$"),
        (RuntimeError("Dataset scripts are no longer supported"), "scripts are no longer"),
    ],
)
def test_hub_errors(loader, error, message):
    loader(error)
    with pytest.raises(UserError, match=message):
        load_corpus("owner/name")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A local dataset with its own training and test set."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    place = tmp_path / "data"
    place.mkdir()
    lines = [f'{{"text": "sentence {i}", "n": {i}}}\n' for i in range(60)]
    (place / "train.jsonl").write_text("".join(lines[:50]))
    (place / "test.jsonl").write_text("".join(lines[50:]))
    return place


@pytest.mark.parametrize("streaming", [False, True])
def test_local_folder(folder, streaming):
    test = load_corpus(folder, "test", streaming=streaming)
    assert values(test, "n") == list(range(50, 60))
    train = values(load_corpus(folder, "train", streaming=streaming), "n")
    validation = values(load_corpus(folder, "validation", streaming=streaming), "n")
    assert sorted(train + validation) == list(range(50))
    assert isinstance(test, IterableDataset) is streaming
    assert len(list(load_corpus(folder, streaming=streaming))) == 60


@pytest.mark.parametrize("streaming", [False, True])
def test_saved_to_disk(tmp_path, streaming):
    data = Dataset.from_dict({"text": ["a", "b"]})
    data.save_to_disk(str(tmp_path / "one"))
    DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "two"))
    one = load_corpus(tmp_path / "one", streaming=streaming)
    two = load_corpus(tmp_path / "two", "test", streaming=streaming)
    assert values(one, "text") == values(two, "text") == ["a", "b"]


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match="doesn't contain any data files"):
        load_corpus(tmp_path)


def test_malformed_folder(folder):
    (folder / "train.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(UserError, match="cannot load"):
        load_corpus(folder)
