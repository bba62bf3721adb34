"""The evaluators by name, and the suites they make up. A new evaluator is one line here.

Nothing is imported before it is asked for, so that `--help` stays quick.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from llamavae.errors import UserError, unknown

if TYPE_CHECKING:
    from llamavae.evaluation.evaluator import Evaluator


class _Lazy(Mapping[str, "type[Evaluator]"]):
    """Name -> class, imported from the place that stands for it."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self.places = places

    def __getitem__(self, name: str) -> type[Evaluator]:
        if name not in self.places:
            raise unknown("evaluator", name, self.places)
        module, cls = self.places[name].split(":")
        return getattr(import_module(f"llamavae.evaluation.{module}"), cls)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


EVALUATORS = _Lazy(
    {
        "reconstruction": "reconstruction:Reconstruction",
        "likelihood": "likelihood:Likelihood",
        "usage": "usage:Usage",
        "samples": "samples:Samples",
        "interpolation": "interpolation:Interpolation",
        "geometry": "geometry:Geometry",
        "disentanglement": "disentanglement:Disentanglement",
        "sts": "sts:SemanticSimilarity",
        "probes": "probes:Probes",
        "clusters": "clusters:Clusters",
    }
)
"""Evaluator name -> its class, in the order in which they run."""

_PAPER: dict[str, dict[str, Any]] = {
    "reconstruction": {},
    "likelihood": {"samples": 100},
    "interpolation": {"pairs": 200},
    "geometry": {},
    "sts": {"tasks": ["english"]},
    "probes": {"tasks": ["all"]},
    "clusters": {},
}

SUITES: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {name: {} for name in EVALUATORS if name != "sts"},
    "paper": _PAPER,
    "all": {name: _PAPER.get(name, {}) for name in EVALUATORS} | {"disentanglement": {"seeds": 10}},
}
"""Suite name -> its evaluators, each with the settings that differ from the defaults.

`quick` needs the model and its corpus alone, and takes minutes on two CPU cores for a small model.
`paper` is for what the paper (2312.13208) measures or shows by example; human scores of similarity
come from the hub and SentEval's tasks from its files, as far as they are found. `all` is both, with
more seeds.
"""


def evaluator(name: str, **settings: Any) -> Evaluator:
    """An evaluator by name.

    Args:
        name: A name of `EVALUATORS`.
        **settings: Arguments of its class.

    Raises:
        UserError: There is no such evaluator or setting, or a value is not usable.
    """
    cls = EVALUATORS[name]
    known = signature(cls).parameters
    for setting, value in settings.items():
        if setting not in known:
            raise unknown(f"setting of the evaluator {name!r}", setting, known)
        if expected := _mistaken(value, known[setting]):
            raise UserError(f"{name}.{setting} takes {expected}; got {value!r}")
    return cls(**settings)


def _mistaken(value: Any, setting: Parameter) -> str:
    """What a setting takes, by its default, if the value is something else."""
    if value is None and "None" in str(setting.annotation):
        return ""
    if isinstance(setting.default, tuple) and not isinstance(value, list | tuple):
        return "a list, such as [a, b]"
    if isinstance(setting.default, int) and (not isinstance(value, int) or value is True):
        return "a whole number"
    return ""
