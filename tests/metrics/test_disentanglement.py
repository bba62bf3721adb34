from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score

from llamavae.errors import UserError
from llamavae.metrics.disentanglement import (
    check,
    code_factors,
    dci,
    entropies,
    information_matrix,
    mig,
    modularity,
    sap,
)

VALUES = (2, 3, 5, 4)


def planted(n=400, noise=0.02, seed=0):
    """Factors, and a space whose dimensions are these factors."""
    rng = np.random.default_rng(seed)
    factors = np.column_stack([rng.integers(0, count, n) for count in VALUES])
    points = (factors - factors.mean(0)) / factors.std(0)
    return points + noise * rng.normal(size=points.shape), factors


def rotated(points, seed=1):
    size = points.shape[1]
    return points @ np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def dealt(factors, seed=2):
    return np.random.default_rng(seed).permutation(factors)


# ------------------------------------------------------------------------------- labels


def test_labels_are_numbered_and_the_unusable_named():
    labels: dict[str, Any] = {
        "tense": ["past", "future"] * 10,
        "length": [7, 8, 9, 10] * 5,
        "negated": [True, False] * 10,
        "one": ["x"] * 20,
        "own": list(range(20)),
        "some": [None, *["x"] * 19],
        "lists": [["a"]] * 20,
        "missing": [float("nan"), *[0.5] * 19],
    }
    found = code_factors(labels)
    assert found.names == ["tense", "length", "negated"]
    assert found.codes[:4].tolist() == [[1, 1, 1], [0, 2, 0], [1, 3, 1], [0, 0, 0]]
    assert found.left_out == {
        "one": "all sentences have the value x",
        "own": "20 values for 20 sentences: fewer than 5 to a value",
        "some": "1 of 20 sentences have no value",
        "lists": "the values are lists, not single labels",
        "missing": "1 of 20 sentences have no value",
    }


def test_labels_with_decimals_are_binned():
    found = code_factors({"score": [i / 10 for i in range(100)]}, bins=4)
    assert found.codes[:, 0].tolist() == sorted([0, 1, 2, 3] * 25)
    assert code_factors({"score": [0.5] * 10}).left_out == {
        "score": "all sentences have the value 0.5"
    }


def test_without_labels_there_are_no_factors():
    assert code_factors({}).names == []


# ------------------------------------------------------------------------------- information


@given(st.integers(0, 1000), st.integers(2, 30))
def test_information_is_that_of_scikit_learn_on_a_histogram(seed, bins):
    rng = np.random.default_rng(seed)
    points, factors = rng.normal(size=(60, 3)), rng.integers(0, 4, (60, 2))
    cells = [np.digitize(x, np.histogram(x, bins)[1][:-1]) for x in points.T]
    expected = [[mutual_info_score(v, cell) for v in factors.T] for cell in cells]
    assert information_matrix(points, factors, bins) == pytest.approx(np.array(expected), abs=1e-12)


def test_entropies_are_those_of_scipy():
    factors = np.array([[0, 0], [0, 1], [1, 2], [0, 3]])
    assert entropies(factors) == pytest.approx([entropy([3, 1]), np.log(4)])


def test_mig_by_hand():
    # dimension 0 is the factor; dimension 1 is it in half of the cases
    factor = np.array([0, 0, 1, 1] * 5)
    half = np.array([0, 0, 1, 0] * 5)
    information = mutual_info_score(factor, half)
    expected = (np.log(2) - information) / np.log(2)
    assert mig(np.column_stack([factor, half]), factor[:, None]) == pytest.approx([expected])


def test_modularity_by_hand():
    # dimension 0 tells of factor 0 alone, dimension 1 of both alike, dimension 2 of none
    a, b = np.divmod(np.arange(80) % 4, 2)
    points, factors = np.column_stack([a, a + 2 * b, np.zeros(80)]), np.column_stack([a, b])
    assert modularity(points, factors) == pytest.approx((1 + 0 + 0) / 3)
    with pytest.raises(UserError, match="at least 2 factors; got 1"):
        modularity(points, factors[:, :1])


