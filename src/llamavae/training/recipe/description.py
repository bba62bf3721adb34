"""Keys, types, defaults and descriptions of the settings, for `--help` and the documentation."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from llamavae.training.recipe.schema import Recipe
from llamavae.training.recipe.section import Section


def describe_groups() -> Iterator[tuple[str, str]]:
    """Name and summary of every group of settings, for `--help`."""
    for name, field in Recipe.model_fields.items():
        if section := section_of(field.annotation):
            yield name, (section.__doc__ or "").partition("\n")[0]


def describe_settings(
    section: type[Section] = Recipe, prefix: str = ""
) -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and description of every setting, for `--help-all` and the documentation.

    Keys of settings in a list of sections contain N, an index from 0: `corpus.mix.N.name`.
    """
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        key = f"{prefix}{name}"
        several = typing.get_origin(field.annotation) is list
        if inner is None or several:
            empty = field.is_required() or field.default is None
            default = "" if empty else str(field.default)
            yield key, _type_name(field.annotation), default, field.description or ""
        if inner is not None:
            yield from describe_settings(inner, f"{key}.N." if several else f"{key}.")


def section_of(annotation: Any) -> type[Section] | None:
    """The section class of an annotation, which may be optional or a list; None for a value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(section_of, typing.get_args(annotation))), None)


def _type_name(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_name(part) for part in parts if part is not type(None))
    if origin is list:
        return "list of sections" if section_of(annotation) else f"list of {_type_name(parts[0])}"
    return getattr(annotation, "__name__", str(annotation))
