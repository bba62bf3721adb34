from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llamavae.metrics.correlation import pairwise_cosines, pearson, similarity_correlation, spearman


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(-5, 5), st.floats(-1, 1, width=16)), min_size=3, max_size=30
    ).filter(lambda pairs: all(len(set(column)) > 1 for column in zip(*pairs, strict=True)))
)
def test_correlations_are_scipys(pairs):
    a, b = np.array(pairs).T
    if a.std() * b.std() < 1e-6:
        return
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-9)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b)[0], abs=1e-9)


def test_spearman_by_hand():
    # ranks 1 2 3 4 against 1 3 2 4: 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15)
    assert spearman([1, 2, 3, 4], [0.1, 0.5, 0.4, 99]) == pytest.approx(0.8)


def test_no_correlation_with_a_constant():
    assert spearman([1, 1, 1], [1, 2, 3]) == pearson([1, 2, 3], [4, 4, 4]) == 0


# ------------------------------------------------------------------------------- similarities


def vectors(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(7, 5, generator=generator, dtype=torch.float64)


def test_correlation():
    mean, teacher = vectors(0), vectors(1)
    a, b = (pairwise_cosines(x)[*torch.triu_indices(7, 7, 1)] for x in (mean, teacher))
    expected = torch.corrcoef(torch.stack([a, b]))[0, 1].item()
    assert similarity_correlation(mean, teacher) == pytest.approx(expected)
    assert similarity_correlation(mean, 3 * mean) == pytest.approx(1)
    assert similarity_correlation(mean, torch.ones(7, 2)) == 0  # all the same: not defined
    for rows in (0, 1):  # no pair
        assert similarity_correlation(torch.ones(rows, 3), torch.ones(rows, 2)) == 0
