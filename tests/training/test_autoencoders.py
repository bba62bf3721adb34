"""The LSTM autoencoders: short runs with the objective of each recipe, and their models."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training import runs
from typer.testing import CliRunner

from llamavae import LlaMaVAE
from llamavae.cli.app import app
from llamavae.errors import UserError
from llamavae.evaluation import EvaluationData, load_evaluator
from llamavae.training.recipe import load_recipe

NAMES = ("beta-vae", "aae", "laae", "daae")
LSTM = {"embedding_size": 8, "hidden_size": 12, "min_count": 1}


def settings(folder: Path, name: str, run: str, **changes: dict[str, Any]) -> dict[str, Any]:
    """The recipe with tiny backbones and a few steps on the sentences of `runs`."""
    recipe = load_recipe(name)
    lstm = LSTM | {"dropout": 0.2 if name == "daae" else 0.0}
    values = runs.settings(folder, run, **changes)
    values["evaluation"]["decoded"] = values["output"]["prior_sentences"] = 0
    return values | {
        "encoder": {"lstm": lstm, "training": "full"},
        "decoder": {"lstm": lstm, "max_tokens": 24},
        "latent": recipe.latent.model_dump() | {"dim": 4},
        "objective": recipe.objective.model_dump() | changes.get("objective", {}),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a run of each recipe, by name."""
    folder = tmp_path_factory.mktemp("autoencoders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAVAE_CACHE", str(folder / "cache"))
        for name in NAMES:
            runs.quick(settings(folder, name, name, optimisation={"steps": 4, "batch_size": 4}))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_sum_of_its_parts(folder: Path, name: str) -> None:
    objective = load_recipe(name).objective
    lines = [line for line in runs.log(folder / name) if "loss" in line]
    assert len(lines) == 4
    for line in lines:
        expected = line["nll"] + line["beta"] * line["kl_term"]
        if name != "beta-vae":
            expected += 10 * line["adversarial"] + line["discriminator"]
        if name == "laae":
            expected += 0.05 * line["logvar_penalty"]
        assert line["loss"] == pytest.approx(expected, rel=1e-5)
        assert ("logvar_penalty" in line) == bool(objective.logvar_penalty)


@pytest.mark.parametrize("name", NAMES)
def test_the_noise_is_learned_or_has_a_fixed_deviation(folder: Path, name: str) -> None:
    model = LlaMaVAE.from_pretrained(folder / name / "model")
    deviation = (model.encode(runs.SENTENCES[:8]).logvar / 2).exp()
    fixed = torch.full_like(deviation, 0.1)
    assert torch.allclose(deviation, fixed) == (name in ("aae", "daae"))


def test_resumed_to_the_bit(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("LLAMAVAE_CACHE", str(folder / "cache"))
    half = folder / "half"
    shutil.copytree(folder / "daae", half)
    for path in (half / "results.json", half / "model", half / "checkpoint-4"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    changes = {"optimisation": {"steps": 4, "batch_size": 4}}
    runs.quick(settings(folder, "daae", "half", **changes), resume=True)
    for file in ("model/model.safetensors", "checkpoint-4/discriminator.safetensors"):
        one, other = (load_file(folder / run / file) for run in ("daae", "half"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    one, other = (
        load_file(folder / run / "model" / "decoder" / "model.safetensors")
        for run in ("daae", "half")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert runs.curve(folder / "daae") == runs.curve(half)


def test_micro_batches_take_the_same_steps(folder: Path, tmp_path: Path) -> None:
    """Up to rounding, as nothing but dropout depends on them."""
    optimisation = {"steps": 4, "batch_size": 4, "micro_batch_size": 2}
    micro = runs.quick(settings(tmp_path, "laae", "micro", optimisation=optimisation))
    one, other = (
        [line["loss"] for line in runs.log(run) if "loss" in line]
        for run in (folder / "laae", micro.folder)
    )
    assert one == pytest.approx(other, rel=1e-3)


def test_deletion_needs_an_encoder_that_trains(folder: Path, tmp_path: Path) -> None:
    values = runs.settings(tmp_path, "frozen", objective={"token_deletion": 0.3})
    encoder = str(folder / "daae" / "model" / "encoder")
    values["encoder"] = {"model": encoder, "pooling": "last"}
    with pytest.raises(UserError, match=r"objective\.token_deletion .* encoder is frozen"):
        runs.quick(values)


def test_the_card_names_the_losses(folder: Path) -> None:
    cards = {n: (folder / n / "model" / "README.md").read_text("utf-8") for n in NAMES}
    assert all("LSTM architecture, trained from scratch" in card for card in cards.values())
    for name, text in (("aae", "10 times an adversarial"), ("laae", "0.05 times the sum")):
        assert text in cards[name]
        assert text not in cards["beta-vae"]
    assert "each token of the encoder's input is deleted with probability 0.3" in cards["daae"]


# ------------------------------------------------------------------------------- a trained model

A, B, C = runs.SENTENCES[:3]
VERBS: dict[str, tuple[Any, ...]] = {
    "reconstruct": (A, B),
    "sample": (3, "--seed", 0),
    "interpolate": (A, B, "--steps", 3),
    "arithmetic": (A, B, C),
    "traverse": (A, "--dim", 1),
    "neighbours": (A, "--file", "FILE"),
    "encode": (A,),
}


@pytest.mark.parametrize("verb", VERBS)
def test_verbs(folder: Path, verb: str) -> None:
    places = {"FILE": runs.corpus(folder)}
    arguments = [verb, "--model", folder / "daae" / "model"]
    arguments += [places.get(x, x) for x in VERBS[verb]] + ["--json"] * (verb != "encode")
    result = CliRunner().invoke(app, [str(x) for x in arguments])
    assert result.exit_code == 0, result.output
    assert all(json.loads(line) for line in result.stdout.splitlines())


@pytest.mark.parametrize("name", ["likelihood", "reconstruction", "samples", "interpolation"])
def test_evaluators(folder: Path, name: str) -> None:
    model = LlaMaVAE.from_pretrained(folder / "laae" / "model")
    data = EvaluationData(runs.SENTENCES[:12])
    evaluation = load_evaluator(name)(model, data)
    assert evaluation.rows


def test_bits_per_byte_contain_the_spelling_of_unknown_words(folder: Path) -> None:
    model = LlaMaVAE.from_pretrained(folder / "beta-vae" / "model")
    texts = ["the zebra paints bread today.", "the owl paints bread today."]
    found = load_evaluator("likelihood", resamples=20)(model, EvaluationData(texts))
    nats = 2 * found.value("IW-NLL")
    size = sum(len(text) + 1 for text in texts)
    expected = (nats / math.log(2) + 8 * len("zebra ")) / size
    assert found.value("bits per byte") == pytest.approx(expected, rel=1e-6)
