"""The bag-of-words loss against a hand-computed value, and what it is blind and open to."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests import tiny
from tests.training import runs
from torch import Tensor

from llamavae.training.bag_of_words import BagOfWords

METRICS = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
HEAD = torch.eye(4)  # four words, and as many dimensions


@pytest.fixture
def bag() -> BagOfWords:
    bag = BagOfWords(4, 4)
    torch.nn.init.eye_(bag.linear.weight)
    return bag


def test_is_the_sum_over_words_and_the_mean_over_sentences(bag: BagOfWords) -> None:
    z = torch.tensor([[math.log(3.0), 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    ids = torch.tensor([[0, 0, 1], [0, 2, 3]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    # first: p = 3/6 and 1/6; second: p = 1/4, and padding does not count
    expected = (math.log(2) + math.log(6) + math.log(4)) / 2
    assert bag(z, HEAD, ids, mask).item() == pytest.approx(expected)


def test_does_not_look_at_the_order_of_words_nor_at_bos(bag: BagOfWords) -> None:
    z = torch.randn(1, 4)
    a, b = torch.tensor([[0, 1, 2, 2]]), torch.tensor([[3, 2, 1, 2]])
    mask = torch.ones_like(a)
    torch.testing.assert_close(bag(z, HEAD, a, mask), bag(z, HEAD, b, mask))


def test_padding_changes_nothing(bag: BagOfWords) -> None:
    z, ids = torch.randn(1, 4), torch.tensor([[0, 1, 2]])
    wide = torch.tensor([[0, 1, 2, 3, 3]])
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    torch.testing.assert_close(bag(z, HEAD, ids, mask[:, :3]), bag(z, HEAD, wide, mask))


def test_the_gradient_reaches_z_the_map_and_the_head(bag: BagOfWords) -> None:
    z = torch.randn(2, 4, requires_grad=True)
    head = HEAD.clone().requires_grad_()
    ids = torch.tensor([[0, 1, 2], [0, 3, 3]])
    bag(z, head, ids, torch.ones_like(ids)).backward()

    def moved(x: Tensor | None) -> bool:
        return x is not None and bool(x.abs().sum() > 0)

    assert all(moved(x.grad) for x in (z, head, *bag.parameters()))


# ------------------------------------------------------------------------------- in a run


def test_it_is_part_of_the_loss_and_is_said_so(tmp_path: Path) -> None:
    values = runs.settings(
        tmp_path,
        "run",
        objective={"schedule": "constant", "beta": 0.5, "bag_of_words": 0.7},
        optimisation={"steps": 2, "batch_size": 4},
    )
    result = runs.quick({**values, "teacher": {"model": str(tiny.encoder()), "weight": 3.0}})
    lines = [line for line in runs.log(result) if "loss" in line]
    for line in lines:
        elbo = line["nll"] + line["beta"] * line["kl_term"]
        further = 0.7 * line["bag_of_words"] + 3.0 * line["similarity"]
        assert line["loss"] == pytest.approx(elbo + further, rel=1e-5)
    card = (result.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "The loss also contains 0.7 times -log p of the sentence's unordered words" in card
    _, section = METRICS.read_text(encoding="utf-8").split("## Training log")
    table = section.partition("\n## ")[0]
    assert all(f"`{name}`" in table for name in lines[0].keys() - {"step", "epoch"})


def test_a_run_without_it_does_not_name_it(tmp_path: Path) -> None:
    result = runs.quick(runs.settings(tmp_path, "run", optimisation={"steps": 1, "batch_size": 4}))
    assert "bag of words" not in (result.folder / "model" / "README.md").read_text("utf-8")
