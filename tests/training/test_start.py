"""A run that starts from a trained model goes on where that one ended."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests import tiny
from tests.training import runs

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.modeling.configuration import SETTINGS
from llamavae.training.recipe import parse_recipe
from llamavae.training.run import TrainResult

STEPS = {"steps": 10, "batch_size": 4, "warmup_steps": 2, "learning_rate": 0.01}


@pytest.fixture(scope="module", params=["scratch", "frozen"])
def first(request, tmp_path_factory) -> Path:
    """Folder of a run, with backbones from scratch (carried inside) or frozen (named)."""
    folder = tmp_path_factory.mktemp("start")
    sections: dict[str, dict[str, Any]] = {}
    if request.param == "frozen":
        sections["encoder"] = {
            "model": str(tiny.encoder("bert-mean")),
            "scratch": None,
            "training": "frozen",
        }
        sections["decoder"] = {"model": str(tiny.decoder("llama-grouped")), "scratch": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAVAE_CACHE", str(folder / "cache"))
        runs.quick(runs.settings(folder, "first", **sections, optimisation=STEPS))
    return folder


def settings(first: Path, name: str, source: str = "first", **changes: Any) -> dict[str, Any]:
    values = runs.settings(first, name, **changes)
    for section in ("encoder", "decoder", "latent"):
        if section not in changes:
            del values[section]
    return {**values, "start_from": str(first / source)}


@pytest.fixture(scope="module")
def second(first) -> TrainResult:
    """A run that started from the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAVAE_CACHE", str(first / "cache"))
        return runs.quick(settings(first, "second"))


one_kind = pytest.mark.parametrize("first", ["frozen"], indirect=True)
"""For what has nothing to do with the backbones of the first run."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_it_goes_on(first, second):
    """Step 0 is the first run's end; what trained trains, and what was frozen stays."""
    one, other = (
        [line["eval_nll"] for line in runs.log(first / name) if "eval_nll" in line]
        for name in ("first", "second")
    )
    assert other[0] == pytest.approx(one[-1], abs=1e-5)
    assert other[-1] != pytest.approx(one[-1], abs=1e-3)
    old = LlaMaVAE.from_pretrained(first / "first" / "model")
    before, after = (dict(model.named_parameters()) for model in (old, second.model))
    assert before.keys() == after.keys()
    for name, parameter in before.items():
        assert parameter.requires_grad == after[name].requires_grad
        assert torch.equal(parameter, after[name]) != parameter.requires_grad, name
    new = second.model.config
    assert {s: getattr(old.config, s) for s in SETTINGS} == {s: getattr(new, s) for s in SETTINGS}


def test_the_saved_model_is_complete_as_the_first_was(first, second):
    one, other = (
        {str(p.relative_to(first / name)) for p in (first / name / "model").rglob("*")}
        for name in ("first", "second")
    )
    assert one == other
    loaded = LlaMaVAE.from_pretrained(second.folder / "model")
    assert len(loaded.reconstruct(runs.SENTENCES[:2])) == 2
    text = (second.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "started from" in text
    assert "trained from scratch" not in text


def test_it_resumes(first, second):
    """A run that was stopped ends like one that was not, to the bit."""
    values = settings(first, "stopped", source="first/model")
    status = runs.interrupted(values, first / "cache", 5, signal.SIGTERM)
    assert status == runs.INTERRUPTED
    runs.quick(values, resume=True)
    one, other = (weights(first / name / "model") for name in ("second", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert runs.curve(second) == runs.curve(first / "stopped")


def test_another_start_is_another_run(first, second):
    with pytest.raises(UserError, match="start_from: was"):
        runs.quick(settings(first, "second", source="first/model"), resume=True)


@one_kind
@pytest.mark.parametrize("finished", [True, False])
def test_other_weights_in_the_same_place_are_another_start(first, finished):
    start = first / f"start-{finished}"
    shutil.copytree(first / "first" / "model", start)
    values = settings(first, f"from-{finished}", source=start.name)
    folder = runs.quick(values).folder
    noted = json.loads((folder / "run.json").read_text())["start_fingerprint"]
    assert json.loads((folder / "results.json").read_text())["start_fingerprint"] == noted
    if not finished:
        (folder / "results.json").unlink()
    runs.quick(values, resume=True)
    if not finished:
        (folder / "results.json").unlink()
    model = LlaMaVAE.from_pretrained(start)
    with torch.no_grad():
        next(model.posterior.parameters()).add_(1.0)
    model.default_prior = None  # fitted to the weights before
    model.save_pretrained(start)
    with pytest.raises(UserError, match=r"started from other weights than .*--output"):
        runs.quick(values, resume=True)
    (folder / "run.json").rename(folder / "record")
    runs.quick(values, resume=True)  # a run older than its record: nothing is known
    (folder / "record").rename(folder / "run.json")
    shutil.rmtree(start)
    runs.quick(values, resume=True)  # finished, and its start is gone


def test_backbones_inside_are_not_left_out(first):
    """They are not available elsewhere; a model that only names its own may take them in."""
    inside = LlaMaVAE.from_pretrained(first / "first" / "model").config.embed_backbones
    values = settings(first, "left-out", output={"embed_backbones": not inside})
    if inside:
        with pytest.raises(UserError, match="contains its backbones"):
            runs.quick(values)
    else:
        runs.quick(values)
        assert (first / "left-out" / "model" / "decoder").is_dir()


@one_kind
def test_a_teacher_and_other_sentences(first):
    path = first / "mine.txt"
    path.write_text("\n".join(f"{text} again" for text in runs.SENTENCES), encoding="utf-8")
    teacher = {"model": str(tiny.encoder("bert-cls"))}
    values = settings(first, "mine", corpus={"name": str(path)}) | {"teacher": teacher}
    assert "similarity" in runs.quick(values).metrics


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("section", "value", "named"),
    [
        ("encoder", {"model": "e"}, "encoder.model"),
        ("encoder", {"vectors": "v"}, "encoder.vectors"),
        ("encoder", {"scratch": {}, "training": "full"}, "encoder.training, encoder.scratch"),
        ("decoder", {"model": "d", "training": "lora"}, "decoder.model, decoder.training"),
        ("decoder", {"max_tokens": 7}, "decoder.max_tokens"),
        ("latent", {"dim": 7, "slots": 2}, "latent.dim, latent.slots"),
        ("lora", {"rank": 3}, "lora.rank"),
    ],
)
def test_what_the_checkpoint_decides(section, value, named):
    with pytest.raises(UserError, match=f"Omit {named}$"):
        parse_recipe({"start_from": "runs/demo", section: value})


def test_how_the_decoder_is_loaded_is_free():
    recipe = parse_recipe({"start_from": "runs/demo", "decoder": {"dtype": "auto"}})
    assert recipe.decoder.dtype == "auto"


def test_a_model_without_an_encoder(tmp_path):
    tiny.vae(sentence_encoder=None, embed_backbones=True).save_pretrained(tmp_path / "vectors")
    with pytest.raises(UserError, match="no sentence encoder"):
        runs.quick(settings(tmp_path, "run", source="vectors"))


def test_no_checkpoint_there(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a checkpoint"):
        runs.quick(settings(tmp_path, "run", source="empty"))
