"""Lets the API pages show the sessions under `Example:` as code.

In Google style that is the title of a remark, and its text is read as Markdown; a section of code
is called `Examples:`.
"""

from __future__ import annotations

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Reads `Example:` as `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
