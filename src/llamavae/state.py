"""State of a run beside its weights, as safetensors and JSON: optimiser, schedule, random numbers.

transformers' Trainer writes these as Python objects; a checkpoint of ours holds numbers alone.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llamavae.parsing import read_json


def save_optimizer(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Write `optimizer.safetensors` and `optimizer.json` into a checkpoint folder."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            target = tensors if isinstance(value, Tensor) else numbers
            target[f"{index}.{name}"] = value
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
        folder / "optimizer.safetensors",
    )
    settings = {
        "numbers": numbers,
        "groups": state["param_groups"],
        "scheduler": scheduler.state_dict(),
    }
    (folder / "optimizer.json").write_text(json.dumps(settings))


def load_optimizer(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Read what `save_optimizer` wrote."""
    settings = read_json(folder / "optimizer.json")
    state: dict[int, dict[str, Any]] = {}
    values = {**load_file(folder / "optimizer.safetensors"), **settings["numbers"]}
    for key, value in values.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = [
        {k: tuple(v) if k == "betas" else v for k, v in group.items()}
        for group in settings["groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    scheduler.load_state_dict(settings["scheduler"])


def save_random(folder: Path, process: int) -> None:
    """Write the states of Python's, numpy's and torch's generators of this process."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.array(keys))}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    save_file(tensors, folder / f"random-{process}.safetensors")
    numbers = {
        "python": [version, list(internal), gauss_next],
        "numpy": [str(kind), int(position), int(has_gauss), float(gauss)],
    }
    (folder / f"random-{process}.json").write_text(json.dumps(numbers))


def load_random(folder: Path, process: int) -> None:
    """Restore what `save_random` wrote; a run on more processes than before has none to restore."""
    path = folder / f"random-{process}.json"
    if not path.is_file():
        return
    numbers = read_json(path)
    tensors = load_file(folder / f"random-{process}.safetensors")
    version, internal, gauss_next = numbers["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, position, has_gauss, gauss = numbers["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy(), position, has_gauss, gauss))
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def save_positions(positions: dict[str, Any], folder: Path, process: int) -> None:
    """Write the positions of the shards of a streamed corpus that this process reads."""
    (folder / f"stream-{process}.json").write_text(json.dumps(positions))


def load_positions(folder: Path) -> dict[int, dict[str, Any]]:
    """The positions that all processes have saved, by number of the shard."""
    found = [read_json(path) for path in sorted(folder.glob("stream-*.json"))]
    return {int(shard): position for each in found for shard, position in each.items()}
