"""Make the models that come with the library out of runs of the recipes `mini-vae` and `mini-more`.

    python -m pretrained.build ship runs/mini-vae    weights in bfloat16 into the package
    python -m pretrained.build ship runs/mini-more   the same, trained on from the former
    python -m pretrained.build define                fit `mini-definitions` and a prior of `mini`
    python -m pretrained.build define small          fit `small-definitions`
    python -m pretrained.build measure --sts FILE    measure, write measures.json and model cards
    python -m pretrained.build check --sts FILE      measure again, compare with measures.json

FILE is the development part of the STS benchmark. Needs what the recipe needs: WordNet, and
WorldTree's explanations in LLAMAVAE_WORLDTREE.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llamavae import InvertibleCVAE, LlaMaVAE
from llamavae.corpora import load_corpus
from llamavae.flows import Fitting
from llamavae.guidance import EncoderCondition, make_pairs
from llamavae.modeling.prior import DEFAULT
from llamavae.training import aggregate_posterior, fit_prior, load_recipe
from pretrained.card import definitions_card, vae_card
from pretrained.measures import compare, measure_definitions, measure_vae

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "src" / "llamavae" / "pretrained"
VAE, DEFINITIONS = PACKAGE / "mini", PACKAGE / "mini-definitions"
MIXED, NOISE = ("wordnet", "wordnet-examples", "worldtree"), 0.5
STAGES = ("mini-vae", "mini-more")
MEASURES = HERE / "measures.json"


@dataclass(frozen=True)
class Definitions:
    """How the flow from words to a model's definitions is fitted.

    Attributes:
        context: Column with the sentence around a word; None fits to words alone.
        noise: Width of the posteriors, see `InvertibleCVAE.fit`.
        flow: Options of `InvertibleCVAE.build`.
        fit: Those of `Fitting`.
    """

    context: str | None = None
    noise: float = NOISE
    flow: Mapping[str, Any] = field(
        default_factory=lambda: {
            "flow": "glow",
            "form": "reference",
            "mean_hidden": (512, 512),
            "dropout": 0.2,
        }
    )
    fit: Mapping[str, Any] = field(
        default_factory=lambda: {
            "steps": 3000,
            "batch_size": 1024,
            "patience": 15,
            "contrast": 16.0,
            "context_noise": 0.5,
        }
    )


FLOWS = {"mini": Definitions(), "small": Definitions(context="context")}
"""VAE -> how its `<name>-definitions` is fitted."""


def ship(run: Path) -> None:
    """Copy the model of a finished run into the package; its results and log come to this folder.

    Each stage keeps its own: `mini-more` starts from what `mini-vae` shipped.
    """
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    stage = results["recipe"]["name"]
    if stage not in STAGES:
        raise SystemExit(f"{run} is a run of the recipe {stage}, not of {' or '.join(STAGES)}")
    recipe = load_recipe(stage).model_dump(mode="json")
    for section, key in (("teacher", "model"), ("output", "folder")):  # places of the machine
        was, now = results["recipe"][section][key], recipe[section][key]
        results["recipe"][section][key] = now
        results["command"] = _exchanged(results["command"], was, now)
    if changed := {k: v for k, v in results["recipe"].items() if v != recipe[k]}:
        raise SystemExit(f"the run was not made by the recipe {stage} as it is now: {changed}")
    for later in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(HERE / later, ignore_errors=True)
    (HERE / stage).mkdir()
    shutil.copy(run / "log.jsonl", HERE / stage)
    _write_json(HERE / stage / "results.json", results)
    shutil.rmtree(VAE, ignore_errors=True)
    shutil.copytree(run / "model", VAE)
    for path in VAE.rglob("*.safetensors"):
        halve(path)


def _exchanged(command: str, was: str, now: str) -> str:
    """A command in which one value of its arguments, alone or behind `=`, is another."""
    return shlex.join(
        word.removesuffix(was) + now if word == was or word.endswith(f"={was}") else word
        for word in shlex.split(command)
    )


def halve(path: Path) -> None:
    """Store float32 weights as bfloat16; config.json still says float32, so they load as that."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    weights = {
        name: value.bfloat16() if value.dtype == torch.float32 else value
        for name, value in load_file(path).items()
    }
    save_file(weights, path, metadata)


