"""A decoder that is distributed over processes trains, resumes and is saved as a whole one does."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from tests.faults import sharded
from tests.training import runs

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.modeling.sharding import gather, is_sharded, shard_decoder
from llamavae.training.arguments import with_launcher

pytestmark = pytest.mark.timeout(400)  # four processes on a busy machine


def cases(folder: Path, shard: bool) -> dict[str, dict[str, Any]]:
    """Settings of the runs that are made twice, by name."""
    frozen = {"model": str(tiny.encoder("bert-mean")), "scratch": None, "training": "frozen"}
    batch = {"steps": 4, "batch_size": 8, "micro_batch_size": 1, "warmup_steps": 2}
    sharding = {**batch, "learning_rate": 0.01, "shard_decoder": shard}
    gpt2, qwen = (
        {"model": str(tiny.decoder(family)), "scratch": None, "training": training}
        for family, training in (("gpt2", "frozen"), ("qwen3", "lora"))
    )
    changes: dict[str, dict[str, Any]] = {
        # its decoder is saved in the folder of the model
        "heads": {"optimisation": {**sharding, "cpu_offload": shard}},
        "gpt2": {"decoder": gpt2, "optimisation": sharding},
        "lora": {"decoder": qwen, "optimisation": {**sharding, "gradient_checkpointing": True}},
    }
    return {
        name: runs.settings(folder, name, encoder=frozen, **change)
        for name, change in changes.items()
    }


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of the same runs on one process, and sharded over four."""
    one, four = (tmp_path_factory.mktemp(name) for name in ("one", "four"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAVAE_CACHE", str(one / "cache"))
        for values in cases(one, shard=False).values():
            runs.quick(values)
        runs.quick(sharded.settings(one, "killed", shard=False, steps=6))
    jobs = [(values, False) for values in cases(four, shard=True).values()]
    assert runs.together(jobs, four / "cache", 4)
    return one, four


@pytest.mark.parametrize("name", ["heads", "gpt2", "lora"])
def test_four_processes(both, name):
    one, four = both
    worst = sharded.difference(one / name, four / name)
    print(f"{name}: largest difference {worst:.1e}")
    assert worst < sharded.TOLERANCE


def test_killed_on_four_and_resumed_on_two(both):
    one, four = both
    values = sharded.settings(four, "killed", shard=True, steps=6)
    kills = sharded.killed(values, four / "cache", 1, (4, 2), random.Random(0))
    assert len(kills) == 1
    assert sharded.difference(one / "killed", four / "killed") < sharded.TOLERANCE


def test_export(both):
    """The folder of a sharded run is one of a whole model, its own decoder in it."""
    _, four = both
    assert (four / "heads" / "model" / "decoder" / "model.safetensors").is_file()
    model = LlaMaVAE.from_pretrained(four / "heads" / "model")
    assert not is_sharded(model)
    assert gather(model) == {}
    assert len(model.decode(torch.zeros(2, 4))) == 2


def test_nothing_to_shard():
    model = tiny.vae(decoder_training="full")
    with pytest.raises(UserError, match="frozen layers, and this LlamaForCausalLM has none"):
        shard_decoder(model.decoder.lm, torch.device("cpu"))


@pytest.mark.parametrize(
    ("optimisation", "decoder", "words"),
    [
        ({"cpu_offload": True}, {}, "cpu_offload moves the parts of shard_decoder"),
        ({"shard_decoder": True}, {"training": "full"}, "set decoder.training to frozen, heads"),
        ({"shard_decoder": True}, {"quantization": "4bit"}, "quantised decoder cannot be sharded"),
    ],
)
def test_settings_that_contradict(tmp_path, optimisation, decoder, words):
    with pytest.raises(UserError, match=words):
        runs.recipe(tmp_path, "run", optimisation=optimisation, decoder=decoder)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP 1 is not supported"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP 1 is not supported"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "training with DeepSpeed is not supported"),
    ],
)
def test_engines_that_are_refused(tmp_path, monkeypatch, variables, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words) as error:
        runs.quick(runs.settings(tmp_path, "run"))
    assert "\n" not in str(error.value)


def test_launcher(tmp_path, monkeypatch):
    """What `accelerate launch --use_fsdp` asks for is a setting of the recipe."""
    recipe = runs.recipe(tmp_path, "run")
    assert with_launcher(recipe) == recipe
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    found = with_launcher(recipe).optimisation
    assert found.shard_decoder
    assert found.cpu_offload
    assert "ACCELERATE_USE_FSDP" not in os.environ
