"""Vectors given by the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llamavae.errors import UserError
from llamavae.guidance.conditions.condition import Condition


class VectorCondition(Condition):
    """Vectors given by the user, without a text form.

    A condition is a vector (C,); a tensor or array (B, C) represents B conditions.

    Args:
        dim: Size C of a vector.
    """

    name = "vectors"

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise UserError(f"dim must be at least 1; got {dim}")
        self.dim = dim

    def text(self, condition: Any) -> str:
        """The first numbers."""
        return f"[{', '.join(f'{float(value):.3g}' for value in condition[:3])}, ...]"

    def vectors(self, conditions: Sequence[Any] | Tensor | np.ndarray) -> Tensor:
        """The same numbers (B, C), checked."""
        values = conditions
        if isinstance(conditions, Tensor):
            values = conditions.detach().float().cpu().numpy()
        words = [one for one in values if isinstance(one, str)]
        if words:
            raise UserError(
                f"expected a condition of {self.dim} numbers; got a text, {words[0]!r}. In Python, "
                f"pass a tensor (B, {self.dim}); for a CODWOE file, name the vectors (--vectors)"
            )
        if len(values) == 0:
            return torch.empty(0, self.dim)
        from llamavae.corpora.matrices import check_matrix

        matrix = check_matrix(values, "the conditions")
        if matrix.shape[1] != self.dim:
            raise UserError(
                f"expected conditions of {self.dim} numbers; got rows of {matrix.shape[1]}"
            )
        return torch.tensor(matrix)

    def settings(self) -> dict[str, Any]:
        """Name and size."""
        return {"name": self.name, "dim": self.dim}
