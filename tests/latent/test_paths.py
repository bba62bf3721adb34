from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from llamavae.errors import UserError
from llamavae.latent import (
    arithmetic,
    average,
    contrast,
    lerp,
    nearest_neighbours,
    slerp,
    traversal,
)

STEPS = st.integers(2, 12)
SEEDS = st.integers(0, 2**31)


def draw(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@st.composite
def ends(draw_from):
    dim = draw_from(st.integers(1, 8))
    a, b = draw(draw_from(SEEDS), 2, dim)
    return a, b * draw_from(st.sampled_from([1.0, 1e-3, 50.0]))


@given(ends(), STEPS, st.sampled_from([torch.float32, torch.float64]))
def test_lines_start_and_end_exactly_and_are_even(pair, steps, dtype):
    a, b = (x.to(dtype) for x in pair)
    path = lerp(a, b, steps)
    assert path.dtype == dtype
    assert path.shape == (steps, len(a))
    assert torch.equal(path[0], a)
    assert torch.equal(path[-1], b)
    gaps = path.diff(dim=0)
    torch.testing.assert_close(gaps, ((b - a) / (steps - 1)).expand_as(gaps), rtol=1e-3, atol=1e-5)


@given(ends(), STEPS)
def test_lines_are_symmetric(pair, steps):
    a, b = pair
    torch.testing.assert_close(lerp(a, b, steps), lerp(b, a, steps).flip(0))


@given(ends(), STEPS)
def test_arcs_start_and_end_exactly_with_norms_on_a_line(pair, steps):
    a, b = pair
    assume(len(a) > 1)
    path = slerp(a, b, steps)
    assert torch.equal(path[0], a)
    assert torch.equal(path[-1], b)
    norms = torch.linspace(0, 1, steps, dtype=a.dtype) * (b.norm() - a.norm()) + a.norm()
    torch.testing.assert_close(path.norm(dim=1), norms, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(path, slerp(b, a, steps).flip(0), rtol=1e-6, atol=1e-8)


@given(ends(), STEPS)
def test_arcs_turn_by_equal_angles_in_one_plane(pair, steps):
    a, b = pair
    assume(len(a) > 1)
    unit = torch.nn.functional.normalize(slerp(a, b, steps), dim=1)
    cosines = (unit[1:] * unit[:-1]).sum(1)
    torch.testing.assert_close(cosines, cosines[:1].expand_as(cosines), rtol=1e-6, atol=1e-8)
    assert torch.linalg.matrix_rank(unit, tol=1e-6) <= 2


def test_a_quarter_turn():
    path = slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 3)
    torch.testing.assert_close(path[1], torch.tensor([math.sqrt(0.5)] * 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_arc_between_nearly_equal_points_is_finite(dtype):
    a = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
    for b in (a, a + 1e-6, 2 * a):
        path = slerp(a, b, 5)
        assert path.isfinite().all()
        torch.testing.assert_close(path, lerp(a, b, 5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [([0.0, 0.0], [1.0, 0.0], "two nonzero latent codes"), ([1.0, 1.0], [-2.0, -2.0], "opposite")],
)
def test_arcs_that_do_not_exist(a, b, message):
    with pytest.raises(UserError, match=message):
        slerp(torch.tensor(a), torch.tensor(b), 3)


@pytest.mark.parametrize("path", [lerp, slerp])
def test_paths_refuse_what_is_no_pair_of_points(path):
    with pytest.raises(UserError, match="two latent codes"):
        path(torch.ones(2), torch.ones(3), 3)
    with pytest.raises(UserError, match="two latent codes"):
        path(torch.ones(1, 2), torch.ones(1, 2), 3)
    with pytest.raises(UserError, match="steps must be from 2 to 1000000; got"):
        path(torch.ones(2), torch.ones(2), 1)


@given(SEEDS, st.integers(1, 6), STEPS, st.floats(0.51, 0.999), st.data())
def test_a_traversal_moves_one_coordinate_over_the_prior(seed, dim, steps, quantile, data):
    z = draw(seed, dim)
    index = data.draw(st.integers(0, dim - 1))
    points = traversal(z, index, steps, quantile)
    others = [i for i in range(dim) if i != index]
    assert torch.equal(points[:, others], z[others].expand(steps, -1))
    moved = points[:, index]
    assert (moved.diff() > 0).all()
    torch.testing.assert_close(moved, -moved.flip(0))
    mass = torch.special.ndtr(moved[-1])
    assert abs(float(mass) - quantile) < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 3}, "from 0 to 2; got 3"),
        ({"dim": -1}, "from 0 to 2; got -1"),
        ({"steps": 1}, "steps must be from 2 to 1000000; got"),
        ({"steps": 10**30}, "steps must be from 2 to 1000000; got"),
        ({"quantile": 0.5}, "between 0.5 and 1"),
        ({"quantile": 1.0}, "between 0.5 and 1"),
        ({"z": torch.ones(1, 3)}, "one latent code"),
    ],
)
def test_traversals_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        traversal(**{"z": torch.zeros(3), "dim": 0, "steps": 3, **changes})


