"""Sentence encoders by hub id, folder or object."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from llamavae.metrics.semantic import Encoder
from llamavae.modeling import SentenceEncoder

EncoderSource: TypeAlias = str | Path | Encoder
"""A sentence encoder: a hub id, a folder, or anything with `encode`."""


def sentence_encoder(source: EncoderSource) -> Encoder:
    """A sentence encoder, loaded if it is named.

    Raises:
        UserError: The model cannot be found, read or reached.
    """
    return SentenceEncoder.load(source) if isinstance(source, str | Path) else source
