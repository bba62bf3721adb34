"""Sentences of several corpora, read together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.training import runs

from llamavae.errors import UserError
from llamavae.training.sentences import load_sentences, merge, share_out

TEXTS = st.lists(st.lists(st.sampled_from(["a", "b", "B", "c ", "d", " e"]), max_size=5))


def folder(place: Path, name: str, train: list[str], validation: list[str]) -> str:
    """A corpus with splits of its own."""
    (place / name).mkdir()
    for split, texts in (("train", train), ("validation", validation), ("test", ["a bee"])):
        (place / name / f"{split}.txt").write_text("\n".join(texts), encoding="utf-8")
    return str(place / name)


def mixed(place: Path, *names: str, sentences: int = 4, **part: Any) -> Any:
    mix = [{"name": name, **part} for name in names[1:]]
    return runs.recipe(
        place,
        "run",
        corpus={"name": names[0], "mix": mix},
        evaluation={"every": 4, "sentences": sentences, "decoded": 2},
    )


@given(st.integers(1, 1000), st.lists(st.integers(0, 10**6), min_size=1).filter(any))
def test_shares(total, sizes):
    shares = share_out(total, sizes)
    assert min(shares) >= 1
    assert abs(sum(shares) - total) <= len(sizes)
    ranks = sorted(zip(sizes, shares, strict=True))
    assert [share for _, share in ranks] == sorted(shares)


@given(TEXTS, TEXTS)
def test_merging(train, validation):
    together, held_out = merge(train, validation)
    folded = [text.strip().casefold() for text in together]
    assert set(folded) == {text.strip().casefold() for part in train for text in part}
    assert not set(folded) & {text.strip().casefold() for text in held_out}
    if len(train) == 1:
        assert together == train[0]


def test_one_after_the_other_without_what_comes_twice(tmp_path):
    one = folder(tmp_path, "one", ["a dog", "an owl", "a dog"], ["a fox", "a cat"])
    two = folder(tmp_path, "two", ["An  owl", "a hen", "a cat"], ["a dog", "a fox", "a pig"])
    found = load_sentences(mixed(tmp_path, one, two, sentences=6))
    assert found.train == ["a dog", "an owl", "a dog", "a hen", "a cat"]
    assert found.validation == ["a fox", "a pig"]  # a cat and a dog are trained on elsewhere


def test_held_out_sentences_are_shared_out_by_size(tmp_path):
    sizes = {"large": 60, "small": 20}
    names = [
        folder(
            tmp_path,
            name,
            [f"{name} robot {i}" for i in range(size)],
            [f"{name} cat {i}" for i in range(20)],
        )
        for name, size in sizes.items()
    ]
    found = load_sentences(mixed(tmp_path, *names, sentences=8))
    assert [text.split()[0] for text in found.validation] == ["large"] * 6 + ["small"] * 2


def test_each_part_has_settings_of_its_own(tmp_path):
    one = folder(tmp_path, "one", ["a dog", "a very old owl"], ["a fox", "a hen"])
    two = folder(tmp_path, "two", ["a cat", "a very old pig"], ["a bee", "a bat"])
    found = load_sentences(mixed(tmp_path, one, two, max_words=2))
    assert found.train == ["a dog", "a very old owl", "a cat"]


def test_nothing_left_to_hold_out(tmp_path):
    one = folder(tmp_path, "one", ["a dog", "a hen"], ["a cat"])
    two = folder(tmp_path, "two", ["a cat", "a pig"], ["a dog"])
    with pytest.raises(UserError, match=r"one and .*two leaves 0 sentence"):
        load_sentences(mixed(tmp_path, one, two))


def test_a_run_on_a_mixture(tmp_path):
    """All sentences are trained on, and results and card name both corpora."""
    more = tmp_path / "more.txt"
    more.write_text("\n".join(f"{text} again" for text in runs.SENTENCES), encoding="utf-8")
    result = runs.quick(mixed(tmp_path, str(runs.corpus(tmp_path)), str(more)))
    found = json.loads((result.folder / "results.json").read_text())
    assert found["sentences"] == 216
    assert "more.txt" in (result.folder / "model" / "README.md").read_text()
