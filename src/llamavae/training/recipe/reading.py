"""Reading recipes: by name, from a file, with changes, and with all mistakes reported together."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from llamavae.errors import UserError, counted, nearest, unknown
from llamavae.parsing import read_yaml
from llamavae.training.recipe.description import section_of
from llamavae.training.recipe.schema import Recipe
from llamavae.training.recipe.section import Section


def recipe_names() -> list[str]:
    """Names of the bundled recipes."""
    files = [file.name for file in resources.files("llamavae.recipes").iterdir()]
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """YAML text of a bundled recipe, including comments."""
    if name not in recipe_names():
        raise unknown("recipe", name, recipe_names())
    file = resources.files("llamavae.recipes") / f"{name}.yaml"
    return file.read_text(encoding="utf-8")


def load_recipe(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    values: Mapping[str, Any] | None = None,
) -> Recipe:
    """Load a recipe by name or from a file, and change some of its settings.

    Args:
        source: Name of a bundled recipe, or path of a `.yaml` file.
        overrides: Changes as text, `section.key=value`, each value read as YAML.
        values: Changes as Python values by dotted key, taken as they are. They take precedence over
            `overrides`.

    Raises:
        UserError: There is no such recipe, it is not valid YAML, or settings are invalid. All
            invalid settings are reported together.

    Example:
        >>> recipe = load_recipe("demo", ["latent.dim=16"], values={"output.folder": "2024-01-01"})
        >>> recipe.latent.dim, recipe.output.folder
        (16, '2024-01-01')
    """
    text = str(source)
    if text.endswith((".yaml", ".yml")):
        path = Path(text)
        if not path.is_file():
            raise UserError(f"there is no recipe file {path}")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not in UTF-8: {error.reason}. Save it as UTF-8") from error
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
    else:
        text = recipe_text(text)
    settings = read_yaml(text, str(source))
    settings = {} if settings is None else settings
    if not isinstance(settings, dict):
        raise UserError(
            f"{source} is not a recipe: expected settings by name; got {settings!r:.40}"
        )
    changes = [*map(_read_override, overrides), *(values or {}).items()]
    for key, value in changes:
        _assign(settings, key, value)
    changed = {key for key, _ in changes}
    for name, other in (("epochs", "steps"), ("steps", "epochs")):
        if f"optimisation.{name}" in changed and f"optimisation.{other}" not in changed:
            settings["optimisation"].pop(other, None)  # the changed length replaces the recipe's
    return parse_recipe(settings)


def _read_override(text: str) -> tuple[str, Any]:
    """Key and value of `section.key=value`, the value read as YAML."""
    key, equals, given = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set expects section.key=value; got {text!r}")
    value = read_yaml(given, f"--set {text!r:.80}")
    if isinstance(value, str):
        with suppress(ValueError):  # YAML 1.1 reads numbers such as 1e-3 as text
            value = float(value)
    return key.strip(), value


def _assign(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set one value in nested settings by its dotted key."""
    *parents, last = key.split(".")
    for parent in parents:
        inner = settings.get(parent)
        if not isinstance(inner, dict):
            inner = settings[parent] = {}
        settings = inner
    settings[last] = value


def parse_recipe(values: dict[str, Any]) -> Recipe:
    """Build a recipe from nested settings; all errors are reported together.

    Raises:
        UserError: Settings are unknown or invalid.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        found = error.errors()
    # unknown settings prevent the checks across settings: validate again without them
    known = copy.deepcopy(values)
    for error in found:
        if error["type"] == "extra_forbidden":
            *parents, key = error["loc"]
            section: Any = known
            for parent in parents:
                section = section[parent]
            del section[key]
    try:
        Recipe.model_validate(known)
    except ValidationError as error:
        seen = [(e["loc"], e["msg"]) for e in found]
        found += [e for e in error.errors() if (e["loc"], e["msg"]) not in seen]
    text = "\n".join(map(_complaint, found))
    raise UserError(f"the recipe has {counted(len(text.splitlines()), 'mistake')}:\n{text}")


_PLAIN = {"model_type": "expected settings by name", "missing": "is required"}
"""Type of a pydantic error -> message in terms of recipes."""


def _complaint(error: Any) -> str:
    place = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        known = sorted(_settings_at(error["loc"][:-1]))
        near = nearest(str(error["loc"][-1]), known)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        hint = hint or (f"; expected one of {', '.join(known)}" if known else "")
        return f"  {place}: no such setting{hint}"
    message = _PLAIN.get(error["type"], error["msg"].removeprefix("Value error, "))
    given = (
        "" if isinstance(error.get("input"), dict | BaseModel) else f" (got {error['input']!r:.60})"
    )
    return f"  {place + ': ' if place else ''}{message}{given}"


def _settings_at(place: Iterable[str | int]) -> Iterable[str]:
    """Names of the settings of the section at `place`."""
    section: type[Section] | None = Recipe
    for name in place:
        if section is not None and not isinstance(name, int):
            section = section_of(section.model_fields[name].annotation)
    return section.model_fields if section else ()
