"""The evaluators by name, and the suites. A new evaluator needs one line here.

Evaluators are imported lazily, so that `--help` stays fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, get_type_hints

from llamavae.errors import UserError, unknown

if TYPE_CHECKING:
    from llamavae.evaluation.evaluator import Evaluator


class _Lazy(Mapping[str, "type[Evaluator]"]):
    """Maps names to classes, which are imported on access."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self.places = places

    def __getitem__(self, name: str) -> type[Evaluator]:
        if name not in self.places:
            raise unknown("evaluator", name, self.places)
        module, cls = self.places[name].split(":")
        return getattr(import_module(f"llamavae.evaluation.evaluators.{module}"), cls)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


EVALUATORS = _Lazy(
    {
        "reconstruction": "reconstruction:Reconstruction",
        "likelihood": "likelihood:Likelihood",
        "latent_usage": "latent_usage:LatentUsage",
        "samples": "samples:Samples",
        "interpolation": "interpolation:Interpolation",
        "geometry": "geometry:Geometry",
        "disentanglement": "disentanglement:Disentanglement",
        "sts": "sts:SemanticSimilarity",
        "probes": "probes:Probes",
        "classification": "classification:Classification",
        "clusters": "clusters:Clusters",
        "amortisation": "amortisation:Amortisation",
    }
)
"""Maps evaluator names to classes, in the order in which they run."""

_SLOW = ("sts", "classification", "amortisation")  # or in need of the hub

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
    "quick": {name: {} for name in EVALUATORS if name not in _SLOW},
    "paper": _PAPER,
    "all": {name: _PAPER.get(name, {}) for name in EVALUATORS} | {"disentanglement": {"seeds": 10}},
}
"""Maps suite names to evaluators, each with the settings that differ from the defaults.

`quick` needs only the model and its corpus, and takes minutes on two CPU cores for a small model.
`paper` covers what the paper (2312.13208) measures or shows by example; human similarity scores
are loaded from the hub and SentEval's tasks from its files, if they are found. `all` contains both,
with more seeds.
"""


def load_evaluator(name: str, **settings: Any) -> Evaluator:
    """An evaluator by name.

    Args:
        name: A name of `EVALUATORS`.
        **settings: Arguments of its class.

    Raises:
        UserError: The evaluator or a setting is unknown, or a value is invalid.
    """
    cls = EVALUATORS[name]
    known = signature(cls).parameters
    for setting in settings:
        if setting not in known:
            raise unknown(f"{name} setting", setting, known)
    hints = get_type_hints(cls.__init__)
    for setting, value in settings.items():
        _check(f"{name}.{setting}", value, hints[setting])
    return cls(**settings)


_EXPECTED = {
    "int_type": "a whole number",
    "string_type": "a text",
    "Path": "a path",
    "dict_type": "names with values, such as {a: b}",
    "sequence_str": "a list, such as [a, b]",
    "Sequence": "a list, such as [a, b]",
}
"""Maps pydantic's error types and classes to descriptions of the expected value."""


def _check(name: str, value: Any, annotation: Any) -> None:
    """Raise an error for a value that does not match the annotation; nothing is converted."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    config = ConfigDict(arbitrary_types_allowed=True, strict=True)
    try:
        TypeAdapter(annotation, config=config).validate_python(value)
    except ValidationError as error:
        mistakes = error.errors()
        expected = dict.fromkeys(
            _EXPECTED.get(each.get("ctx", {}).get("class", each["type"]))
            or each["msg"].removeprefix("Input should be ")
            for each in mistakes
        )
        wrong = mistakes[0]["input"]
        inside = "" if wrong is value else f" in {value!r}"
        raise UserError(f"{name} takes {' or '.join(expected)}; got {wrong!r}{inside}") from error
