"""The schedule of the learning rate."""

from __future__ import annotations

import math


def warmup_cosine(step: int, total: int, warmup: int, first: int = 0) -> float:
    """Factor on the peak learning rate: linear warm-up, then cosine decay to 0.

    Args:
        step: Number of finished steps.
        total: Number of steps of the training.
        warmup: Number of warm-up steps, of which step i has the factor (i + first) / warmup.
        first: 0 starts the warm-up at 0, 1 at 1 / warmup.

    Example:
        >>> [round(warmup_cosine(step, 6, 2), 2) for step in range(7)]
        [0.0, 0.5, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step < warmup:
        return (step + first) / warmup
    decay = min((step - warmup) / max(1, total - warmup), 1.0)
    return 0.5 * (1 + math.cos(math.pi * decay))
