"""What the forward passes of models receive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook


@contextmanager
def row_counts() -> Iterator[list[int]]:
    """Rows of token ids in each forward pass in this context, of any encoder or decoder."""
    rows: list[int] = []

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, nn.Embedding):
            rows.append(len(inputs[0]))

    handle = register_module_forward_hook(count)
    try:
        yield rows
    finally:
        handle.remove()
