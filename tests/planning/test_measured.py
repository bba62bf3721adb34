"""Predicted peaks and operations against measured ones, on tiny models.

benchmarks/plan.py has larger models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.plan import measure
from tests import tiny
from torch.utils.flop_counter import FlopCounterMode

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


def test_operations_are_those_that_torch_counts() -> None:
    vae = tiny.vae("memory", "llama-grouped", decoder_training="heads").train()
    ids = torch.randint(3, tiny.VOCAB, (4, 17))
    inputs: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "sentence_vectors": torch.randn(4, tiny.HIDDEN),
    }
    vae(**inputs)  # asks the model about its head, once
    with FlopCounterMode(display=False) as counter:
        vae(**inputs).loss.backward()
    recipe = parse_recipe(
        {
            "encoder": {"model": str(tiny.encoder("bert"))},
            "decoder": {
                "model": str(tiny.decoder("llama-grouped")),
                "max_tokens": 16,
                "training": "heads",
            },
            "latent": {"dim": tiny.LATENT, "slots": 2, "hidden": 8},
            "optimisation": {"batch_size": 4},
        }
    )
    found = simulate(setup_of(recipe, cpu=True)).flops
    # torch does not count the fused attention on a CPU: 2 products forward, and 5 backward
    attention = tiny.LAYERS * 7 * 2 * (4 * 4 * 16 * (16 + 2) * 8)
    assert found - attention == counter.get_total_flops()
