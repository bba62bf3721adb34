from __future__ import annotations

import numpy as np
import pytest
import torch

from llamavae.latent import traversal
from llamavae.metrics.offset_similarity import move, offset_concentration


def test_a_move_along_an_axis_is_a_traversal():
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    axis = torch.eye(4)[2].expand(1, 3, 4)
    low, high = move(start, axis, torch.zeros(4), torch.tensor([2 * 1.959964]))
    expected = torch.stack([traversal(z, 2, 2) for z in start])
    torch.testing.assert_close(torch.stack([low[0], high[0]], 1), expected)


def test_a_move_has_its_length_and_keeps_what_is_across():
    generator = torch.Generator().manual_seed(1)
    start, centre = torch.randn(5, 3, generator=generator), torch.randn(3, generator=generator)
    direction = torch.randn(2, 5, 3, generator=generator)
    length = torch.tensor([1.0, 4.0])
    low, high = move(start, direction, centre, length)
    torch.testing.assert_close((high - low).norm(dim=-1), length[:, None].expand(2, 5))
    unit = direction / direction.norm(dim=-1, keepdim=True)
    middle = (low + high) / 2
    along = (middle * unit).sum(-1)
    torch.testing.assert_close(along, (unit * centre).sum(-1))
    across = middle - start - ((middle - start) * unit).sum(-1, keepdim=True) * unit
    torch.testing.assert_close(across, torch.zeros_like(across), atol=1e-5, rtol=0)


def test_offset_concentration_by_hand():
    alike = [[1.0, 0.0], [2.0, 0.0], [5.0, 0.0]]
    opposite = [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]  # the last did not change
    square = [[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    found = offset_concentration(np.array([alike, opposite, square]))
    assert found == pytest.approx([1, -1 / 3, -1 / 3])
    assert offset_concentration(np.array([square]), np.array([0, 1, 1])) == pytest.approx([0])
