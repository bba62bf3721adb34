"""Baselines of guided generation, with the same interface as the invertible CVAE.

Each has `generate(conditions, n, spread, seed, **options)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamavae.lazy import lazy_names

if TYPE_CHECKING:
    from llamavae.baselines.cvae import ConditionalVAE
    from llamavae.baselines.nearest import NearestNeighbour
    from llamavae.baselines.prompted import PromptedDecoder

__all__ = ["ConditionalVAE", "NearestNeighbour", "PromptedDecoder"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "llamavae.baselines.cvae": ["ConditionalVAE"],
        "llamavae.baselines.nearest": ["NearestNeighbour"],
        "llamavae.baselines.prompted": ["PromptedDecoder"],
    },
)
