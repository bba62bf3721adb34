"""Text of models and files for a terminal."""

from __future__ import annotations

import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Text in which control characters are shown as `\uXXXX`, which is also their form in JSON.

    Control characters can hide text, change the title of a window, or type commands in some
    terminals. Unpaired surrogates and overrides of the writing direction count as such; tabs and
    line breaks do not.

    Example:
        >>> print(printable("a\x1b[2J b"))
        a\u001b[2J b
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
