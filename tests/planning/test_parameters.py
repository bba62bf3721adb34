"""Parameters of the plan against those of the real modules."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers as hf
from tests import tiny
from transformers.modeling_layers import GradientCheckpointingLayer

from llamavae.errors import UserError
from llamavae.planning import find_backbone, model_names, plan, setup_of, simulate
from llamavae.planning.facts import _models
from llamavae.training.recipe import Recipe, load_recipe, parse_recipe

PUBLISHED = {
    "huggyllama/llama-7b": 6_738_415_616,
    "huggyllama/llama-65b": 65_285_660_672,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "google/gemma-3-1b-pt": 999_885_952,
    "gpt2-medium": 354_823_168,
}


def recipe_of(decoder: str, encoder: str, /, **sections: Any) -> Recipe:
    values: dict[str, Any] = {
        "encoder": {"model": encoder, **sections.pop("encoder", {})},
        "decoder": {"model": decoder, "max_tokens": 16, **sections.pop("decoder", {})},
        "latent": {"dim": 6, "slots": 2, "hidden": 8, **sections.pop("latent", {})},
        **sections,
    }
    return parse_recipe(values)


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_that_are_built_in_have_the_published_number_of_parameters(name: str) -> None:
    found = plan(recipe_of(name, "all-minilm-l6-v2")).parameters()["decoder"]
    assert sum(found) == PUBLISHED[name]


@pytest.mark.parametrize(
    "name",
    [
        "HuggingFaceTB/SmolLM2-135M",
        "Qwen/Qwen3-0.6B",
        "google/gemma-3-270m",
        "gpt2",
        "bert-base-cased",
        "sentence-transformers/sentence-t5-base",
    ],
)
def test_models_that_are_built_in_are_those_of_transformers(name: str) -> None:
    values = dict(_models()[name.lower()])
    for key in ("names", "dense", "dtype"):
        values.pop(key, None)
    config = hf.AutoConfig.for_model(**values)
    kinds = {"bert": hf.BertModel, "t5": hf.T5EncoderModel}
    encodes = config.model_type in kinds
    with torch.device("meta"):
        kind = kinds.get(config.model_type)
        model = kind(config) if kind else hf.AutoModelForCausalLM.from_config(config)
    sides = ("gpt2", name) if encodes else (name, "all-minilm-l6-v2")
    pooling = {"pooling": "mean"} if encodes else {}
    found = plan(recipe_of(*sides, encoder=pooling)).parameters()
    side = found["encoder" if encodes else "decoder"]
    assert sum(side) == sum(p.numel() for p in model.parameters())


def test_every_name_is_found_once() -> None:
    names = model_names()
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert find_backbone(name, "decoder").sizes.layers


def test_an_unknown_model_lists_models_of_its_kind() -> None:
    decoders, encoders = model_names("decoder"), model_names("encoder")
    assert sorted(decoders + encoders) == sorted(model_names())
    with pytest.raises(UserError) as error:
        find_backbone("nosuch/model", "encoder")
    assert [name for name in model_names() if name in str(error.value)] == encoders
    with pytest.raises(UserError) as error:
        find_backbone("nosuch/model", "decoder")
    listed = str(error.value).split(": ")[1].split(". Or")[0].split(", ")
    assert len(set(listed)) == len(listed) == 5
    assert set(listed) <= set(decoders)


def counts(vae: Any) -> dict[str, tuple[int, int]]:
    """Trained and frozen parameters of the parts of a real model; buffers count as frozen."""
    found = {}
    for name in ("encoder", "decoder", "posterior", "injection"):
        part = getattr(vae, name)
        weights = list(part.parameters())
        buffers = list(part.buffers()) if name in ("posterior", "injection") else []
        found[name] = (
            sum(p.numel() for p in weights if p.requires_grad),
            sum(x.numel() for x in [*(p for p in weights if not p.requires_grad), *buffers]),
        )
    return found


@pytest.mark.parametrize(
    ("family", "encoder", "settings"),
    [
        ("llama", "bert-mean", {}),
        ("llama-grouped", "sentence-t5", {"encoder_training": "full"}),
        ("qwen3", "bert", {"decoder_training": "lora", "lora_rank": 3}),
        ("mistral", "t5", {"decoder_training": "full", "encoder_pooling": "mean"}),
        ("gemma3", "bert", {"encoder_pooling": "attention", "encoder_training": "lora"}),
        ("gpt2", "bert-cls", {"decoder_training": "lora", "injection": "memory+add"}),
        ("gpt2", "bert-mean", {"injection": "soft_prompt", "decoder_training": "heads"}),
        ("llama", "bert-mean", {"injection_hidden": 0, "tied_kv": True, "standardise": True}),
        ("llama-grouped", "bert-mean", {"scaled_memory": True, "slots": 3}),
    ],
)
def test_parameters_are_those_of_the_real_model(
    family: str, encoder: str, settings: dict[str, Any], tmp_path: Any
) -> None:
    vae = tiny.vae(settings.pop("injection", "memory"), family, encoder, **settings)
    vae.save_pretrained(tmp_path)
    found = plan(load_recipe("fine-tune", values={"start_from": str(tmp_path)}))
    assert {k: v for k, v in found.parameters().items() if k != "further losses"} == counts(vae)
    saved = (tmp_path / "model.safetensors").stat().st_size
    assert found.model_bytes == pytest.approx(saved, rel=0.02, abs=8000)
    layers = [x for x in vae.decoder.lm.modules() if isinstance(x, GradientCheckpointingLayer)]
    frozen = [sum(p.nbytes for p in x.parameters() if not p.requires_grad) for x in layers]
    assert list(found.step.layers) == [size for size in frozen if size]


def test_scratch_and_losses() -> None:
    found = plan(load_recipe("mini-vae"))
    config = json.loads((find_mini() / "config.json").read_text(encoding="utf-8"))
    assert found.setup.latent_dim == config["latent_dim"]
    trained = plan(load_recipe("fine-tune", values={"start_from": "mini"}))
    for part in ("encoder", "decoder", "posterior", "injection"):
        assert found.parameters()[part] == trained.parameters()[part]
    assert sum(found.parameters()["further losses"]) == 64 * 192 + 192


def find_mini() -> Any:
    from llamavae.pretrained import bundled

    return bundled("mini")


def test_unknown_models_and_architectures(tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"Did you mean 'meta-llama/Llama-2-7b-hf'"):
        setup_of(recipe_of("meta-llama/Llama-2-7b", "all-minilm-l6-v2"), cpu=True)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(UserError, match=r"type 'mamba', whose memory cannot be planned"):
        setup_of(recipe_of(str(tmp_path), "all-minilm-l6-v2"), cpu=True)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": "x"}))
    with pytest.raises(UserError, match=r"has no vocab_size, or not a number"):
        setup_of(recipe_of(str(tmp_path), "all-minilm-l6-v2"), cpu=True)


def test_a_fused_kernel_needs_less_than_eager_attention() -> None:
    eager, fused = (
        simulate(
            setup_of(
                recipe_of(
                    "gpt2", "all-minilm-l6-v2", decoder={"attention": kind, "max_tokens": 256}
                ),
                cpu=False,
            )
        )
        for kind in ("eager", "sdpa")
    )
    assert fused.peak < eager.peak
    assert fused.weights.keys() == eager.weights.keys()
