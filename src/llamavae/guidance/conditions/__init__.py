"""Conditions as vectors c: a word, a word in a sentence, labels, or numbers."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from llamavae.errors import UserError, check_types, unknown
from llamavae.guidance.conditions.condition import Condition as Condition
from llamavae.guidance.conditions.condition import read_column as read_column
from llamavae.guidance.conditions.encoder import EncoderCondition as EncoderCondition
from llamavae.guidance.conditions.labels import LabelCondition as LabelCondition
from llamavae.guidance.conditions.vector import VectorCondition as VectorCondition
from llamavae.guidance.conditions.word_vectors import WordVectorCondition as WordVectorCondition
from llamavae.modeling import SentenceEncoder
from llamavae.modeling.names import Pooling

CONDITIONS: dict[str, type[Condition]] = {
    condition.name: condition
    for condition in (EncoderCondition, WordVectorCondition, LabelCondition, VectorCondition)
}
"""Maps names to condition classes."""

_KINDS: dict[str, Any] = {
    "name": str,
    "dim": int,
    "context_weight": float,
    "source": str,
    "revision": str | None,
    "pooling": Pooling | None,
    "fingerprint": str,
    "path": str,
    "bytes": int,
    "values": dict,
}
"""Types of the settings of all conditions."""


def load_condition(
    settings: Mapping[str, Any],
    encoder: SentenceEncoder | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    words: Collection[str] | None = None,
) -> Condition:
    """Rebuild a condition from its settings.

    Args:
        settings: Result of its `settings()`.
        encoder: The sentence encoder of the VAE, if it has one.
        path: For word vectors or a separate sentence encoder: the new path, if it has changed.
        words: For word vectors: the words to read; None reads the whole file.

    Raises:
        UserError: The condition is unknown, its encoder or file of word vectors is missing or a
            different one, or the condition does not take a path.
    """
    check_types(settings, _KINDS, "the condition")
    if settings["name"] not in CONDITIONS:
        raise unknown("condition", settings["name"], CONDITIONS)
    try:
        return CONDITIONS[settings["name"]].from_settings(settings, encoder, path, words)
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the settings of the condition are damaged: {error}. Copy the model again"
        ) from error