@given(SEEDS, st.integers(1, 6))
def test_arithmetic_undoes_itself(seed, dim):
    a, b, c = draw(seed, 3, dim)
    torch.testing.assert_close(arithmetic(a, b, b), a)
    torch.testing.assert_close(arithmetic(arithmetic(a, b, c), c, b), a)


@given(SEEDS, st.integers(1, 5), st.integers(1, 9), st.integers(1, 6), st.integers(1, 12))
def test_neighbours_are_the_best_cosines_in_order(seed, queries, points, dim, k):
    query, known = draw(seed, queries, dim), draw(seed + 1, points, dim)
    cosine, index = nearest_neighbours(query, known, k)
    every = torch.nn.functional.cosine_similarity(query[:, None], known[None], dim=-1)
    expected = every.sort(dim=1, descending=True).values[:, :k]
    assert cosine.shape == (queries, min(k, points))
    torch.testing.assert_close(cosine, expected)
    torch.testing.assert_close(every.gather(1, index), cosine)


def test_a_point_is_its_own_neighbour_whatever_its_length():
    points = draw(0, 5, 4)
    cosine, index = nearest_neighbours(7 * points, points, 1)
    assert index[:, 0].tolist() == list(range(5))
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


@pytest.mark.parametrize(
    ("query", "points", "k", "message"),
    [
        ((2, 3), (4, 2), 1, "same D"),
        ((3,), (4, 3), 1, "expected query"),
        ((2, 3), (4, 3), 0, "k must be at least 1"),
    ],
)
def test_neighbours_refuse_other_shapes(query, points, k, message):
    with pytest.raises(UserError, match=message):
        nearest_neighbours(torch.ones(query), torch.ones(points), k)


def test_an_average_of_one_code_is_the_code():
    code = torch.randn(1, 5)
    assert torch.equal(average(code), code[0])


def test_weights_of_an_average_are_relative():
    codes = torch.randn(3, 5)
    assert torch.allclose(average(codes, [2.0, 2.0, 2.0]), average(codes))
    assert torch.allclose(average(codes, [0, 5, 0]), codes[1])
    assert torch.allclose(average(codes, [1, 2, 1]), (codes[0] + 2 * codes[1] + codes[2]) / 4)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [float("nan"), 1.0], [0, 0]])
def test_weights_of_an_average_are_checked(weights):
    with pytest.raises(UserError, match="expected 2 finite weights with a positive sum"):
        average(torch.zeros(2, 3), weights)


def test_an_average_needs_codes():
    with pytest.raises(UserError, match="at least one"):
        average(torch.zeros(0, 3))


def test_a_contrast_moves_one_mean_to_the_other():
    a, b = torch.randn(3, 5), torch.randn(4, 5)
    assert torch.allclose((b + contrast(a, b)).mean(0), a.mean(0), atol=1e-6)
    assert torch.equal(contrast(a, b), -contrast(b, a))


@pytest.mark.parametrize("shapes", [((0, 3), (2, 3)), ((2, 3), (2, 4)), ((3,), (2, 3))])
def test_a_contrast_needs_codes_of_one_size(shapes):
    with pytest.raises(UserError, match="at least one of each"):
        contrast(*(torch.zeros(shape) for shape in shapes))


def test_weights_of_an_average_are_numbers():
    wrong: list[Any] = [["1", "2"], object(), [[1.0], [1.0, 2.0]]]
    for weights in wrong:
        with pytest.raises(UserError, match="expected 2 weights; got"):
            average(torch.zeros(2, 3), weights)
