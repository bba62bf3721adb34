"""Configs with one field or the whole file replaced.

Each loads the same model, or is refused by one line.

    run(n, seed) -> rows {case, outcome}

An outcome is `right` (the same results), `refused`, `traceback` or `silent wrong` (other results).
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import operator
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.guidance import InvertibleCVAE
from llamavae.guidance.conditions import EncoderCondition, LabelCondition
from llamavae.modeling.backbones import latent_fingerprint
from llamavae.modeling.prior import MixturePrior
from llamavae.training.recipe import load_recipe, recipe_names, recipe_text

Rows = list[dict[str, str]]
LINE = 700  # maximum length of a message, with its path and its hint

_DEEP: Any = []
for _ in range(50):
    _DEEP = [_DEEP]

ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, -0.5, 10**12, 10**30, 1e300, math.nan, math.inf, -math.inf,
    "", " ", "x", "none", "1", "../..", "/etc/passwd", "a\0b", "\ud800", "x" * 5000,
    [], [1], [None], [[]], {}, {"name": "x"}, {"": {"": []}}, _DEEP,
]  # fmt: skip
"""Values that no field has."""

WHOLE = ["", "{", "[]", "5", "null", '"x"', "{}", "[" * 100_000, '{"a":' * 900 + "1" + "}" * 900]
"""Contents that no config has."""
SHARE = 0.1  # of the cases in which the whole file has other contents


def outcome(load: Callable[[], Any], same: Callable[[Any], bool]) -> str:
    """What comes of loading something: `right`, `refused`, `traceback` or `silent wrong`."""
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(record=True) as told,
        ):
            warnings.simplefilter("always")
            found = load()
        # a part that does not belong to the model is left out with a warning
        return "right" if same(found) else "refused" if told else "silent wrong"
    except UserError as error:
        text = str(error)
        return "refused" if 0 < len(text) <= LINE else f"message of {len(text)} characters"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {str(error)[:100]}"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in nested lists and dictionaries, except the outermost."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from places(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of nested lists and dictionaries with another value at `path`."""
    found = copy.deepcopy(value)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = copy.deepcopy(new)
    return found


def _vae(folder: Path) -> list[Any]:
    model = LlaMaVAE.from_pretrained(folder, local_files_only=True)
    z = model.encode(tiny.SENTENCES[:2]).mean
    return [z.tolist(), model.decode(z), model.sample_codes(3, seed=0).tolist()]


def _cvae(vae: LlaMaVAE, folder: Path) -> list[Any]:
    model = InvertibleCVAE.from_pretrained(folder, vae)
    names = model.vocabulary[:2]
    return [names, model.sample_codes(names, 2, seed=0).tolist()]


def _targets(root: Path) -> Iterator[tuple[str, Path, Path, Callable[[Path], list[Any]]]]:
    """Name, folder, config and what is compared of each kind of config."""
    vae = tiny.vae(embed_backbones=True)
    eye = torch.eye(tiny.LATENT)[None]
    vae.default_prior = MixturePrior(torch.ones(1), torch.zeros(1, tiny.LATENT), 0.5 * eye)
    vae.default_prior.report = {"kind": "gaussian", "nll": 1.0, "references": {"standard": 2.0}}
    vae.default_prior.fingerprint = latent_fingerprint(vae)
    folder = root / "vae"
    vae.save_pretrained(folder)
    yield "vae", folder, folder / "config.json", _vae
    yield "prior", folder, folder / "prior" / "prior.json", _vae
    saved = LlaMaVAE.from_pretrained(folder)
    assert saved.encoder is not None
    conditions = {
        "words": (EncoderCondition(saved.encoder), ["dog", "river"]),
        "labels": (LabelCondition({"kind": ["a", "b"], "size": ["s", "l"]}), ["kind=a,size=s"]),
    }
    for name, (condition, words) in conditions.items():
        model = InvertibleCVAE.build(saved, condition, blocks=1, hidden=[8])
        model.vocabulary = words
        model.save_pretrained(root / name)
        yield (
            f"cvae-{name}",
            root / name,
            root / name / "config.json",
            lambda at: _cvae(saved, at),
        )


def cases(seed: int) -> Iterator[tuple[str, str]]:
    """Endless cases and their outcomes, the fields in turn with values drawn by seed."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as root:
        targets = []
        for name, folder, config, results in _targets(Path(root)):
            values = json.loads(config.read_text(encoding="utf-8"))
            every = list(places(values))
            targets.append((name, folder, config, values, every, results, results(folder)))
        recipes = {name: yaml.safe_load(recipe_text(name)) for name in recipe_names()}
        while True:
            for name, folder, config, values, every, results, expected in targets:
                path, new = draw.choice(every), draw.choice(ODD)
                broken = Path(root, "broken")
                shutil.rmtree(broken, ignore_errors=True)
                tiny.unsealed(shutil.copytree(folder, broken))  # the manifest would refuse all
                changed = json.dumps(replaced(values, path, new))
                if draw.random() < SHARE:
                    changed = new = draw.choice(WHOLE)
                    path = ("the file",)
                (broken / config.relative_to(folder)).write_text(changed, encoding="utf-8")
                yield (
                    f"{name} {'.'.join(map(str, path))} = {str(new)[:30]!r}",
                    outcome(partial(results, broken), partial(operator.eq, expected)),
                )
            name = draw.choice(list(recipes))
            path, new = draw.choice([*places(recipes[name])]), draw.choice(ODD)
            changed = replaced(recipes[name], path, new)
            file = Path(root, "recipe.yaml")
            file.write_text(yaml.safe_dump(changed), encoding="utf-8", errors="surrogatepass")
            yield (
                f"recipe {name} {'.'.join(map(str, path))} = {str(new)[:30]!r}",
                outcome(partial(load_recipe, file), partial(_kept, path, new)),
            )


def _kept(path: tuple[Any, ...], new: Any, recipe: Any) -> bool:
    """Whether a recipe has exactly the value that its file gives."""
    found = recipe.model_dump()
    for key in path:
        found = found[key]
    return new is None or _same(found, new)


def _same(found: Any, given: Any) -> bool:
    """Whether the values are equal; settings that are not given have their defaults."""
    if isinstance(found, dict) and isinstance(given, dict):
        return all(name in found and _same(found[name], given[name]) for name in given)
    if isinstance(found, float) and isinstance(given, int) and not isinstance(given, bool):
        return found == float(given)
    # YAML 1.1 has numbers in quotes as well
    return found in (given, {"1": 1}.get(str(given)))


def run(n: int, seed: int = 0) -> Rows:
    """The outcomes of `n` configs."""
    torch.manual_seed(0)
    found = cases(seed)
    rows = [{"case": case, "outcome": what} for case, what in (next(found) for _ in range(n))]
    found.close()  # pyright: ignore[reportAttributeAccessIssue] a generator
    return rows
