from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from datasets import Dataset, IterableDataset

from llamavae.corpora import corpus_names, describe_corpora, factors, load_corpus
from llamavae.corpora.splits import SHARES
from llamavae.errors import UserError


def texts(data: Any) -> list[str]:
    return [row["text"] for row in data]


def test_listing():
    assert corpus_names()[0] == "factors"
    assert [entry["name"] for entry in describe_corpora()] == corpus_names()
    for entry in describe_corpora():
        assert entry["licence"]
        assert 10 < len(entry["description"]) < 80


def test_corpora_need_no_torch():
    code = "import sys, llamavae.corpora; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_factors_splits():
    parts = {name: set(load_corpus("factors", name)["text"]) for name in SHARES}
    assert sum(len(part) for part in parts.values()) == len(set.union(*parts.values())) == 20_000
    assert len(parts["validation"]) == pytest.approx(1_000, rel=0.2)


@pytest.mark.parametrize("split", [None, *SHARES])
def test_limit_is_reached_also_beyond_the_default_size(split):
    assert len(load_corpus("factors", split, limit=1_200)) == 1_200


def test_limit_and_seed():
    first = load_corpus("factors", limit=50)
    assert texts(first) == texts(load_corpus("factors", limit=50))
    assert texts(first) != texts(load_corpus("factors", limit=50, seed=1))
    assert first.column_names == ["text", *factors.FACTORS]


@pytest.fixture
def sentences(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{'word ' * (i % 7 + 1)}{i}\n" for i in range(70)))
    return path


def lengths(data: Any) -> set[int]:
    return {len(text.split()) for text in texts(data)}


@pytest.mark.parametrize("streaming", [False, True])
def test_words(sentences, streaming):
    data = load_corpus(sentences, min_words=3, max_words=5, streaming=streaming)
    assert lengths(data) == {3, 4, 5}
    assert lengths(load_corpus(sentences, max_words=2, streaming=streaming)) == {2}


def test_limit_keeps_the_order(sentences):
    every = texts(load_corpus(sentences))
    some = texts(load_corpus(sentences, limit=20))
    assert some == [text for text in every if text in set(some)]
    assert some != every[:20]
    assert texts(load_corpus(sentences, limit=1_000)) == every


def test_stream(sentences):
    data = load_corpus(sentences, streaming=True, limit=5)
    assert isinstance(data, IterableDataset)
    assert texts(data) == texts(load_corpus(sentences))[:5]
    data = load_corpus("factors", "test", streaming=True, limit=5)
    assert isinstance(data, IterableDataset)
    assert len(list(data)) == 5


def test_stream_splits_cover_the_file(sentences):
    parts = [text for s in SHARES for text in texts(load_corpus(sentences, s, streaming=True))]
    assert sorted(parts) == sorted(texts(load_corpus(sentences)))


def test_small_file_has_a_validation_set(sentences):
    assert len(load_corpus(sentences, "validation")) == 4
    assert isinstance(load_corpus(str(sentences), "train"), Dataset)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wrdnet", {}, "unknown corpus 'wrdnet'. Did you mean 'wordnet'.*hub id"),
        ("qqqqqqq", {}, "Known: codwoe, factors, .*wordnet"),
        ("factors", {"split": "dev"}, "unknown split 'dev'"),
        ("factors", {"limit": 0}, "limit must be at least 1; got 0"),
        ("factors", {"limit": "a"}, "limit must be an integer; got 'a'"),
        ("factors", {"limit": 10**30}, "limit must be at most"),
        ("factors", {"max_words": 1.5}, "max_words must be an integer"),
        ("factors", {"seed": "a"}, "seed must be an integer"),
        ("a.csv", {"column": 3}, "column must be text; got 3"),
        ("wordnet", {"path": 3}, "expected a file or a folder as path; got 3"),
        (None, {}, r"expected the name of a corpus.*; got None"),
        (3, {}, r"expected the name of a corpus.*; got 3"),
        ("", {}, r"expected the name of a corpus.*; got ''"),
        ("a\0b", {}, "embedded null"),
        ("~no-such-user/a.txt", {}, "home"),
        ("factors", {"min_words": 9, "max_words": 3}, r"min_words \(9\) is more than max_words"),
        ("factors", {"min_words": 99}, "no sentence of factors is left"),
        ("factors", {"revision": "abc"}, r"'factors' does not take revision=; it takes none"),
        ("wordnet", {"config": "x"}, r"'wordnet' does not take config=; it takes path="),
        ("./nothing.txt", {}, "no such file"),
        ("a/b/c", {}, "no such file"),
    ],
)
def test_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        load_corpus(name, **options)


def test_file_does_not_take_hub_options(sentences):
    with pytest.raises(UserError, match=r"a file does not take revision=; it takes column="):
        load_corpus(sentences, revision="abc")
