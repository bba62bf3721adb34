"""Similarities of a teacher: the loss, and a run that learns them."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import tiny
from tests.training import runs

from llamavae.metrics.correlation import pairwise_cosines, similarity_correlation
from llamavae.training.distillation import similarity_loss

SEEDS = st.integers(0, 2**16)


def vectors(seed: int, rows: int = 7, size: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, size, generator=generator, dtype=torch.float64)


# ------------------------------------------------------------------------------- the loss


def test_by_hand():
    mean = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    teacher = torch.tensor([[1.0], [1.0], [-4.0]])
    half, centre = math.sqrt(0.5), (1 - 1 - 1) / 3
    expected = ((0 - 1 + centre) ** 2 + 2 * (half + 1 + centre) ** 2) / 3
    assert similarity_loss(mean, teacher).item() == pytest.approx(expected)


@given(SEEDS, st.floats(0.01, 100))
def test_turned_and_scaled_vectors_are_the_same(seed, scale):
    mean, teacher = vectors(seed), vectors(seed + 3)
    rotation = torch.linalg.qr(vectors(seed + 1, 5)).Q
    lengths = vectors(seed + 2, 7, 1).exp()
    loss = similarity_loss(mean, teacher)
    torch.testing.assert_close(similarity_loss(scale * mean @ rotation, teacher), loss)
    torch.testing.assert_close(similarity_loss(lengths * mean, teacher @ rotation), loss)
    centre = pairwise_cosines(mean)[*torch.triu_indices(7, 7, 1)].mean()
    torch.testing.assert_close(similarity_loss(mean, mean), centre.square())


@given(SEEDS)
def test_order_does_not_matter(seed):
    mean, teacher = vectors(seed, 7, 3), vectors(seed + 1)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    loss = similarity_loss(mean, teacher)
    torch.testing.assert_close(similarity_loss(mean[order], teacher[order]), loss)
    assert 0 <= loss <= 9


def test_gradients():
    """They are autograd's, reach every mean, and descent finds the teacher's centred cosines."""
    mean, teacher = vectors(0, 6, 6).requires_grad_(), vectors(1, 6, 4)
    assert torch.autograd.gradcheck(lambda m: similarity_loss(m, teacher), mean)
    (gradient,) = torch.autograd.grad(similarity_loss(mean, teacher), mean)
    assert (gradient.abs().sum(1) > 0).all()
    optimizer = torch.optim.Adam([mean], 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        similarity_loss(mean, teacher).backward()
        optimizer.step()
    ours, theirs = (pairwise_cosines(x)[*torch.triu_indices(6, 6, 1)] for x in (mean, teacher))
    torch.testing.assert_close(ours, theirs - theirs.mean(), atol=0.02, rtol=0)
    assert similarity_correlation(mean, teacher) > 0.999


def test_what_all_cosines_of_the_teacher_share_is_left_out():
    """The best means surround the origin, though the teacher's vectors all point to one side."""
    apart, together = torch.eye(4), torch.ones(4, 2)
    assert similarity_loss(apart, together) == 0
    assert similarity_loss(together, together) == pytest.approx(1)


@pytest.mark.parametrize("rows", [0, 1])
def test_no_pair(rows):
    mean = torch.ones(rows, 3, requires_grad=True)
    loss = similarity_loss(mean, torch.ones(rows, 2))
    loss.backward()
    assert loss.item() == 0


def test_half_precision_around_it_changes_nothing():
    mean, teacher = vectors(0).float(), vectors(1).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = similarity_loss(mean, teacher)
    assert torch.equal(inside, similarity_loss(mean, teacher))


# ------------------------------------------------------------------------------- in training


def test_a_run_learns_what_the_teacher_says(tmp_path):
    values = {}
    for name, weight in (("without", 0.0), ("with", 100.0)):
        result = runs.quick(
            runs.settings(
                tmp_path,
                name,
                latent={"dim": 8, "slots": 2, "hidden": 8},
                optimisation={"steps": 60, "batch_size": 8, "learning_rate": 0.01},
                evaluation={"every": 60, "sentences": 6, "decoded": 1},
                output={"folder": str(tmp_path / name), "log_every": 1, "save_every": 60},
            )
            | {"teacher": {"model": str(tiny.encoder("bert-mean")), "weight": weight}}
        )
        lines = runs.log(result)
        training = [line for line in lines if "loss" in line]
        for line in training:
            terms = line["nll"] + line["beta"] * line["kl_term"] + weight * line["similarity"]
            assert line["loss"] == pytest.approx(terms, rel=1e-4)
        values[name] = [line["similarity"] for line in training]
        (last,) = (line for line in lines if line.get("eval_nll") and line["step"] == 60)
        found = json.loads((result.folder / "results.json").read_text())["metrics"]
        assert last["eval_similarity"] == found["similarity"]
        card = (result.folder / "model" / "README.md").read_text(encoding="utf-8")
        assert "used in training only" in card
        assert f"{found['similarity']:.3f}" in card
    assert sum(values["with"][-10:]) < 0.5 * sum(values["without"][-10:])


def test_nothing_is_said_of_a_teacher_that_is_not_there(tmp_path):
    result = runs.quick(runs.settings(tmp_path, "run", optimisation={"steps": 2, "batch_size": 4}))
    assert not any("similarity" in key for line in runs.log(result) for key in line)
    card = (result.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "The teacher is" not in card
