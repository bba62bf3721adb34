from __future__ import annotations

import pytest
from tests import tiny

from llamavae.errors import UserError
from llamavae.evaluation import generations


@pytest.fixture(scope="module")
def model():
    return tiny.vae()


def test_reconstructions_stand_beside_those_from_shuffled_points(model):
    texts = tiny.SENTENCES[:3]
    rows = generations.reconstructions(model, texts)
    right = model.reconstruct(texts)
    assert [row["text"] for row in rows] == texts
    assert [row["reconstruction"] for row in rows] == right
    assert [row["shuffled"] for row in rows] == [right[1], right[2], right[0]]
    assert all(0 <= row["bleu"] <= 100 for row in rows)
    with pytest.raises(UserError, match="at least 2"):
        generations.reconstructions(model, texts[:1])


def test_interpolations_end_at_the_reconstructions(model):
    a, b, c = tiny.SENTENCES[:3]
    rows = generations.interpolations(model, [(a, b), (b, c)], steps=5)
    assert [row["pair"] for row in rows] == [1] * 5 + [2] * 5
    assert [row["position"] for row in rows[:5]] == [0, 0.25, 0.5, 0.75, 1]
    ends = [rows[i]["text"] for i in (0, 4, 5, 9)]
    assert ends == model.reconstruct([a, b, b, c])
