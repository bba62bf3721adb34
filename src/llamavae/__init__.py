"""Sentence VAEs on pretrained encoders and decoders: text to a small continuous space and back.

Importing this package is quick; the names below load torch and transformers when first used.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from llamavae.lazy import lazy_names

if TYPE_CHECKING:
    from llamavae.guidance import InvertibleCVAE
    from llamavae.modeling import LlaMaVAE, LlaMaVAEConfig

__all__ = ["InvertibleCVAE", "LlaMaVAE", "LlaMaVAEConfig", "__version__"]

__version__ = version("llamavae")

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "llamavae.guidance": ["InvertibleCVAE"],
        "llamavae.modeling": ["LlaMaVAE", "LlaMaVAEConfig"],
    },
)
