"""Errors that a user can act on: what was expected, what came, and what to do next."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
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


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a command as Ctrl-C does, with another exit status."""


_LISTED = 40  # maximum number of names in a message


def nearest(name: str, known: Iterable[str], n: int = 3, cutoff: float = 0.5) -> list[str]:
    """The up to `n` names of `known` that are spelt most like `name`, best first.

    Args:
        name: What was given.
        known: Valid names.
        n: Maximum number of names.
        cutoff: Minimum similarity, from 0 to 1.
    """
    folded = {k.lower(): k for k in known}
    return [folded[m] for m in difflib.get_close_matches(name.lower(), list(folded), n, cutoff)]


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """A `UserError` for an unknown name that lists the nearest valid ones, or all of them.

    If none is near and there are more than 40, it lists the five nearest.

    Example:
        >>> str(unknown("corpus", "wordnt", ["factors", "wordnet"]))
        "unknown corpus 'wordnt'. Did you mean 'wordnet'?"
    """
    names = sorted(known)
    close = nearest(name, names)
    if close:
        text = f"Did you mean {' or '.join(f'{c!r:.80}' for c in close)}?"
    else:
        intro, listed = "Known", names
        if len(names) > _LISTED:
            intro = f"The closest of {len(names)} known names"
            listed = nearest(name, names, 5, cutoff=0)
        text = f"{intro}: {', '.join(name[:80] for name in listed)}" + ("." if hint else "")
    return UserError(" ".join(p for p in (f"unknown {kind} {name!r:.80}.", text, hint) if p))


def counted(n: int, noun: str) -> str:
    """A number with its noun in the singular or plural.

    Example:
        >>> counted(1, "line"), counted(3000, "line")
        ('1 line', '3,000 lines')
    """
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


LARGEST = 2**31 - 1
"""Default upper limit of an integer: more than the number of rows that fit in memory."""


def check_int(name: str, value: Any, minimum: int = 1, maximum: int = LARGEST) -> None:
    """Raise a `UserError` unless `value` is an integer from `minimum` to `maximum`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UserError(f"{name} must be an integer; got {_short(value)}")
    if not minimum <= int(value) <= maximum:
        limits = f"from {minimum} to {maximum}"
        if maximum == LARGEST:
            limits = f"at least {minimum}" if value < minimum else f"at most {maximum}"
        raise UserError(f"{name} must be {limits}; got {_short(value)}")


def check_number(
    name: str, value: Any, minimum: float = 0, maximum: float = math.inf, *, above: bool = False
) -> None:
    """Raise a `UserError` unless `value` is a finite number from `minimum` to `maximum`.

    Args:
        name: What it is called in the message.
        value: The value.
        minimum: Lower limit.
        maximum: Upper limit.
        above: Exclude the lower limit.
    """
    try:
        is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        is_number = False
    if not is_number:
        raise UserError(f"{name} must be a finite number; got {_short(value)}")
    if not minimum <= float(value) <= maximum or (above and value == minimum):
        limits = f"above {minimum}" if above else f"at least {minimum}"
        limits += "" if maximum == math.inf else f" and at most {maximum}"
        raise UserError(f"{name} must be {limits}; got {_short(value)}")


def _short(value: Any) -> str:
    """A value in at most 80 characters; Python refuses to print integers of many digits."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    return f"{value!r:.80}" if not isinstance(value, Real) else f"{value!s:.80}"


def check_path(value: Any, expected: str = "the path of a folder or a file") -> Path:
    """The path that `value` is.

    Args:
        value: A path or a string.
        expected: What it must be, for the message.

    Raises:
        UserError: It is empty, of another type, or one that no file system has.
    """
    reason = ""
    if not isinstance(value, str | os.PathLike):
        reason = type(value).__name__
    elif not os.fspath(value):
        reason = "an empty name"
    else:
        try:
            os.lstat(Path(value).expanduser())
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            pass
        except (ValueError, OSError, RuntimeError) as error:  # NUL, too long, an unknown home
            reason = getattr(error, "strerror", None) or str(error)
    if reason:
        raise UserError(f"expected {expected}; got {_short(value)[:40]} ({reason})")
    return Path(value)


def check_utf8(path: str | os.PathLike[str]) -> None:
    """Raise a `UserError` for a path that is not in UTF-8, which Parquet and tokenizers cannot use.

    Args:
        path: A path, absolute or relative to the working directory.
    """
    try:
        str(Path(path).absolute()).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the path {os.fspath(path)!r:.200} is not in UTF-8. Choose another name, or rename "
            "its folder"
        ) from error


_ON_CPU, _ON_GPU = "DefaultCPUAllocator", "out of memory"  # in messages of torch


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy or torch says that memory is exhausted."""
    return isinstance(error, MemoryError) or _ON_CPU in str(error) or _ON_GPU in str(error)


@contextmanager
def memory_errors(what: str, advice: str) -> Iterator[None]:
    """Raise a `UserError` if the memory of the CPU does not suffice for `what`.

    torch's `OutOfMemoryError` of a GPU is not changed.

    Args:
        what: What needs the memory, for the message.
        advice: What to do, a sentence without a full stop.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error) or _ON_GPU in str(error):
            raise
        raise UserError(f"not enough memory for {what}. {advice}") from error


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
