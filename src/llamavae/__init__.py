"""Sentence VAEs on pretrained encoders and decoders: text to a small continuous space and back.

Importing this package is quick; the names below load torch and transformers when first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamavae.modeling import LlaMaVAE, LlaMaVAEConfig

__all__ = ["LlaMaVAE", "LlaMaVAEConfig", "__version__"]

__version__ = version("llamavae")

_LAZY = {"LlaMaVAE": "llamavae.modeling", "LlaMaVAEConfig": "llamavae.modeling"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
