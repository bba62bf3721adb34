"""Models that come with the library, a folder each: they load by name, without a network.

`mini` is a small open-domain `LlaMaVAE`; `mini-definitions` is an `InvertibleCVAE` on it that leads
from a word to its definition and back. Each has a model card, README.md, in its folder.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def shipped_names() -> list[str]:
    """Names of the models that come with the library."""
    here = Path(str(resources.files(__name__)))
    return sorted(path.parent.name for path in here.glob("*/config.json"))


def shipped(name: str) -> Path | None:
    """The folder of a model that comes with the library; None where there is none of that name."""
    return Path(str(resources.files(__name__))) / name if name in shipped_names() else None
