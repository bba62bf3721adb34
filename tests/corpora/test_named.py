"""WorldTree, Wiktionary and Wikipedia, on invented data in their formats."""

from __future__ import annotations

import gzip
import json
import urllib.request
from urllib.error import URLError

import datasets
import pytest
from datasets import Dataset, IterableDatasetDict

from llamavae.corpora import load_corpus
from llamavae.corpora.wikipedia import sentences
from llamavae.errors import UserError

TABLE = (
    "ARG1\t[FILL]\tKIND\t[FILL]\tOF\t[SKIP] COMMENTS\t[SKIP] DEP\t[SKIP] UID\r\n"
    "a stone\tis a kind of\tsolid  thing\t\t\tcheck this\t\tu-1\n"
    "a cloud\tis a kind of\tstone\t\t\t\twithdrawn\tu-2\n"
    'a "blue" egg\tis a kind of\tegg\tin\ta nest\t\t\tu-3\n'
    "\n"
)


@pytest.fixture
def tables(tmp_path):
    folder = tmp_path / "tablestore" / "tables"
    folder.mkdir(parents=True)
    (folder / "KINDOF.tsv").write_text(TABLE)
    (folder / "notes.tsv").write_text("not\ta table of facts\n")
    return tmp_path


def test_worldtree(tables):
    data = load_corpus("worldtree", path=tables)
    assert data.to_dict() == {
        "text": ["a stone is a kind of solid thing", 'a "blue" egg is a kind of egg in a nest'],
        "table": ["KINDOF", "KINDOF"],
        "uid": ["u-1", "u-3"],
    }
    assert (
        data.to_dict()
        == load_corpus("worldtree", path=tables / "tablestore/tables/KINDOF.tsv").to_dict()
    )


def test_worldtree_as_sentences(tmp_path):
    (tmp_path / "facts.txt").write_text("a stone is solid\n")
    data = load_corpus("worldtree", path=tmp_path / "facts.txt")
    assert list(data["text"]) == ["a stone is solid"]


def test_worldtree_by_its_variable(tables, tmp_path, monkeypatch):
    expected = load_corpus("worldtree", path=tables).to_dict()
    monkeypatch.setenv("LLAMAVAE_WORLDTREE", str(tables))
    assert load_corpus("worldtree").to_dict() == expected
    facts = tmp_path / "facts.txt"
    facts.write_text("a stone is solid\n")
    assert list(load_corpus("worldtree", path=facts)["text"]) == ["a stone is solid"]
    monkeypatch.setenv("LLAMAVAE_WORLDTREE", str(facts))
    assert list(load_corpus("worldtree")["text"]) == ["a stone is solid"]
    monkeypatch.setenv("LLAMAVAE_WORLDTREE", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no such file.*from LLAMAVAE_WORLDTREE"):
        load_corpus("worldtree")


def test_worldtree_is_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("LLAMAVAE_WORLDTREE", raising=False)
    with pytest.raises(UserError, match=r"needs path= or the variable LLAMAVAE_W.*cognitiveai"):
        load_corpus("worldtree")
    with pytest.raises(UserError, match="no WorldTree table"):
        load_corpus("worldtree", path=tmp_path)
    with pytest.raises(UserError, match="no such file"):
        load_corpus("worldtree", path=tmp_path / "facts.txt")


ENTRIES = [
    {"word": "glim", "pos": "noun", "senses": [{"glosses": ["A lamp.", "A small\n lamp."]}, {}]},
    {"word": "glims", "pos": "noun", "senses": [{"glosses": ["plural"], "tags": ["form-of"]}]},
    {"redirect": "glim"},
    {"word": "bort", "pos": "verb", "senses": [{"glosses": ["To walk."], "tags": ["rare"]}]},
]
ROWS = [
    {"text": "A small lamp.", "word": "glim", "pos": "noun"},
    {"text": "To walk.", "word": "bort", "pos": "verb"},
]


@pytest.fixture
def dump(tmp_path):
    path = tmp_path / "dump.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in ENTRIES))
    return path


def test_wiktionary(dump):
    assert list(load_corpus("wiktionary", path=dump, streaming=True)) == ROWS
    assert load_corpus("wiktionary", path=dump, limit=1).to_list() == ROWS[:1]


def test_wiktionary_compressed(dump):
    packed = dump.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(dump.read_bytes()))
    assert list(load_corpus("wiktionary", path=packed, streaming=True)) == ROWS


def test_wiktionary_from_its_site(dump, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: dump.open("rb"))
    assert load_corpus("wiktionary", limit=5).to_list() == ROWS


def test_wiktionary_errors(dump, monkeypatch):
    def urlopen(url, timeout):
        raise URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(UserError, match=r"cannot reach https://kaikki.*no route.*pass path="):
        load_corpus("wiktionary", limit=5)
    with pytest.raises(UserError, match=r"may be larger than memory. Pass limit= .* or streaming"):
        load_corpus("wiktionary", path=dump)
    dump.write_text('{"word": "a"}\n{"word"\n')
    with pytest.raises(UserError, match=r"dump.jsonl:2: not an entry of Wiktextract"):
        load_corpus("wiktionary", path=dump, limit=1)
    dump.write_text("{}\n")
    with pytest.raises(UserError, match="has no definitions"):
        load_corpus("wiktionary", path=dump, limit=1)


ARTICLE = (
    "Glim is a town. It has 3 mills.\n\nHistory\n\nMr. A. Stone (born c. 1900) built it. "
    'He said "Good." Then he left!\nSee also\nBort\n'
)


def test_sentences():
    assert list(sentences(ARTICLE)) == [
        "Glim is a town.",
        "It has 3 mills.",
        "Mr. A. Stone (born c. 1900) built it.",
        'He said "Good."',
        "Then he left!",
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_wikipedia(monkeypatch, streaming):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        articles = Dataset.from_dict(
            {"id": ["1"], "url": ["u"], "title": ["Glim"], "text": [ARTICLE]}
        )
        return IterableDatasetDict({"train": articles.to_iterable_dataset()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load_corpus("wikipedia", limit=2, min_words=4, streaming=streaming)
    assert list(data) == [
        {"text": "Glim is a town.", "title": "Glim"},
        {"text": "It has 3 mills.", "title": "Glim"},
    ]
    assert calls[0][0] == ("wikimedia/wikipedia", "20231101.en")
    assert calls[0][1]["streaming"]
    load_corpus("wikipedia", limit=2, config="20231101.simple")
    assert calls[1][0] == ("wikimedia/wikipedia", "20231101.simple")