@given(st.floats(0.01, 100), st.floats(-5, 5))
def test_information_does_not_depend_on_scale_and_place(scale, shift):
    points, factors = planted(60)
    moved = information_matrix(scale * points + shift, factors)
    assert moved == pytest.approx(information_matrix(points, factors), abs=0.06)  # edges of bins


# ------------------------------------------------------------------------------- all of them

SCORES = {
    "MIG": lambda x, y: mig(x, y).mean(),
    "disentanglement": lambda x, y: dci(x, y).disentanglement,
    "completeness": lambda x, y: dci(x, y).completeness,
    "SAP": lambda x, y: sap(x, y).mean(),
}


@pytest.mark.parametrize("name", SCORES)
def test_planted_axes_score_best_and_random_labels_nothing(name):
    score = SCORES[name]
    points, factors = planted()
    best = np.mean([1 - 1 / count for count in VALUES]) if name == "SAP" else 1
    right = score(points, factors)
    assert right == pytest.approx(best, abs=0.05)
    assert score(rotated(points), factors) < 0.5 * right
    assert abs(score(points, dealt(factors))) < 0.06


@pytest.mark.parametrize("name", SCORES)
def test_order_and_sign_of_dimensions_do_not_matter(name):
    score = SCORES[name]
    points, factors = planted(200, noise=1.0)
    changed = points[:, ::-1] * [1, -1, 1, -1]
    assert score(changed, factors) == pytest.approx(score(points, factors), abs=0.06)


def test_informativeness_is_of_held_out_labels():
    points, factors = planted()
    assert dci(points, factors).informativeness == 1
    found = dci(points, dealt(factors))
    assert found.informativeness == pytest.approx(np.mean([1 / v for v in VALUES]), abs=0.08)
    assert found.accuracy.mean() == found.informativeness
    assert found.importance.sum(0) == pytest.approx(np.ones(4))


def test_dci_of_an_importance_by_hand():
    """The weighted entropies of the paper, on the importance that the forests found."""
    points, factors = planted(200, noise=1.5)
    found = dci(points, factors, trees=5)
    matrix = found.importance
    per_dimension = 1 - entropy(matrix.T, base=4)
    assert found.disentanglement == pytest.approx(per_dimension @ matrix.sum(1) / matrix.sum())
    assert found.completeness == pytest.approx((1 - entropy(matrix, base=4)).mean())


def test_one_factor_has_nothing_to_be_told_from():
    points, factors = planted(100)
    found = dci(points, factors[:, :1], trees=2)
    assert np.isnan(found.disentanglement)
    assert found.completeness == pytest.approx(1, abs=0.05)


def test_a_dimension_that_does_not_vary_changes_nothing():
    points, factors = planted(200)
    wider = np.column_stack([points, np.zeros(200)])
    assert mig(wider, factors) == pytest.approx(mig(points, factors), abs=0.05)
    assert dci(wider, factors).importance[4] == pytest.approx(np.zeros(4))


def test_seeds_repeat():
    points, factors = planted(100, noise=1.0)
    assert sap(points, factors, seed=3).tolist() == sap(points, factors, seed=3).tolist()
    assert dci(points, factors, seed=3)[:3] == dci(points, factors, seed=3)[:3]


def test_shapes_that_do_not_fit():
    points, factors = planted(20)
    for wrong in (points[:, 0], points[:10]):
        with pytest.raises(UserError, match=r"expected latent codes \(N, D\)"):
            mig(wrong, factors)
    with pytest.raises(UserError, match="1 factor and 4 latent codes; got 1, 4"):
        sap(points[:, :1], factors)
    with pytest.raises(UserError, match="2 factors and 4 latent codes; got 4, 1 and 20"):
        check(points, factors[:, :1], minimum=2)
