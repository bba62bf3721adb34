"""Make the bundled models out of runs of their recipes.

    python -m pretrained.build ship runs/mini-vae          weights in bfloat16 into the package
    python -m pretrained.build ship runs/mini-more         the same, trained on from the former
    python -m pretrained.build ship runs/small             weights as 8-bit integers
    python -m pretrained.build ship runs/small-more        the same, trained on from the former
    python -m pretrained.build ship runs/small-stage-3     the same, once more
    python -m pretrained.build prior NAME                  fit the default prior of a model
    python -m pretrained.build define NAME                 fit NAME-definitions
    python -m pretrained.build measure NAME --sts FILE     measure, write measures and model cards
    python -m pretrained.build measure NAME                the same for NAME-definitions alone
    python -m pretrained.build check NAME --sts FILE       measure again, compare with the measures

NAME is mini or small. FILE is the development part of the STS benchmark. Needs what the recipes
need: WordNet, and in LLAMAVAE_WORLDTREE the explanations of WorldTree (for mini a file, for small
the folder of the published split).
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
from llamavae.files import replacing, replacing_folder, write_json, write_text
from llamavae.flows import FitConfig
from llamavae.guidance import EncoderCondition, make_pairs
from llamavae.modeling.prior import DEFAULT
from llamavae.training import aggregate_posterior, fit_prior, load_recipe
from llamavae.training.recipe import parse_recipe
from pretrained.card import IN_CONTEXT, definitions_card, small_card, vae_card
from pretrained.measures import compare, measure_definitions, measure_small, measure_vae

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "src" / "llamavae" / "pretrained"
MIXED, NOISE = ("wordnet", "wordnet-examples", "worldtree"), 0.5
PRIOR = {"mini": 20_000, "small": 10_000}
"""Model -> maximum number of training sentences of each corpus that its prior is fitted to."""
STAGES = {"mini": ("mini-vae", "mini-more"), "small": ("small", "small-more", "small-stage-3")}
"""Model -> the recipes whose runs make it, each from the model of the one before."""


@dataclass(frozen=True)
class Definitions:
    """How the flow from words to a model's definitions is fitted.

    Attributes:
        condition: Description of the condition for the card.
        encoder: Sentence encoder that reads the words; None for the model's own.
        context: Column with the sentence around a word; None fits to words alone.
        posterior_scale: Width of the posteriors, see `InvertibleCVAE.fit`.
        flow: Options of `InvertibleCVAE.build`.
        fit: Those of `FitConfig`.
    """

    condition: str
    encoder: str | None = None
    context: str | None = None
    posterior_scale: float = NOISE
    flow: Mapping[str, Any] = field(
        default_factory=lambda: {
            "flow": "glow",
            "form": "reference",
            "base_hidden": (512, 512),
            "dropout": 0.2,
        }
    )
    fit: Mapping[str, Any] = field(
        default_factory=lambda: {
            "steps": 3000,
            "batch_size": 1024,
            "patience": 15,
            "contrastive_weight": 16.0,
            "context_noise": 0.5,
        }
    )


FLOWS = {
    "mini": Definitions("the vector that the sentence encoder of `mini` gives the word"),
    "small": Definitions(
        "the vector that all-MiniLM-L6-v2 gives a word, alone or in a sentence",
        "all-minilm-l6-v2",
        "context",
    ),
}
"""VAE -> how its `<name>-definitions` is fitted."""


def ship(run: Path) -> None:
    """Copy the model of a finished run into the package; its results and log come to this folder.

    Each stage keeps its own: `mini-more` starts from what `mini-vae` shipped.
    """
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    stage = results["recipe"]["name"]
    name = next((name for name, stages in STAGES.items() if stage in stages), None)
    if name is None:
        known = ", ".join(stage for stages in STAGES.values() for stage in stages)
        raise SystemExit(f"{run} is a run of the recipe {stage}, not of one of {known}")
    recipe = load_recipe(stage).model_dump(mode="json")
    for section, key in _PLACES:
        was, now = results["recipe"][section][key], recipe[section][key]
        results["recipe"][section][key] = now
        if was is not None:
            results["command"] = _exchanged(results["command"], was, now)
    # settings that are newer than the run had their default value in it
    results["recipe"] = parse_recipe(results["recipe"]).model_dump(mode="json")
    if changed := {k: v for k, v in results["recipe"].items() if v != recipe[k]}:
        raise SystemExit(f"the run was not made by the recipe {stage} as it is now: {changed}")
    for later in STAGES[name][STAGES[name].index(stage) :]:
        shutil.rmtree(HERE / later, ignore_errors=True)
    (HERE / stage).mkdir()
    shutil.copy(run / "log.jsonl", HERE / stage)
    write_json(HERE / stage / "results.json", results)
    config = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
    with replacing_folder(PACKAGE / name) as folder:
        if config["embed_backbones"]:  # the model carries its backbones
            shutil.copytree(run / "model", folder, dirs_exist_ok=True)
            for path in folder.rglob("*.safetensors"):
                halve(path)
            return
        first = load_recipe(STAGES[name][0])
        model = LlaMaVAE.from_pretrained(
            run / "model", encoder=first.encoder.model, decoder=first.decoder.model
        )
        model.card = model.default_prior = None  # both are made anew
        model.save_pretrained(folder, int8=True)


_PLACES = (
    *(("encoder", "model"), ("decoder", "model"), ("teacher", "model")),
    ("output", "folder"),
)
"""Settings that hold a place of the machine."""


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
    with replacing(path) as new:
        save_file(weights, new, metadata)


def fit_mixture(vae: LlaMaVAE, name: str) -> None:
    """Fit the default prior, a mixture, to the codes of the corpora's sentences."""
    texts = {
        split: [
            text
            for name in MIXED
            for text in load_corpus(name, split, max_words=16, limit=limit)["text"]
        ]
        for split, limit in (("train", PRIOR[name]), ("validation", PRIOR[name] // 10))
    }
    train, valid = (aggregate_posterior(vae, t, NOISE, progress=True) for t in texts.values())
    prior = fit_prior(train, "mixture", valid=valid, vae=vae, progress=True)
    prior.report |= {"corpus": ", ".join(MIXED), "posterior_scale": NOISE}
    prior.save(PACKAGE / name / DEFAULT)


def define(vae: LlaMaVAE, name: str) -> None:
    """Fit the flow from words to definitions, on WordNet's pairs; half precision is shipped.

    Args:
        vae: The VAE.
        name: Its name in `FLOWS`; the result goes into the package as `<name>-definitions`.
    """
    assert vae.encoder is not None
    settings = FLOWS[name]
    condition = EncoderCondition(vae.encoder)
    if settings.encoder is not None:
        condition = EncoderCondition.load(settings.encoder, pooling="mean")
    rows = load_corpus("wordnet-pairs", "train", max_words=16)
    pairs = make_pairs(rows, condition, context=settings.context, also_alone=True)
    torch.manual_seed(0)
    cvae = InvertibleCVAE.build(vae, condition, **settings.flow)
    fit = cvae.fit(
        pairs,
        vocabulary=list(dict.fromkeys(rows["word"])),
        posterior_scale=settings.posterior_scale,
        config=FitConfig(**settings.fit),
    )
    print(f"held-out NLL {fit.nll:.4f} nats per dimension; references: {fit.references}")
    with replacing_folder(PACKAGE / f"{name}-definitions") as folder:
        cvae.save_pretrained(folder, half=True)


def recorded(name: str) -> dict[str, Any]:
    """The measures on the cards of a model and of its model of definitions."""
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def measured(name: str, sts: Path | None) -> dict[str, Any]:
    """All metrics of a model, and of its model of definitions.

    Args:
        name: Name of the model.
        sts: The development part of the STS benchmark; None measures the model of definitions
            alone and keeps the other metrics.
    """
    vae = LlaMaVAE.from_pretrained(name)
    if sts is None:
        found = recorded(name)
    else:
        found = measure_vae(vae, sts) if name == "mini" else measure_small(vae, sts)
    if (PACKAGE / f"{name}-definitions").is_dir():
        cvae = InvertibleCVAE.from_pretrained(f"{name}-definitions", vae)
        how = FLOWS[name]
        found["definitions"] = measure_definitions(cvae, mover=how.encoder)
        if how.context is not None:
            found[IN_CONTEXT] = measure_definitions(cvae, how.context, how.encoder)
    return found


def measure(name: str, sts: Path | None) -> None:
    """Write the measures and the model cards."""
    found = measured(name, sts)
    write_json(HERE / f"{name}.json", found)
    places = [HERE / stage / "results.json" for stage in STAGES[name]]
    runs = [json.loads(place.read_text(encoding="utf-8")) for place in places if place.is_file()]
    card = vae_card(found, runs) if name == "mini" else small_card(found, runs)
    write_text(PACKAGE / name / "README.md", card)
    if "definitions" in found:
        how = FLOWS[name]
        settings = {**how.flow, "posterior_scale": how.posterior_scale, **how.fit, "seed": 0}
        card = definitions_card(found, settings, name, how.condition)
        write_text(PACKAGE / f"{name}-definitions" / "README.md", card)


def check(name: str, sts: Path) -> int:
    """Measure again and say what differs from the measures; the number of differences."""
    differences: Iterable[str] = compare(recorded(name), measured(name, sts))
    count = 0
    for count, line in enumerate(differences, 1):  # noqa: B007
        print(line)
    print("all values are those of the model cards" if not count else f"{count} differ")
    return count


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("ship").add_argument("run", type=Path)
    for step in ("prior", "define", "measure", "check"):
        options = steps.add_parser(step)
        options.add_argument("name", choices=STAGES)
        if step in ("measure", "check"):
            options.add_argument("--sts", type=Path, required=step == "check")
    given = parser.parse_args()
    if given.step == "ship":
        ship(given.run)
    elif given.step == "prior":
        fit_mixture(LlaMaVAE.from_pretrained(given.name), given.name)
    elif given.step == "define":
        define(LlaMaVAE.from_pretrained(given.name), given.name)
    elif given.step == "measure":
        measure(given.name, given.sts)
    else:
        sys.exit(min(check(given.name, given.sts), 1))


if __name__ == "__main__":
    main()
