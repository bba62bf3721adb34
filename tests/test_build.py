"""How the models that come with the library are made: what is shipped, and what their cards say."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained import build
from pretrained.card import definitions_card, vae_card
from pretrained.measures import compare
from safetensors.torch import load_file
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.training import load_recipe

ROOT = Path(__file__).parents[1]
ROW = {"metric": "BLEU", "value": 17.0, "unit": "0 to 100", "direction": "higher", "n": 9}
FOUND: dict[str, Any] = {
    "corpora": {"WordNet definitions": [ROW | {"control": 0.2, "low": 16.0, "high": 18.0}]},
    "sts": [ROW | {"metric": "STS Spearman"}],
    "samples": ["a kind of tree"],
    "mixture samples": ["a kind of dog"],
}


def results(stage: str, folder: str = "runs/run", **others: Any) -> dict[str, Any]:
    """Contents of results.json of a run of a recipe, made on some machine."""
    recipe = load_recipe(stage).model_dump(mode="json")
    recipe["output"]["folder"] = folder
    recipe["teacher"]["model"] = "/data/teacher"
    return {
        "recipe": recipe,
        "seed": 0,
        "sentences": 213_985,
        "seconds": 5400.0,
        "command": f"llamavae train --recipe {stage} --set teacher.model=/data/teacher "
        f"--output '{folder}' --resume",
        "torch": "2.13.0",
        "machine": "2 CPU cores, x86_64",
        **others,
    }


# ------------------------------------------------------------------------------- the card


def how(*runs: dict[str, Any]) -> str:
    """What the card says of the runs."""
    text = vae_card(FOUND, runs)
    assert "| BLEU | 17 | 0.2 | 16 to 18 | 0 to 100 | higher | 9 |" in text
    return text.split("## Training\n\n")[1].partition("; with PyTorch 2.13.0")[0]


def test_the_card_of_one_run() -> None:
    assert how(results("mini-vae")) == (
        "By the recipe `mini-vae`: 16,000 steps of 64 sentences, seed 0, beta up to 0.1, "
        "1.5 hours on one core of 2 CPU cores, x86_64"
    )


def test_the_card_of_two_runs() -> None:
    second = results("mini-more", seconds=7200.0, machine="1 x NVIDIA X1", threads=8)
    first, then = how(results("mini-vae", threads=2), second).split("; then the ")
    assert first.endswith("1.5 hours on 2 threads of 2 CPU cores, x86_64")
    assert then.startswith("recipe `mini-more`: 17,000 steps")
    assert then.endswith("beta up to 0.3, 2.0 hours on 1 x NVIDIA X1")


def test_the_card_of_definitions_shows_systems_differences_and_conditions() -> None:
    score = ROW | {"system": "nearest neighbour", "control": 0.1}
    difference = {"system": "centre", "metric": "BLEU", "difference": 0.5, "low": 0.1, "high": 0.9}
    difference |= {"against": "nearest neighbour"}
    example = {"condition": ("bank", "she swam to it"), "definition": "land", "centre": "a side"}
    measured = {
        "scores": [score],
        "differences": [difference | {"p": 0.01}],
        "ranks": [ROW],
        "examples": [example, example | {"condition": "dog"}],
        "fit": {"nll": 0.8, "references": {"gaussian": 1.1}},
    }
    text = definitions_card({"definitions": measured}, {"steps": 9}, "small", "the vector of it")
    assert "| nearest neighbour | BLEU | 17 | 0.1 |" in text
    assert "| centre | nearest neighbour | BLEU | +0.5 | +0.1 to +0.9 | 0.010 |" in text
    assert "- **bank, in: she swam to it**: land\n  - centre: a side\n- **dog**: land" in text
    assert "The condition is the vector of it." in text
    assert "the flow 0.8000, gaussian 1.1000" in text


# ------------------------------------------------------------------------------- shipping


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, and empty places to ship it to."""
    monkeypatch.setattr(build, "HERE", tmp_path / "pretrained")
    monkeypatch.setattr(build, "PACKAGE", tmp_path / "package")
    (tmp_path / "pretrained").mkdir()
    folder = tmp_path / "a run"
    tiny.vae(embed_backbones=True).save_pretrained(folder / "model")
    (folder / "log.jsonl").write_text('{"step": 0}\n')
    write(folder, results("mini-vae", str(folder)))
    return folder


