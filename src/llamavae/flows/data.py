"""Data of a flow: vectors, their contexts, and the standard deviations of their noise."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from llamavae.errors import UserError, counted


@dataclass(frozen=True)
class FlowData:
    """Data to fit: x (N, D), contexts c (N, C) or None, and noise (N, D) or None.

    With noise, each use draws x + noise * eps; x are then posterior means, and noise the posterior
    standard deviations.
    """

    x: Tensor
    c: Tensor | None = None
    noise: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Tensor) -> FlowData:
        """The rows with these indices."""
        c, noise = (None if t is None else t[index] for t in (self.c, self.noise))
        return FlowData(self.x[index], c, noise)

    def draw(self, generator: torch.Generator) -> Tensor:
        """X with its noise, shape (N, D)."""
        if self.noise is None:
            return self.x
        return self.x + self.noise * torch.randn(self.x.shape, generator=generator)

    def checked(self, what: str, features: int, context: int) -> FlowData:
        """Check the shapes and values, and return the data on the CPU, detached.

        Args:
            what: Description of the rows, for errors.
            features: Size D.
            context: Size C; 0 for a flow without context.

        Raises:
            UserError: Shapes do not match, or values are not finite.
        """
        if (self.c is None) != (context == 0):
            came = "none" if self.c is None else f"one of shape {tuple(self.c.shape)}"
            wanted = f"a context c of shape (N, {context})" if context else "no context"
            raise UserError(f"{what}: expected {wanted}; got {came}")
        for name, values, size in (
            ("x", self.x, features),
            ("c", self.c, context),
            ("noise", self.noise, features),
        ):
            if values is None:
                continue
            rows = "N" if name == "x" else str(len(self))
            if values.ndim != 2 or values.shape[1] != size or len(values) != len(self):
                raise UserError(
                    f"{what}: expected {name} of shape ({rows}, {size}); got {tuple(values.shape)}"
                )
            bad = (~values.float().isfinite()).any(1).nonzero().flatten().tolist()
            if bad:
                raise UserError(
                    f"{what}: {name} has NaN or infinite values in {counted(len(bad), 'row')}: "
                    f"{', '.join(map(str, bad[:5]))}{', ...' if len(bad) > 5 else ''}"
                )
        c, noise = (None if t is None else t.detach().cpu() for t in (self.c, self.noise))
        return FlowData(self.x.detach().cpu(), c, noise)

    def digest(self) -> str:
        """A hash of all values."""
        found = hashlib.blake2b(digest_size=16)
        for values in (self.x, self.c, self.noise):
            if values is not None:
                found.update(values.double().numpy().tobytes())
        return found.hexdigest()
