from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llamavae.errors import UserError
from llamavae.metrics import retrieval
from llamavae.metrics.bootstrap import bootstrap_interval
from llamavae.metrics.metric import AGGREGATES
from llamavae.metrics.retrieval import SCORES, rank_of_truth, score_ranks, score_vectors


def table(rows):
    for row in rows:
        assert row["unit"] == SCORES[row["metric"]].unit
        assert row["direction"] == SCORES[row["metric"]].direction
    return {row["metric"]: row for row in rows}


# ------------------------------------------------------------------------------- ranks


def test_ranks_by_hand():
    scores = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    assert rank_of_truth(scores, torch.tensor([0, 1, 2])).tolist() == [1, 3, 2]


def test_ties_count_against():
    scores = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [-torch.inf, -torch.inf, 2.0]])
    assert rank_of_truth(scores, torch.tensor([0, 1, 0])).tolist() == [2, 3, 3]


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**31))
def test_ranks_are_places_in_the_sorted_list(n, candidates, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, candidates, generator=generator, dtype=torch.float64)
    truth = torch.randint(candidates, (n,), generator=generator)
    order = scores.argsort(dim=1, descending=True)
    expected = [row.tolist().index(i) + 1 for row, i in zip(order, truth.tolist(), strict=True)]
    assert rank_of_truth(scores, truth).tolist() == expected


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        (torch.tensor([[1.0, torch.nan], [1.0, 2.0]]), torch.tensor([0, 0]), "1 of 2 rows"),
        (torch.zeros(2, 3), torch.tensor([0]), "expected scores"),
        (torch.zeros(3), torch.tensor([0]), "expected scores"),
        (torch.zeros(1, 3), torch.tensor([3]), "from 0 to 2; got 3 to 3"),
        (torch.zeros(1, 3), torch.tensor([-1]), "from 0 to 2"),
    ],
)
def test_scores_without_a_rank(scores, truth, message):
    with pytest.raises(UserError, match=message):
        rank_of_truth(scores, truth)


def test_scores_of_ranks_by_hand():
    rows = table(score_ranks(torch.tensor([1, 2, 4, 200]), candidates=200))
    values = {name: row["value"] for name, row in rows.items()}
    assert values == {
        "median rank": 3.0,
        "MRR": pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 200) / 4),
        "recall@1": 0.25,
        "recall@10": 0.75,
        "recall@100": 0.75,
    }
    guesses = {name: row["control"] for name, row in rows.items()}
    assert guesses == {
        "median rank": 100.5,
        "MRR": pytest.approx(sum(1 / rank for rank in range(1, 201)) / 200),
        "recall@1": 1 / 200,
        "recall@10": 10 / 200,
        "recall@100": 100 / 200,
    }
    assert all(row["n"] == 4 for row in rows.values())
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows.values())


def test_random_ranks_score_as_a_guess():
    ranks = torch.randint(1, 501, (4000,), generator=torch.Generator().manual_seed(0))
    for row in score_ranks(ranks, candidates=500):
        assert row["low"] <= row["control"] <= row["high"], row


def test_there_are_never_more_right_guesses_than_candidates():
    rows = table(score_ranks(torch.tensor([1, 2]), candidates=5))
    assert rows["recall@1"]["control"] == 0.2
    assert rows["recall@10"]["control"] == rows["recall@100"]["control"] == 1.0


def test_intervals_are_those_of_the_normal_law_for_many_items():
    ranks = np.random.default_rng(1).geometric(0.05, size=2000)
    row = table(score_ranks(torch.tensor(ranks), candidates=1000))["MRR"]
    half = 1.96 * (1 / ranks).std() / len(ranks) ** 0.5
    assert row["low"] == pytest.approx(row["value"] - half, abs=0.15 * half)
    assert row["high"] == pytest.approx(row["value"] + half, abs=0.15 * half)


def test_ranks_keep_the_items_that_give_the_value():
    for row in score_ranks(torch.tensor([1, 2, 4, 200]), candidates=200):
        of = AGGREGATES[SCORES[row["metric"]].aggregate]
        assert of(row["items"].values) == pytest.approx(row["value"])


def test_equal_ranks_have_no_width_and_seeds_repeat():
    for row in score_ranks(torch.full((7,), 3), candidates=10):
        assert row["low"] == row["value"] == row["high"]
    ranks = torch.arange(1, 30)
    assert score_ranks(ranks, 30, seed=1) == score_ranks(ranks, 30, seed=1)
    assert score_ranks(ranks, 30, seed=1) != score_ranks(ranks, 30, seed=2)


