"""A VAE with refined codes, as a system for the evaluators."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llamavae.modeling import DiagonalGaussian, LlaMaVAE, Refinement
from llamavae.modeling.checkpoint import trained_fingerprint


class RefinedSystem:
    """A `LlaMaVAE` that encodes by `LlaMaVAE.refine`; refined posteriors are cached.

    All other attributes are those of the model.

    Args:
        model: The VAE, with its encoder.
        refine: Number of steps, or the settings.
    """

    def __init__(self, model: LlaMaVAE, refine: int | Refinement) -> None:
        self.model, self.refinement = model, Refinement.of(refine)
        self._found: dict[str, tuple[Tensor, Tensor]] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # not set yet, as while copying
            raise AttributeError(name)
        return getattr(self.model, name)

    def encode(self, texts: str | Sequence[str], batch_size: int = 32) -> DiagonalGaussian:
        """Refined posteriors, as `LlaMaVAE.encode` with `refine` returns them.

        Args:
            texts: One text or several.
            batch_size: Maximum number of texts per forward pass of the decoder.
        """
        wanted = [texts] if isinstance(texts, str) else list(texts)
        if new := [text for text in dict.fromkeys(wanted) if text not in self._found]:
            q = self.model.refine(new, self.refinement, batch_size=batch_size)
            self._found.update(zip(new, zip(q.mean, q.logvar, strict=True), strict=True))
        if not wanted:
            return self.model.encode([])
        rows = (self._found[text] for text in wanted)
        mean, logvar = (torch.stack(part) for part in zip(*rows, strict=True))
        return DiagonalGaussian(mean, logvar)

    def system_fingerprint(self) -> str:
        """A hash of the model and of the settings of the refinement."""
        settings = json.dumps(self.refinement.settings(), sort_keys=True)
        text = trained_fingerprint(self.model) + settings
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
