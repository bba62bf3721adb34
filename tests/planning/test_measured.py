"""The predicted peak against a measured one, on tiny models; benchmarks/plan.py has larger ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.plan import measure
from tests import tiny

from llamavae.planning import setup_of, simulate
from llamavae.training.recipe import parse_recipe


@pytest.mark.parametrize(
    ("family", "decoder", "optimisation"),
    [
        ("llama-grouped", {"training": "heads"}, {"batch_size": 32}),
        (
            "qwen3",
            {"training": "lora"},
            {
                "batch_size": 32,
                "micro_batch_size": 16,
                "precision": "bfloat16",
                "gradient_checkpointing": True,
            },
        ),
    ],
)
def test_peak_of_a_step(
    family: str, decoder: dict[str, Any], optimisation: dict[str, Any], tmp_path: Path
) -> None:
    recipe = parse_recipe(
        {
            "encoder": {"model": str(tiny.encoder("bert")), "max_tokens": 16},
            "decoder": {"model": str(tiny.decoder(family)), "max_tokens": 16, **decoder},
            "latent": {"dim": 6, "slots": 2, "hidden": 8},
            "optimisation": optimisation,
        }
    )
    found = simulate(setup_of(recipe, cpu=True)).peak
    assert found == pytest.approx(measure(recipe, tmp_path, 16), rel=0.1)
