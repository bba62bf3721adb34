from __future__ import annotations

import numpy as np
import pytest
from tests.metrics.test_disentanglement import VALUES, dealt, planted

from llamavae.errors import UserError
from llamavae.metrics.interventions import _Groups, z_diff, z_min_var

SCORES = {"z-diff": z_diff, "z-min-var": z_min_var}


@pytest.mark.parametrize("name", SCORES)
def test_planted_axes_are_named_and_random_labels_guessed(name):
    score = SCORES[name]
    points, factors = planted()
    assert score(points, factors) == pytest.approx(1, abs=0.01)
    guesses = [score(points, dealt(factors, seed), seed=seed) for seed in range(5)]
    assert np.mean(guesses) == pytest.approx(1 / len(VALUES), abs=0.1)


@pytest.mark.parametrize("name", SCORES)
def test_a_space_of_noise_guesses(name):
    _, factors = planted()
    noise = np.random.default_rng(1).normal(size=(400, 6))
    guesses = [SCORES[name](noise, factors, seed=seed) for seed in range(5)]
    assert np.mean(guesses) == pytest.approx(1 / len(VALUES), abs=0.1)


def test_min_var_by_hand_tells_factors_of_one_dimension_apart_no_more():
    # both factors fix dimension 0, so the majority vote is right for one of the two
    value = np.repeat([0, 1], 50)
    noise = np.random.default_rng(0).normal(size=100)
    points = np.column_stack([value + 0.01 * noise, noise])
    assert z_min_var(points, np.column_stack([value, value])) == pytest.approx(0.5)


def test_the_scale_of_a_dimension_does_not_matter():
    points, factors = planted(200, noise=0.5)
    scaled = points * [1e-3, 1, 10, 1e3]
    assert z_min_var(scaled, factors) == z_min_var(points, factors)
    assert z_diff(scaled, factors) == pytest.approx(z_diff(points, factors), abs=0.01)


def test_dimensions_without_variance():
    points, factors = planted(200)
    wider = np.column_stack([np.zeros(200), points])
    assert z_min_var(wider, factors) == z_min_var(points, factors)
    assert z_min_var(np.zeros((200, 3)), factors) == 0


def test_pairs_share_a_value_and_are_never_one_point():
    values = np.array([0, 1, 0, 2, 1, 0])
    first, second = _Groups(values).pairs((50, 4), np.random.default_rng(0))
    assert (values[first] == values[second]).all()
    assert (first != second).all()
    assert set(first.ravel()) == {0, 1, 2, 4, 5}  # 3 is alone with its value
    batches = _Groups(values).batches((50, 4), np.random.default_rng(0))
    assert all(len(set(values[batch])) == 1 for batch in batches)
    assert 3 not in batches


def test_what_cannot_be_drawn():
    points, factors = planted(20)
    with pytest.raises(UserError, match="2 factors"):
        z_diff(points, factors[:, :1])
    own = np.column_stack([np.arange(20), np.arange(20)])
    with pytest.raises(UserError, match="expected two sentences with the same value"):
        z_min_var(points, own)
