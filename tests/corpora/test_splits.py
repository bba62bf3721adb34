from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from llamavae.corpora.splits import SHARES, position, take_split
from llamavae.errors import UserError, counted

TEXTS = [f"sentence number {i}" for i in range(4_000)]


def dataset(texts):
    return Dataset.from_dict({"text": list(texts), "label": list(range(len(texts)))})


def texts(data: Any) -> list[str]:
    return [row["text"] for row in data]


def cut(source: Any) -> dict[str, list[str]]:
    return {name: texts(take_split(source, name)) for name in SHARES}


def test_the_hash_is_the_same_everywhere():
    """These numbers must never change: a change moves held-out sentences into training."""
    assert position("a dog barks") == pytest.approx(0.8514143420877005, abs=1e-12)
    assert sum(position(text) >= 0.1 for text in TEXTS[:40]) == 35  # in training


@given(st.text())
def test_position(text):
    assert 0 <= position(text) < 1
    assert position(f"  {text}\n") == position(text)


def test_shares():
    parts = cut(dataset(TEXTS))
    assert sorted(chain(*parts.values())) == sorted(TEXTS)
    high = 0.0
    for name, share in SHARES.items():
        low, high = high, high + share
        assert len(parts[name]) == pytest.approx(share * len(TEXTS), rel=0.2)
        assert all(low <= position(text) < high for text in parts[name])


def test_whole():
    data = dataset(TEXTS)
    assert take_split(data, None) is data


def test_duplicates_stay_together():
    parts = cut(dataset([*TEXTS, *(text.upper() for text in TEXTS)]))
    assert all(len({t.lower() for t in part}) == len(part) / 2 for part in parts.values())


def test_stream_and_memory_agree():
    data = dataset(TEXTS)
    for name, part in cut(data).items():
        stream = take_split(data.to_iterable_dataset(num_shards=3), name)
        assert texts(stream) == part


@given(st.integers(3, 300), st.integers(0, 10))
def test_small_corpora_have_every_split(size, copies):
    texts = TEXTS[:size] + TEXTS[:1] * copies
    parts = cut(dataset(texts))
    assert sorted(chain(*parts.values())) == sorted(texts)
    distinct = {name: set(part) for name, part in parts.items()}
    assert all(distinct.values())
    assert sum(len(part) for part in distinct.values()) == size  # no text in two splits
    assert len(distinct["train"]) >= size / 3


@pytest.mark.parametrize("size", [1, 2])
def test_too_small(size):
    number = counted(size, "distinct sentence")
    with pytest.raises(UserError, match=rf"{number}, too few .* split=None \(--split all\)"):
        take_split(dataset(TEXTS[:size] * 5), "validation")


def test_unknown_split():
    with pytest.raises(UserError, match=r"unknown split 'valid'\. Did you mean 'validation'"):
        take_split(dataset(TEXTS), "valid")


def test_own_splits_are_kept():
    own = {
        "train": dataset(TEXTS[:100]),
        "dev": dataset(TEXTS[100:110]),
        "test": dataset(TEXTS[110:120]),
    }
    assert cut(own) == {
        "test": TEXTS[110:120],
        "validation": TEXTS[100:110],
        "train": TEXTS[:100],
    }
    assert texts(take_split(own, None)) == TEXTS[:120]


@pytest.mark.parametrize("lacking", ["validation", "test"])
@pytest.mark.parametrize("size", [50, 2_000])
def test_a_lacking_split_is_cut_from_train(lacking, size):
    present = {"validation": "test", "test": "validation"}[lacking]
    own = {"train": dataset(TEXTS[:size]), present: dataset(TEXTS[-10:])}
    parts = cut(own)
    assert parts[present] == TEXTS[-10:]
    assert sorted(parts["train"] + parts[lacking]) == sorted(TEXTS[:size])
    assert len(parts[lacking]) == pytest.approx(0.05 / 0.95 * size, rel=0.25)


def test_splits_without_train_are_divided_by_hash():
    own = {"noun": dataset(TEXTS[:2000]), "verb": dataset(TEXTS[2000:])}
    assert cut(own) == cut(dataset(TEXTS))
    assert texts(take_split(own, None)) == TEXTS