def write(run: Path, values: dict[str, Any]) -> None:
    (run / "results.json").write_text(json.dumps(values), encoding="utf-8")


def read(stage: str) -> dict[str, Any]:
    return json.loads((build.HERE / stage / "results.json").read_text(encoding="utf-8"))


def test_ship(run: Path) -> None:
    build.ship(run)
    assert (build.HERE / "mini-vae" / "log.jsonl").read_text() == '{"step": 0}\n'
    found, recipe = read("mini-vae"), load_recipe("mini-vae").model_dump(mode="json")
    assert found["recipe"] == recipe
    assert found["seconds"] == 5400.0
    bundled, trained = (
        load_file(x / "model.safetensors") for x in (build.PACKAGE / "mini", run / "model")
    )
    assert {v.dtype for v in bundled.values()} == {torch.bfloat16}
    assert all(torch.equal(v, trained[name].bfloat16()) for name, v in bundled.items())
    assert len(LlaMaVAE.from_pretrained(build.PACKAGE / "mini").sample(2)) == 2


def test_the_command_is_the_recorded_one_without_places_of_the_machine(run: Path) -> None:
    build.ship(run)
    assert read("mini-vae")["command"] == (
        "llamavae train --recipe mini-vae "
        "--set teacher.model=sentence-transformers/all-MiniLM-L6-v2 "
        "--output runs/mini-vae --resume"
    )


def test_a_later_stage_leaves_the_earlier_and_an_earlier_removes_the_later(run: Path) -> None:
    build.ship(run)
    write(run, results("mini-more", str(run), threads=1, start_fingerprint="0f"))
    build.ship(run)
    assert read("mini-more")["start_fingerprint"] == "0f"
    assert read("mini-vae")
    write(run, results("mini-vae", str(run)))
    build.ship(run)
    assert not (build.HERE / "mini-more").exists()


@pytest.mark.parametrize("other", ["steps", "recipe"])
def test_another_recipe_is_refused_and_nothing_is_touched(run: Path, other: str) -> None:
    build.ship(run)
    before = {p: p.read_bytes() for p in run.parent.rglob("*") if p.is_file()}
    values = results("mini-vae" if other == "steps" else "demo", str(run))
    if other == "steps":
        values["recipe"]["optimisation"]["steps"] = 7
    write(run, values)
    with pytest.raises(SystemExit, match="'steps': 7" if other == "steps" else "the recipe"):
        build.ship(run)
    before[run / "results.json"] = (run / "results.json").read_bytes()
    assert {p: p.read_bytes() for p in run.parent.rglob("*") if p.is_file()} == before


# ------------------------------------------------------------------------------- checking


def test_compare() -> None:
    now = copy.deepcopy(FOUND)
    assert list(compare(FOUND, now)) == []
    now["corpora"]["WordNet definitions"][0]["value"] *= 1.005
    assert list(compare(FOUND, now)) == []
    now["corpora"]["WordNet definitions"][0]["value"] = 16.0
    now["samples"] = ["another kind of tree"]
    assert list(compare(FOUND, now)) == [
        "/corpora/WordNet definitions/0/value: 17 on the card, 16 now",
        "/samples/0: 'a kind of tree' on the card, 'another kind of tree' now",
    ]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("sts", "worldtree", "said"),
    [
        (None, "pyproject.toml", "make mini STS=FILE"),
        ("missing.csv", "pyproject.toml", "No file 'missing.csv'.*make mini STS=FILE"),
        ("pyproject.toml", None, "LLAMAVAE_WORLDTREE=FILE"),
        ("pyproject.toml", "pyproject.toml", None),
    ],
)
def test_make_mini_asks_for_its_data_first(
    sts: str | None, worldtree: str | None, said: str | None
) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("STS", "LLAMAVAE_WORLDTREE")}
    if worldtree:
        environment["LLAMAVAE_WORLDTREE"] = worldtree
    command = ["make", "mini-data", *([f"STS={sts}"] if sts else [])]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) == (said is None)
    assert said is None or re.search(said, done.stderr)
