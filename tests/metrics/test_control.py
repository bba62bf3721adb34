from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from llamavae.metrics.control import derangement


@given(st.integers(2, 50), st.integers(0, 2**31))
def test_a_derangement_leaves_nothing_in_its_place(n, seed):
    other = derangement(n, torch.Generator().manual_seed(seed))
    assert sorted(other.tolist()) == list(range(n))
    assert (other != torch.arange(n)).all()


@given(st.lists(st.integers(0, 4), min_size=2, max_size=24), st.integers(0, 2**31))
def test_a_derangement_pairs_as_few_equal_labels_as_possible(labels, seed):
    other = derangement(len(labels), torch.Generator().manual_seed(seed), labels)
    assert sorted(other.tolist()) == list(range(len(labels)))
    assert all(i != j for i, j in enumerate(other.tolist()))
    same = sum(labels[i] == labels[j] for i, j in enumerate(other.tolist()))
    # all that the others have goes to the largest group, and the rest of it stays within
    assert same == max(0, 2 * max(map(labels.count, labels)) - len(labels))


def test_a_derangement_minds_several_labels():
    words, texts = list("aabbccdd"), list("xyxyzzvw")
    for seed in range(50):
        other = derangement(8, torch.Generator().manual_seed(seed), words, texts).tolist()
        assert sorted(other) == list(range(8))
        assert not any(words[i] == words[j] or texts[i] == texts[j] for i, j in enumerate(other))
