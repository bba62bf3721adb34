from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import tiny
from tests.evaluation.systems import check_items

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import EvaluationData, Plot
from llamavae.evaluation.evaluators.clusters import Clusters, neighbours
from llamavae.report.plots import plot_map

RNG = np.random.default_rng(0)

# ------------------------------------------------------------------------------- neighbours


def test_neighbours_by_hand():
    z = np.array([[1.0, 0], [5.0, 0.1], [0.0, 1], [0.1, 7]])
    cosine, rows = neighbours(z, 2)
    assert rows.tolist() == [[1, 3], [0, 3], [3, 1], [2, 1]]
    assert cosine[0] == pytest.approx([5 / np.hypot(5, 0.1), 0.1 / np.hypot(0.1, 7)])


@given(st.integers(2, 12), st.integers(1, 15), st.integers(0, 9))
def test_a_point_is_not_its_own_neighbour(n, k, copies):
    z = np.vstack([np.random.default_rng(n).normal(size=(n, 3)), np.ones((copies, 3))])
    _, rows = neighbours(z, k)
    assert rows.shape == (n + copies, min(k, n + copies - 1))
    assert not (rows == np.arange(n + copies)[:, None]).any()
    assert all(len(set(row)) == len(row) for row in rows.tolist())


# ------------------------------------------------------------------------------- the evaluator


class Planted:
    """Three groups of points, far apart."""

    def __init__(self, groups):
        noise = torch.randn(len(groups), 3, generator=torch.Generator().manual_seed(0))
        self.points = 5 * torch.eye(3)[groups] + 0.3 * noise

    def encode(self, texts):
        return self.points[[int(text.split()[-1]) for text in texts]]


GROUPS = [i % 3 for i in range(60)]
TEXTS = [f"sentence {i}" for i in range(60)]
DATA = EvaluationData(
    TEXTS,
    {
        "group": ["abc"[g] for g in GROUPS],
        "random": np.random.default_rng(5).integers(2, size=60).tolist(),
        "id": list(range(60)),
    },
)


def test_planted_groups():
    found = Clusters(resamples=100)(Planted(GROUPS), DATA)
    assert found.rows[0]["metric"] == "silhouette"
    assert found.value("silhouette", "group") > 0.7
    assert found.value("purity", "group") == 1
    assert found.value("neighbour agreement", "group") == 1
    rows = {(row["metric"], row["group"]): row for row in found.rows}
    for metric, most in (("silhouette", 0.05), ("purity", 0.55), ("neighbour agreement", 0.45)):
        assert rows[metric, "group"]["control"] < most
        both = [rows[metric, name]["value"] for name in ("group", "random")]
        assert rows[metric, ""]["value"] == pytest.approx(np.mean(both))
    assert abs(found.value("silhouette", "random")) < 0.05
    for row in found.rows:
        assert row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9
        assert row["n"] == 60
    assert found.tables["labels left out"] == [{"label": "id", "reason": "60 labels, more than 50"}]
    assert Clusters(resamples=100)(Planted(GROUPS), DATA) == found
    check_items(Clusters(), found)


def test_tables():
    found = Clusters(["pca"], k=3, examples=2, limit=30, resamples=10)(Planted(GROUPS), DATA)
    assert set(found.tables) == {"map pca", "neighbours", "labels left out"}
    rows = found.tables["map pca"]
    assert len(rows) == 30
    for row in rows:
        number = int(row["text"].split()[-1])
        assert (row["group"], row["random"]) == tuple(
            DATA.labels[name][number] for name in ("group", "random")
        )
    assert found.plots == {"map pca": Plot("map", ("group", "random"))}
    plot_map(rows, "group")
    listed = found.tables["neighbours"]
    assert [row["rank"] for row in listed] == [1, 2, 3] * 2
    assert all(row["cosine"] > 0.9 and row["text"] != row["neighbour"] for row in listed)


def test_a_vae():
    texts = [f"{sentence} {i}" for i, sentence in enumerate(tiny.SENTENCES * 2)]
    data = EvaluationData(texts, {"half": [i // 8 for i in range(16)]})
    found = Clusters(["pca"], resamples=10)(tiny.vae(), data)
    assert -1 <= found.value("silhouette") <= 1


def test_a_collapsed_space():
    class Collapsed:
        def encode(self, texts):
            return torch.zeros(len(texts), 3)

    found = Clusters(resamples=10)(Collapsed(), DATA)
    assert found.value("silhouette") == 0


def test_errors():
    with pytest.raises(UserError, match="needs labelled sentences"):
        Clusters()(Planted(GROUPS), EvaluationData(TEXTS))
    with pytest.raises(UserError, match=r"found none\. id: 60 labels"):
        Clusters()(Planted(GROUPS), EvaluationData(TEXTS, {"id": TEXTS}))
    with pytest.raises(UserError, match="unknown projection"):
        Clusters(["pcs"])  # type: ignore[list-item]
    with pytest.raises(UserError, match="k must be"):
        Clusters(k=0)
    with pytest.raises(UserError, match="needs a system that encodes"):
        Clusters()(tiny.vae(sentence_encoder=None), DATA)