@pytest.mark.parametrize("ranks", [[], [0, 1], [1, 11], [[1, 2]]])
def test_ranks_that_cannot_be(ranks):
    with pytest.raises(UserError, match="from 1 to the 10 candidates"):
        score_ranks(torch.tensor(ranks, dtype=torch.long), candidates=10)


# ------------------------------------------------------------------------------- vectors


def official(predicted, gold):
    """The definitions of code/score.py of CODWOE, said in other words and in float64."""
    p, g = predicted.double().numpy(), gold.double().numpy()
    lengths = np.linalg.norm(g, axis=1)
    dots = p @ (g / lengths[:, None]).T
    return {
        "MSE": np.square(p - g).mean(),
        "cosine": np.mean(np.diag(dots) / np.linalg.norm(p, axis=1)),
        "rank": np.mean([np.sum(row >= row[i]) for i, row in enumerate(dots)]) / len(g),
    }


@pytest.mark.parametrize("block", [1, 5, 1024])
def test_vectors_score_as_the_official_scorer_has_it(block, monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK", block)
    gold = torch.randn(17, 6)
    predicted = 3 * (gold + 2 * torch.randn(17, 6))
    rows = table(score_vectors(predicted, gold))
    for name, value in official(predicted, gold).items():
        assert rows[name]["value"] == pytest.approx(value, rel=1e-5)
        assert rows[name]["items"].values.mean() == rows[name]["value"]
        assert rows[name]["items"].control.mean() == rows[name]["control"]
        assert rows[name]["n"] == 17
        assert rows[name]["low"] < value < rows[name]["high"]


def test_vectors_by_hand():
    gold = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    predicted = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    rows = table(score_vectors(predicted, gold))
    assert rows["MSE"]["value"] == pytest.approx((1 + 9 + 1) / 4)
    assert rows["cosine"]["value"] == pytest.approx(0.5)
    assert rows["rank"]["value"] == pytest.approx((1 + 2) / 2 / 2)
    # exchanged: (3, 0) for (2, 0) and (1, 0) for (0, 1)
    assert rows["MSE"]["control"] == pytest.approx((1 + 1 + 1) / 4)
    assert rows["cosine"]["control"] == pytest.approx(0.5)
    assert rows["rank"]["control"] == pytest.approx((1 + 2) / 2 / 2)


def test_right_vectors_are_best_and_exchanged_ones_are_not():
    gold = torch.randn(40, 16)
    rows = table(score_vectors(gold, gold))
    assert rows["MSE"]["value"] == 0
    assert rows["cosine"]["value"] == pytest.approx(1)
    assert rows["rank"]["value"] == pytest.approx(1 / 40)
    assert rows["MSE"]["control"] > 1
    assert abs(rows["cosine"]["control"]) < 0.2
    assert rows["rank"]["control"] == pytest.approx(0.5, abs=0.2)


def test_the_interval_is_of_the_items():
    gold = torch.eye(8)
    predicted = torch.cat([gold[:6], gold[:2]])  # two of eight items are wrong
    row = table(score_vectors(predicted, gold, seed=2))["cosine"]
    right = np.repeat([1.0, 0.0], [6, 2])
    interval = bootstrap_interval(lambda i: right[i].mean(), 8, seed=2)
    assert (row["low"], row["high"]) == pytest.approx(interval)


def test_one_prediction_for_all_is_not_changed_by_the_exchange():
    rows = score_vectors(torch.randn(1, 4).expand(9, 4), torch.randn(9, 4))
    for row in rows:
        assert row["control"] == pytest.approx(row["value"])


def test_the_length_of_predictions_changes_mse_alone():
    predicted, gold = torch.randn(2, 12, 5)
    one, ten = table(score_vectors(predicted, gold)), table(score_vectors(10 * predicted, gold))
    assert ten["rank"] == one["rank"]
    assert ten["cosine"]["value"] == pytest.approx(one["cosine"]["value"], abs=1e-6)
    assert ten["MSE"]["value"] > 2 * one["MSE"]["value"]


def test_a_word_with_several_definitions_does_not_get_its_own_vector():
    """Else the control would be good for a reason that is none."""
    gold = torch.eye(10).repeat_interleave(2, dim=0)
    for seed in range(20):
        rows = table(score_vectors(gold, gold, seed=seed))
        assert rows["rank"]["value"] == pytest.approx(2 / 20)  # as both of them tie
        assert rows["cosine"]["control"] == 0


def test_vectors_must_match():
    with pytest.raises(UserError, match=r"\(3, 2\) and \(3, 4\)"):
        score_vectors(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(UserError, match="at least 2"):
        score_vectors(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(UserError, match="NaN"):
        score_vectors(torch.full((3, 2), torch.nan), torch.ones(3, 2))
