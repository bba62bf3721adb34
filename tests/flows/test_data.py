from __future__ import annotations

import pytest
import torch

from llamavae.errors import UserError
from llamavae.flows import FlowData


def nan(shape, *rows, value=float("nan")):
    tensor = torch.zeros(shape)
    tensor[list(rows), -1] = value
    return tensor


def test_rows_are_taken_together():
    x, c, noise = torch.arange(8.0).view(4, 2), torch.arange(4.0).view(4, 1), torch.ones(4, 2)
    part = FlowData(x, c, noise).take(torch.tensor([3, 1]))
    assert len(part) == 2
    assert part.x.tolist() == [[6, 7], [2, 3]]
    assert part.c is not None
    assert part.c.tolist() == [[3], [1]]
    assert FlowData(x).take(torch.tensor([0])).c is None


def test_noise_has_its_standard_deviation():
    generator = torch.Generator().manual_seed(0)
    x = torch.ones(50_000, 2)
    assert FlowData(x).draw(generator) is x
    drawn = FlowData(x, noise=torch.tensor([0.5, 0.0]).expand(50_000, 2)).draw(generator)
    assert torch.equal(drawn[:, 1], x[:, 1])
    assert drawn[:, 0].std() == pytest.approx(0.5, rel=0.02)
    assert drawn[:, 0].mean() == pytest.approx(1, abs=0.02)


def test_checked_rows_have_no_graph():
    x = torch.ones(3, 2, requires_grad=True)
    rows = FlowData(2 * x, torch.ones(3, 1), x).checked("the data", 2, 1)
    assert not rows.x.requires_grad
    assert rows.noise is not None
    assert not rows.noise.requires_grad


@pytest.mark.parametrize(
    ("rows", "context", "message"),
    [
        (FlowData(torch.zeros(5, 3)), 0, r"expected x of shape \(N, 2\); got \(5, 3\)"),
        (FlowData(torch.zeros(2)), 0, r"expected x of shape \(N, 2\); got \(2,\)"),
        (
            FlowData(torch.zeros(5, 2), torch.zeros(5, 4)),
            3,
            r"the data: expected c of shape \(5, 3\); got \(5, 4\)",
        ),
        (FlowData(torch.zeros(5, 2), torch.zeros(4, 3)), 3, r"c of shape \(5, 3\); got \(4, 3\)"),
        (FlowData(torch.zeros(5, 2), noise=torch.zeros(5, 1)), 0, r"noise of shape \(5, 2\)"),
        (FlowData(torch.zeros(5, 2)), 3, r"expected a context c of shape \(N, 3\); got none"),
        (
            FlowData(torch.zeros(5, 2), torch.zeros(5, 3)),
            0,
            r"expected no context; got one of shape",
        ),
        (FlowData(nan((9, 2), 3, 7)), 0, r"x has NaN or infinite values in 2 rows: 3, 7$"),
        (FlowData(nan((9, 2), 4, value=-float("inf"))), 0, r"in 1 row: 4$"),
        (FlowData(nan((9, 2), *range(7))), 0, r"in 7 rows: 0, 1, 2, 3, 4, \.\.\.$"),
        (
            FlowData(torch.zeros(9, 2), nan((9, 3), 1)),
            3,
            r"c has NaN or infinite values in 1 row: 1",
        ),
        (FlowData(torch.zeros(9, 2), noise=nan((9, 2), 8)), 0, "noise has NaN"),
        (
            FlowData(torch.full((2, 2), 1e200, dtype=torch.float64)),
            0,
            "x has NaN or infinite values",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, context, message):
    with pytest.raises(UserError, match=message):
        rows.checked("the data", 2, context)


def test_the_digest_is_of_all_values():
    x, c = torch.randn(5, 2), torch.randn(5, 1)
    same = [FlowData(x, c), FlowData(x.clone(), c.clone()), FlowData(x.double(), c)]
    other = [
        FlowData(x + 1e-6, c),
        FlowData(x, -c),
        FlowData(x),
        FlowData(x, c, torch.ones(5, 2)),
        FlowData(x.flip(0), c),
    ]
    assert len({rows.digest() for rows in same}) == 1
    assert len({rows.digest() for rows in [*same, *other]}) == 1 + len(other)
