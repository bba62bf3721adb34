"""Sentence encoders by hub id, folder or object."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from llamavae.metrics.semantic import Encoder
from llamavae.modeling.loading import load_sentence_encoder

EncoderSource: TypeAlias = str | Path | Encoder
"""A sentence encoder: a hub id, a folder, or any object with `encode`."""


def sentence_encoder(source: EncoderSource) -> Encoder:
    """Return a sentence encoder, which is loaded if it is given by name.

    Raises:
        UserError: The model cannot be found, read or reached.
    """
    return load_sentence_encoder(source) if isinstance(source, str | Path) else source
