"""Data: sentences that are tokenised and encoded once, cached on disk, and batched by length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamavae.lazy import lazy_names

if TYPE_CHECKING:
    from llamavae.data.batches import Collator, LengthGroupedSampler, steps_per_epoch
    from llamavae.data.sentences import SentenceData, SentenceStream, prepare, sentence_vectors

__all__ = [
    "Collator",
    "LengthGroupedSampler",
    "SentenceData",
    "SentenceStream",
    "prepare",
    "sentence_vectors",
    "steps_per_epoch",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "llamavae.data.batches": ["Collator", "LengthGroupedSampler", "steps_per_epoch"],
        "llamavae.data.sentences": [
            "SentenceData",
            "SentenceStream",
            "prepare",
            "sentence_vectors",
        ],
    },
)
