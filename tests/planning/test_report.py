from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llamavae.errors import UserError
from llamavae.planning import Plan, plan, simulate
from llamavae.planning.report import FRAGMENTATION, RESERVED, _bytes, _changed, largest_micro_batch
from llamavae.training.recipe import Recipe, load_recipe, recipe_names


@pytest.fixture(scope="module")
def paper() -> Recipe:
    return load_recipe("paper")


@pytest.mark.parametrize("name", recipe_names())
def test_bundled_recipes_can_be_planned(name: str) -> None:
    values = {"decoder.model": "gpt2"} if name == "stories260k" else {}
    found = plan(load_recipe(name, values=values))
    assert found.trained > 0
    assert found.step.peak > sum(found.step.held.values())
    assert found.seconds is None  # without a device


@pytest.mark.parametrize("name", recipe_names())
def test_a_batch_of_one_token(name: str) -> None:
    values: dict[str, Any] = {"optimisation.batch_size": 1, "optimisation.micro_batch_size": 1}
    if name == "stories260k":
        values["decoder.model"] = "gpt2"
    found = plan(load_recipe(name, values=values), device="rtx-4090", tokens=1)
    assert (found.setup.micro, found.setup.tokens) == (1, 1)
    assert found.largest


def test_each_change_is_enough_and_computed(paper: Recipe) -> None:
    found = plan(paper, device="rtx-4090")
    assert not found.fits
    assert found.changes
    for change in found.changes:
        again = plan(_changed(paper, change.settings), device="rtx-4090")
        assert again.fits
        assert again.needed == change.needed


def test_changes_together(paper: Recipe) -> None:
    found = plan(paper, memory="14GB")
    assert not found.fits
    assert not found.changes
    assert found.together is not None
    again = plan(_changed(paper, found.together.settings), memory="14GB")
    assert again.fits
    assert plan(paper, memory="1GB").together is None


def test_the_largest_micro_batch_fits_and_a_larger_one_does_not(paper: Recipe) -> None:
    found = plan(paper, device="a100-40gb")
    rows, memory = found.largest, found.memory
    assert rows is not None
    assert memory is not None

    def needed(n: int) -> float:
        step = simulate(replace(found.setup, micro=n, batch=2 * n))
        return FRAGMENTATION * max(step.peak, step.evaluation) + RESERVED

    assert needed(rows) <= memory < needed(rows + rows // 8)
    assert largest_micro_batch(found.setup, 2**30) == 0


def test_devices_divide_the_batch_and_hold_buckets(paper: Recipe) -> None:
    small = _changed(paper, {"optimisation.micro_batch_size": 8})
    one, eight = (plan(small, device="h100-80gb", devices=n) for n in (1, 8))
    assert eight.setup.batch == 8 * eight.setup.micro == 64
    assert eight.step.held["communication"] == 4 * eight.trained
    assert eight.step.flops == pytest.approx(one.step.flops / 8, rel=0.01)
    with pytest.raises(UserError, match="cannot be shared among 3 devices"):
        plan(paper, devices=3)


def test_a_sharded_decoder(paper: Recipe) -> None:
    shard = {"optimisation.shard_decoder": True, "optimisation.micro_batch_size": 8}
    offload = {**shard, "optimisation.cpu_offload": True}
    whole, sharded, offloaded = (
        plan(_changed(paper, settings), device="h100-80gb", devices=4)
        for settings in ({"optimisation.micro_batch_size": 8}, shard, offload)
    )
    layer = 2 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096)  # bytes in bfloat16
    weights = [found.step.held["weights"] for found in (whole, sharded, offloaded)]
    assert weights[0] - weights[1] == pytest.approx(32 * layer * 3 / 4)
    assert weights[0] - weights[2] == pytest.approx(32 * layer)
    assert sharded.step.held["gathered"] == offloaded.step.held["gathered"] == 2 * layer
    assert offloaded.offloaded == pytest.approx(32 * layer / 4)
    assert sharded.checkpoint_bytes == whole.checkpoint_bytes
    assert sharded.parameters() == whole.parameters()
    alone = plan(_changed(paper, offload), device="h100-80gb")  # nothing is sharded
    assert alone.step.held["weights"] == weights[0]
    on_cpu = plan(_changed(paper, offload), device="cpu", devices=4, memory="80GB")
    assert on_cpu.step.held["weights"] == weights[1]


def test_sharding_is_a_change(paper: Recipe) -> None:
    small = _changed(paper, {"optimisation.micro_batch_size": 8})
    settings = [c.settings for c in plan(small, memory="21GB", devices=8).changes]
    assert {"optimisation.shard_decoder": True} in settings
    together = plan(small, memory="10GB", devices=8).together
    assert together is not None
    assert together.settings["optimisation.shard_decoder"]
    alone = plan(small, memory="21GB").changes
    assert alone
    assert not any("optimisation.shard_decoder" in change.settings for change in alone)


def test_time_of_a_run(paper: Recipe) -> None:
    found = plan(paper, device="h100-80gb", sentences=6400)
    assert found.steps == 10 * 100
    half = plan(paper, device="h100-80gb", utilisation=0.2)
    assert found.seconds is not None
    assert half.seconds == pytest.approx(2 * found.seconds)
    assert half.steps is None


def test_a_checkpoint_to_resume_from_has_the_optimiser(paper: Recipe) -> None:
    found = plan(paper)
    # trained weights in float32, and the scales and statistics that this recipe does without
    assert found.model_bytes == 4 * found.trained
    assert found.checkpoint_bytes == 12 * found.trained
    embedded = plan(_changed(paper, {"output.embed_backbones": True}))
    assert embedded.model_bytes > found.model_bytes + 13e9


def test_quantisation(paper: Recipe) -> None:
    def weights(kind: str | None, device: str = "rtx-4090") -> float:
        found: Plan = plan(
            _changed(paper, {"decoder.quantization": kind}), device=device, memory="24GB"
        )
        return found.step.held["weights"]

    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert weights(None) - weights("8bit") == pytest.approx(linear)
    assert weights(None) - weights("4bit") == pytest.approx(linear * (2 - 0.5 - 4 / 64))
    assert weights("4bit", "cpu") == weights("4bit")


def test_quantisation_is_a_change_on_a_cpu(paper: Recipe) -> None:
    found = plan(paper, device="cpu", memory="24GB")
    kinds = {change.settings.get("decoder.quantization") for change in found.changes}
    assert "4bit" in kinds


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GB", 24 * 2**30), ("1.5 GiB", 1.5 * 2**30), ("1000B", 1000), (5e9, 5e9), (10**17, 1e17)],
)
def test_sizes(text: Any, size: float) -> None:
    assert _bytes(text) == size


def test_wrong_sizes_and_devices(paper: Recipe) -> None:
    for wrong in ("24 apples", "0GB", "-1GB", "", "24", "1e10"):
        with pytest.raises(UserError, match="expected memory with its unit, such as 24GB"):
            plan(paper, memory=wrong)
    for number in (0, -1.0, float("nan")):
        with pytest.raises(UserError, match="memory must be"):
            plan(paper, memory=number)
    with pytest.raises(UserError, match=r"unknown device 'h100'. Did you mean"):
        plan(paper, device="h100")
    with pytest.raises(UserError, match="utilisation must be above 0"):
        plan(paper, utilisation=0)
