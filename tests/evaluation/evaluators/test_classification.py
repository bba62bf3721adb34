from __future__ import annotations

import numpy as np
import pytest
import torch

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.evaluators.classification import Classification

N = 60
TEXTS = [f"sentence {i}" for i in range(N)]
RNG = np.random.default_rng(0)
LABELS = {
    "half": ["low" if i < N / 2 else "high" for i in range(N)],  # sorted by label
    "random": RNG.integers(2, size=N).tolist(),
    "id": list(range(N)),
    "rare": [i < 3 for i in range(N)],
}


class Halves:
    """Encodes the half in which a sentence is, and noise."""

    def encode(self, texts):
        rows = [int(text.split()[1]) for text in texts]
        half = torch.tensor([10.0 if row < N / 2 else -10.0 for row in rows])
        noise = torch.randn(len(rows), 2, generator=torch.Generator().manual_seed(1))
        return torch.cat([half[:, None], noise], 1)


def test_planted_labels():
    data = EvaluationData(TEXTS, LABELS)
    found = Classification(folds=2, resamples=20)(Halves(), data)
    rows = {row["group"]: row for row in found.rows}
    assert list(rows) == ["", "half", "random"]
    assert rows["half"]["value"] == 1
    assert rows["half"]["control"] == 0.5
    assert 0.2 < rows["random"]["value"] < 0.8
    assert rows[""]["value"] == pytest.approx((1 + rows["random"]["value"]) / 2)
    for row in found.rows:
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert found.items["classification accuracy", row["group"]].values.mean() == (
            pytest.approx(row["value"])
        )
    folds = [row for row in found.tables["folds"] if row["label"] == "random"]
    assert [row["fold"] for row in folds] == [1, 2]
    assert np.mean([row["accuracy"] for row in folds]) == pytest.approx(rows["random"]["value"])
    reasons = {row["label"]: row["reason"] for row in found.tables["labels left out"]}
    assert reasons["id"] == "60 labels, more than 50"
    assert "the rarest with 3" in reasons["rare"]
    assert Classification(folds=2, resamples=20)(Halves(), data) == found


def test_limit_is_a_random_sample():
    found = Classification(folds=2, limit=30, resamples=9)(Halves(), EvaluationData(TEXTS, LABELS))
    assert {row["n"] for row in found.rows} == {30}
    assert found.value("classification accuracy", "half") == 1


def test_mistakes():
    with pytest.raises(UserError, match="at least 2 folds; got 1"):
        Classification(folds=1)
    with pytest.raises(UserError, match=r"found none\. id: 60 labels"):
        Classification()(Halves(), EvaluationData(TEXTS, {"id": TEXTS}))
