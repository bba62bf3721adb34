"""A flow as one safetensors file: its weights, and its settings in the header."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from llamavae.errors import UserError
from llamavae.files import replacing
from llamavae.flows.architectures import build_flow
from llamavae.flows.flow import Flow


def save_flow(flow: Flow, path: str | os.PathLike[str], half: bool = False) -> None:
    """Write weights and settings to one safetensors file.

    Args:
        flow: The flow.
        path: The file.
        half: Store matrices in float16, at half the size; they are loaded as float32. Vectors
            are not converted, since scales of conditions can be too small for float16.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in flow.state_dict().items()}
    if half:
        tensors = {
            k: v.half() if v.is_floating_point() and v.ndim > 1 else v for k, v in tensors.items()
        }
        if large := [name for name, value in tensors.items() if not value.isfinite().all()]:
            raise UserError(f"{path}: too large for float16, or not finite: {', '.join(large)}")
    with replacing(path) as new:
        save_file(tensors, new, {"flow": json.dumps(flow.settings)})


_OLD = {"mean_hidden": "base_hidden", "mean_networks": "ensemble_size"}
"""Settings under the names that the bundled `mini-definitions` was saved with."""


def load_flow(path: str | os.PathLike[str]) -> Flow:
    """Load a flow saved by `save_flow`, in eval mode.

    Raises:
        UserError: The file is missing, damaged or does not contain a flow.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"the file of the flow does not exist: {path}")
    try:
        with safe_open(path, "pt") as file:
            saved: dict[str, Any] = dict(json.loads((file.metadata() or {})["flow"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        settings = {_OLD.get(name, name): value for name, value in saved.items()}
        dtype = tensors["affine.weight"].dtype
        flow = build_flow(**settings).to(torch.float32 if dtype == torch.float16 else dtype)
        flow.load_state_dict(tensors)
    except UserError as error:
        raise UserError(f"{path} is not a flow of this version of llamavae: {error}") from error
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is damaged or not a flow of llamavae: {error!r}") from error
    return flow.eval()