def fit_mixture(vae: LlaMaVAE) -> None:
    """Fit the default prior, a mixture, to the codes of the corpora's sentences."""
    texts = {
        split: [
            text
            for name in MIXED
            for text in load_corpus(name, split, max_words=16, limit=limit)["text"]
        ]
        for split, limit in (("train", 20_000), ("validation", 2000))
    }
    train, valid = (aggregate_posterior(vae, t, NOISE, progress=True) for t in texts.values())
    prior = fit_prior(train, "mixture", valid=valid, vae=vae, progress=True)
    prior.report |= {"corpus": ", ".join(MIXED), "noise": NOISE}
    prior.save(VAE / DEFAULT)


def define(vae: LlaMaVAE, name: str = "mini") -> None:
    """Fit the flow from words to definitions, on WordNet's pairs; half precision is shipped.

    Args:
        vae: The VAE.
        name: Its name in `FLOWS`; the result goes into the package as `<name>-definitions`.
    """
    assert vae.encoder is not None
    settings, condition = FLOWS[name], EncoderCondition(vae.encoder)
    rows = load_corpus("wordnet-pairs", "train", max_words=16)
    pairs = make_pairs(rows, condition, context=settings.context, also_alone=True)
    torch.manual_seed(0)
    cvae = InvertibleCVAE.build(vae, condition, **settings.flow)
    fit = cvae.fit(
        pairs,
        vocabulary=list(dict.fromkeys(rows["word"])),
        noise=settings.noise,
        fitting=Fitting(**settings.fit),
    )
    print(f"held-out NLL {fit.nll:.4f} nats per dimension; beside it {fit.references}")
    folder = PACKAGE / f"{name}-definitions"
    shutil.rmtree(folder, ignore_errors=True)
    cvae.save_pretrained(folder, half=True)


def measured(sts: Path) -> dict[str, Any]:
    """All measures of both models."""
    found: dict[str, Any] = measure_vae(LlaMaVAE.from_pretrained("mini"), sts)
    if DEFINITIONS.is_dir():
        cvae = InvertibleCVAE.from_pretrained("mini-definitions")
        found["definitions"] = measure_definitions(cvae)
    return found


def measure(sts: Path) -> None:
    """Write measures.json and the model cards."""
    found = measured(sts)
    _write_json(MEASURES, found)
    places = [HERE / stage / "results.json" for stage in STAGES]
    runs = [json.loads(place.read_text(encoding="utf-8")) for place in places if place.is_file()]
    (VAE / "README.md").write_text(vae_card(found, runs), encoding="utf-8")
    if "definitions" in found:
        how = FLOWS["mini"]
        settings = {**how.flow, "noise": how.noise, **how.fit, "seed": 0}
        (DEFINITIONS / "README.md").write_text(definitions_card(found, settings), encoding="utf-8")


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check(sts: Path) -> int:
    """Measure again and say what differs from measures.json; the number of differences."""
    differences: Iterable[str] = compare(json.loads(MEASURES.read_text("utf-8")), measured(sts))
    count = 0
    for count, line in enumerate(differences, 1):  # noqa: B007
        print(line)
    print("all measures are those of the model cards" if not count else f"{count} differ")
    return count


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("ship").add_argument("run", type=Path)
    steps.add_parser("define").add_argument("name", nargs="?", default="mini", choices=FLOWS)
    for name in ("measure", "check"):
        steps.add_parser(name).add_argument("--sts", type=Path, required=True)
    given = parser.parse_args()
    if given.step == "ship":
        ship(given.run)
    elif given.step == "define":
        vae = LlaMaVAE.from_pretrained(given.name)
        if given.name == "mini":
            fit_mixture(vae)
        define(vae, given.name)
    elif given.step == "measure":
        measure(given.sts)
    else:
        sys.exit(min(check(given.sts), 1))


if __name__ == "__main__":
    main()
