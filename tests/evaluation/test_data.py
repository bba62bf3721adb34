from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml
from tests.evaluation.systems import DATA

from llamavae.corpora import factors, load_corpus
from llamavae.errors import UserError
from llamavae.evaluation.data import data_hashes, evaluation_data, run_of
from llamavae.training import load_recipe


def recipe(**corpus):
    values = load_recipe("demo").model_dump(mode="json")
    values["corpus"] |= {"limit": 300, **corpus}
    return values


def rows(tmp_path, name="corpus.jsonl", n=60):
    path = tmp_path / name
    lines = [
        {"text": f"sentence {i}", "kind": "ab"[i % 2], "id": f"n{i}", "score": 0.5, "v": [1.0]}
        for i in range(n)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_sentences_labels_and_training_texts_of_a_corpus():
    data = evaluation_data("factors", limit=40, seed=3)
    expected = load_corpus("factors", "test", limit=40, seed=3)
    assert data.texts == expected["text"][:]
    assert set(data.labels) == set(factors.FACTORS)
    assert data.labels["tense"] == expected["tense"][:]
    assert data.seed == 3
    assert data.training_texts
    assert not set(data.training_texts) & set(data.texts)


def test_of_the_columns_only_labels_are_labels(tmp_path):
    data = evaluation_data(rows(tmp_path), split=None)
    assert set(data.labels) == {"kind"}
    assert data.training_texts == []
    named = evaluation_data(rows(tmp_path), split=None, labels=["id", "kind"])
    assert set(named.labels) == {"id", "kind"}
    with pytest.raises(UserError, match="no column 'tense' of labels; it has kind, id, score, v"):
        evaluation_data(rows(tmp_path), split=None, labels=["tense"])


def test_the_corpus_of_a_recipe_with_its_training_sentences():
    data = evaluation_data(recipe=recipe(), limit=20)
    assert data.texts == load_corpus("factors", "test", limit=20)["text"][:]
    assert data.training_texts == load_corpus("factors", "train", limit=300)["text"][:]


def test_sentences_that_were_trained_on_are_left_out(tmp_path):
    path = tmp_path / "train.txt"
    held_out = load_corpus("factors", "test", limit=20)["text"][:]
    path.write_text("\n".join([held_out[0].upper(), *(f"other {i}" for i in range(20))]))
    values = recipe(mix=[{**recipe()["corpus"], "name": str(path)}])
    train = load_corpus(path, "train")["text"][:]
    if held_out[0].upper() not in train:
        pytest.skip("the sentence is held out there too")
    data = evaluation_data(recipe=values, limit=20)
    assert data.texts == held_out[1:]
    assert len(data.training_texts) == 300 + len(train)


def test_unreadable_training_sentences_are_said(caplog):
    values = recipe(mix=[{**recipe()["corpus"], "name": "/nowhere.txt"}])
    data = evaluation_data(recipe=values, limit=5)
    assert len(data.training_texts) == 300
    assert "could not read the training sentences" in caplog.text


def test_no_corpus_is_asked_for():
    with pytest.raises(UserError, match="Pass a corpus, a file of sentences or a hub id"):
        evaluation_data()


def test_a_system_that_was_trained_on_everything(tmp_path):
    path = rows(tmp_path, n=40)
    values = recipe(name=str(path), limit=None)
    with pytest.raises(
        UserError, match="expected at least 2 sentences that the system was not trained on"
    ):
        evaluation_data(path, "train", recipe=values)


def test_a_split_of_a_small_file(tmp_path):
    path = tmp_path / "f.txt"
    path.write_text("a dog\na cat\nan owl\n")
    with pytest.raises(UserError) as error:
        evaluation_data(path)
    assert str(error.value) == (
        f"{path}, split test: expected at least 2 sentences that the system was not trained on; "
        "got 1 of 1. Use split=None (--split all), another corpus, or a larger one"
    )
    assert len(evaluation_data(path, split=None).texts) == 3
    path.write_text("a dog\n")
    with pytest.raises(UserError, match=r"f\.txt: expected .* 1 of 1\. Use another corpus, or a"):
        evaluation_data(path, split=None)


def test_what_is_known_of_the_run(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    assert run_of(model) is None
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe()))
    assert run_of(model) == run_of(tmp_path) == {"recipe": recipe()}
    (tmp_path / "results.json").write_text(json.dumps({"recipe": recipe(), "seed": 7}))
    assert run_of(model) == {"recipe": recipe(), "seed": 7}
    assert run_of("owner/name") is None


def test_the_folder_where_one_stands_is_not_the_run_of_a_name(tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe()))
    monkeypatch.chdir(tmp_path)
    assert run_of("mini") is None
    assert run_of(".") == {"recipe": recipe()}


def test_hashes_follow_what_an_evaluator_may_read():
    data = DATA
    before = data_hashes(data)
    assert data_hashes(replace(data, progress=True)) == before
    for other in (
        replace(data, texts=data.texts[::-1]),
        replace(data, seed=1),
        replace(data, labels={}),
    ):
        assert data_hashes(other)["hash"] != before["hash"]
        assert data_hashes(other)["training_hash"] == before["training_hash"]
    assert data_hashes(replace(data, training_texts=()))["training_hash"] != before["training_hash"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("results.json", b"{"),
        ("results.json", b"[]"),
        ("results.json", b'{"recipe": 5}'),
        ("recipe.yaml", b"{"),
        ("recipe.yaml", b"- a"),
        ("recipe.yaml", b"\xff"),
    ],
)
def test_a_damaged_run(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=name):
        run_of(tmp_path)
