"""Errors that a user can act on: what was expected, what came, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
        text = f"Did you mean {' or '.join(repr(c) for c in close)}?"
    else:
        text = f"Known: {', '.join(names)}" + ("." if hint else "")
    return UserError(" ".join(p for p in (f"unknown {kind} {name!r}.", text, hint) if p))
