"""Errors that a user can act on: what was expected, what came, and what to do next."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


class UserError(ValueError):
    """The input, a setting or a file is not usable; the message says what to change.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


class MissingData(UserError):
    """Data that have to be downloaded are missing.

    The message lists what was tried, and where to get them.
    """


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """The up to `n` names of `known` that are spelt most like `name`, best first."""
    names = list(known)
    folded = {k.lower(): k for k in names}
    return [folded[m] for m in difflib.get_close_matches(name.lower(), list(folded), n, cutoff=0.5)]


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """A `UserError` for an unknown name that lists the nearest valid ones, or all of them.

    Example:
        >>> str(unknown("corpus", "wordnt", ["factors", "wordnet"]))
        "unknown corpus 'wordnt'. Did you mean 'wordnet'?"
    """
    names = sorted(known)
    close = nearest(name, names)
    if close:
        text = f"Did you mean {' or '.join(f'{c!r:.80}' for c in close)}?"
    else:
        text = f"Known: {', '.join(name[:80] for name in names)}" + ("." if hint else "")
    return UserError(" ".join(p for p in (f"unknown {kind} {name!r:.80}.", text, hint) if p))


def check_int(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Raise a `UserError` unless `value` is an integer from `least` to `most`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UserError(f"{name} must be an integer; got {value!r:.80}")
    if int(value) < least or (most is not None and int(value) > most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise UserError(f"{name} must be {limits}; got {value}")


def check_number(
    name: str, value: Any, least: float = 0, most: float = math.inf, *, above: bool = False
) -> None:
    """Raise a `UserError` unless `value` is a finite number from `least` to `most`.

    Args:
        name: What it is called in the message.
        value: The value.
        least: Lower limit.
        most: Upper limit.
        above: Exclude the lower limit.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number:
        raise UserError(f"{name} must be a finite number; got {value!r:.80}")
    if not least <= float(value) <= most or (above and value == least):
        limits = f"above {least}" if above else f"at least {least}"
        limits += "" if most == math.inf else f" and at most {most}"
        raise UserError(f"{name} must be {limits}; got {value}")


def check_seed(seed: Any) -> None:
    """Raise a `UserError` unless `seed` is None or one that torch can use."""
    if seed is not None:
        check_int("seed", seed, -(2**63), 2**64 - 1)


def check_types(values: Mapping[str, Any], kinds: Mapping[str, Any], where: str = "") -> None:
    """Raise a `UserError` for the first setting whose value is not of its type.

    Args:
        values: Values by name, as they are read from JSON.
        kinds: Type of each setting, of `int`, `float`, `bool`, `str`, `None`, `Literal`, `list`,
            `dict` and unions of them. An integer is also a `float`; NaN, infinity and integers
            beyond 64 bits are of no type.
        where: The file, for the message.
    """
    for name, kind in kinds.items():
        if name in values and not _is_of(values[name], kind):
            given, place = values[name], f"{where}: " if where else ""
            options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
            if isinstance(given, str) and (names := _literals(options)):
                error = unknown(name, given[:40], names)
                raise UserError(f"{place}{error}") if where else error
            expected = " or ".join(map(_type_name, options))
            raise UserError(f"{place}{name} must be of the type {expected}; got {given!r:.40}")


_PLAIN: dict[Any, type | tuple[type, ...]] = {
    int: int, float: (int, float), bool: bool, str: str, None: NoneType, NoneType: NoneType,
}  # fmt: skip


def _is_of(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is_of(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str | int) and value in inner
    if origin is list:
        return isinstance(value, list) and all(_is_of(item, inner[0]) for item in value)
    if kind is dict:
        return isinstance(value, dict)
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int) and abs(value) >= 2**63:
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, _PLAIN[kind])


def _literals(kinds: Iterable[Any]) -> list[str]:
    return [name for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if kind is NoneType:
        return "null"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
