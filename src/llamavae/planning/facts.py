"""Public facts about models and devices, and the configs of models on this machine."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from llamavae.errors import UserError, unknown
from llamavae.parsing import read_json, read_yaml
from llamavae.planning.sizes import Sizes

CPU = "cpu"
ENCODERS = ("bert", "t5")
"""Architectures of encoders, except LSTMs."""
_GIB = 2**30


@dataclass(frozen=True)
class Device:
    """A device that a model is trained on.

    Attributes:
        name: Its name.
        memory: Its memory in bytes; None if unknown.
        flops: Peak floating-point operations per second by precision; empty if unknown.
    """

    name: str
    memory: float | None
    flops: dict[str, float]


@dataclass(frozen=True)
class Backbone:
    """What is known of a backbone without its weights.

    Attributes:
        sizes: Its sizes.
        dtype: Type of its stored weights.
        dense: Output size of the linear layer after the pooling of a sentence encoder; 0 for none.
    """

    sizes: Sizes
    dtype: str = "float32"
    dense: int = 0


def devices() -> dict[str, Device]:
    """The known devices by name: GPUs, and `cpu`, the memory of this machine."""
    known = {
        name: Device(
            name,
            values.pop("memory") * _GIB,
            {precision: value * 1e12 for precision, value in values.items()},
        )
        for name, values in _table("devices.yaml").items()
    }
    memory = None
    if sys.platform != "win32":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {CPU: Device(CPU, memory, {}), **known}


def find_device(name: str) -> Device:
    """A device by name.

    Raises:
        UserError: It is not known.
    """
    known = devices()
    if name.lower() not in known:
        raise unknown("device", name, known, "For another device pass --memory.")
    return known[name.lower()]


def find_backbone(source: str, which: str) -> Backbone:
    """The sizes of a backbone: of a folder with its `config.json`, or of a known model.

    Nothing is downloaded; a hub id that is not known is looked up in the hub's cache.

    Args:
        source: Name, hub id or folder.
        which: `encoder` or `decoder`, for the message.

    Raises:
        UserError: The model is not known, or its architecture is not supported.
    """
    folder = Path(source)
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        return _backbone(config, source, _dense(folder))
    known = _models()
    if source.lower() in known:
        config = known[source.lower()]
        return _backbone(config, source, config.get("dense", 0))
    from huggingface_hub import try_to_load_from_cache  # slow import

    path = try_to_load_from_cache(source, "config.json") if source.count("/") == 1 else None
    if isinstance(path, str):
        return _backbone(read_json(Path(path)), source, _dense(Path(path).parent))
    raise unknown(
        f"sizes of the {which}",
        source,
        model_names(which),
        "Or pass a folder with its config.json; the weights are not needed.",
    )


def _backbone(config: dict[str, Any], source: str, dense: int) -> Backbone:
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    if dtype not in ("float32", "float16", "bfloat16"):
        raise UserError(f"{source}: its config has the data type {dtype!r:.40}, which is unknown")
    return Backbone(Sizes.of(config, source), dtype, dense)


def _dense(folder: Path) -> int:
    """Output size of the linear layer of a sentence-transformers model; 0 for none."""
    path = next(iter(sorted(folder.glob("*_Dense/config.json"))), None)
    return 0 if path is None else int(read_json(path, {"out_features": int})["out_features"])


@cache
def _models() -> dict[str, dict[str, Any]]:
    """Configs of the known models by lower-case name."""
    return {name.lower(): model for model in _table("models.yaml") for name in model["names"]}


def model_names(which: str | None = None) -> list[str]:
    """Names of the known models.

    Args:
        which: `encoder` or `decoder`; None for both.
    """
    return [
        name
        for model in _table("models.yaml")
        for name in model["names"]
        if which in (None, "encoder" if model["model_type"] in ENCODERS else "decoder")
    ]


def _table(name: str) -> Any:
    text = (resources.files("llamavae.planning") / name).read_text(encoding="utf-8")
    return read_yaml(text, name, aliases=True)
