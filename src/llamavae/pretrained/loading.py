"""Loading pretrained models from folders of numbers and settings, with instructive errors.

Models of transformers and sentence-transformers are loaded from a folder that `model_folder` has
checked: without code of the model, without unpickling, and without the network.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from llamavae.errors import UserError, check_types, nearest, unknown
from llamavae.parsing import damage_errors, read_json
from llamavae.pretrained.catalogue import CATALOGUE, bundled, bundled_names

SAFE = {"trust_remote_code": False, "local_files_only": True}
"""Arguments of every `from_pretrained` of a model."""

_CONFIGS = ("*config*.json", "modules.json", "*.index.json")
PARTS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.spm", "*.tiktoken", "*.vocab"]
"""Patterns of the files of a hub repository that are downloaded."""
_UNUSED = ["original/*", "consolidated*", "onnx/*", "openvino/*"]
_ARGUMENTS = {  # of `from_pretrained`, which a model must not set by itself
    "adapter_kwargs",
    "allow_all_kernels",
    "gguf_file",
    "kernel_config",
    "trust_remote_code",
    "use_kernels",
    "weights_only",
}


_DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def check_placement(dtype: Any = None, device_map: Any = None, **_: Any) -> None:
    """Check the dtype and the device that a model is loaded with, before anything is loaded.

    Raises:
        UserError: The dtype is not one of weights, or the device is unknown or not available.
    """
    name = str(dtype).removeprefix("torch.")
    if dtype is not None and not isinstance(dtype, dict) and name not in _DTYPES:
        raise unknown("dtype", name, _DTYPES)
    if isinstance(device_map, str | int | torch.device) and device_map not in _DEVICE_MAPS:
        find_device(device_map)


def emulates_bfloat16() -> bool:
    """Whether bfloat16 is slow here: no accelerator, and a CPU without instructions for it."""
    if torch.accelerator.is_available():
        return False
    capabilities = torch.cpu.get_capabilities()
    return not any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def find_device(name: str | int | torch.device) -> torch.device:
    """The device of that name.

    Raises:
        UserError: It is unknown, or not available on this machine.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise UserError(
            f"unknown device {name!r:.40}: expected cpu, cuda, cuda:1, mps or auto"
        ) from error
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if accelerator else 0
    there = accelerator is not None and accelerator.type == device.type
    if device.type != "cpu" and not (there and (device.index or 0) < count):
        here = f"cpu, {count} x {accelerator.type}" if accelerator else "cpu"
        raise UserError(f"device {str(name)!r} is not available; available: {here}")
    return device


def placement(device: str | None, dtype: str | None) -> dict[str, Any]:
    """Options of `LlaMaVAE.from_pretrained` for a device and a dtype.

    Args:
        device: Name of a device, or auto; None for a GPU if there is one.
        dtype: Data type of the decoder's weights; None for the default.

    Raises:
        UserError: The device is unknown, or not available on this machine.
    """
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = accelerator.type if accelerator else "cpu"
    cpu = device != "auto" and find_device(device).type == "cpu"
    return options if cpu else options | {"device_map": device}


@contextmanager
def hub_errors(kind: str, source: str, options: Collection[str] = ()) -> Iterator[None]:
    """Turn failures to reach or find a model into a `UserError` about `source`.

    Args:
        kind: What is loaded, for the message.
        source: Where from.
        options: Names of the caller's options, which may be the cause.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except TypeError as error:  # an option that the model does not know
        raise UserError(f"could not load the {kind} {source!r}: {_short(error)}") from error
    except (
        OSError,
        HfHubHTTPError,
        ValueError,
        RuntimeError,
        SafetensorError,
        AttributeError,
        ImportError,
        LookupError,
    ) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"the {kind} {source!r} needs Python code of its own, which is never run. Use a "
                "model of an architecture that is part of transformers or sentence-transformers"
            ) from error
        folder = Path(source)
        if folder.is_dir():
            found = ", ".join(sorted(p.name for p in folder.iterdir())[:12]) or "nothing"
            given = f", or not one for the options {', '.join(options)}" if options else ""
            raise UserError(
                f"the folder {source} does not hold a usable {kind}{given} (found there: {found}): "
                f"{_short(error)}"
            ) from error
        if folder.is_file():
            if kind == "decoder" and is_gguf(source):
                raise UserError(f"could not load the decoder {source}: {_short(error)}") from error
            raise UserError(
                f"{source} is a file; expected the folder or the hub id of a {kind}"
            ) from error
        if bundled(source):
            raise UserError(f"the bundled model {source!r} cannot be used as a {kind}") from error
        if _missing_folder(source) or isinstance(error, HFValidationError):
            near = nearest(folder.name, [path.name for path in folder.parent.glob("*")])
            hint = f" Did you mean {folder.parent / near[0]}?" if near else ""
            raise UserError(
                f"there is no folder {source} to load the {kind} from.{hint}"
            ) from error
        if "/" not in source and (near := nearest(source, _named_models(), 1, cutoff=0.75)):
            raise UserError(f"there is no {kind} {source!r}. Did you mean {near[0]!r}?") from error
        if isinstance(_root(error), RepositoryNotFoundError):
            raise UserError(
                f"the hub has no {kind} {source!r} that you can read. Check its spelling; for a "
                "private or gated model log in with `hf auth login`"
            ) from error
        root = _root(error)
        if isinstance(root, LocalEntryNotFoundError | OfflineModeIsEnabled):
            why = "there is no such folder or downloaded model, and the hub cannot be reached"
            then = "Download"
        else:
            why, then = _short(root), "If the hub cannot be reached from here, download"
        command = shlex.join(["hf", "download", source, "--local-dir", "FOLDER"])
        raise UserError(
            f"could not load the {kind} {source!r}: {why}\n{then} the model on another machine "
            f"(`{command}`) and pass the folder instead of the id"
        ) from error


def model_folder(source: str, revision: str | None = None, **hub: Any) -> str:
    """The folder of a pretrained model: `source`, or a download of the hub id `source`.

    Args:
        source: Folder or hub id.
        revision: Branch, tag or commit of the hub repository.
        **hub: `token`, `cache_dir` and `local_files_only`.

    Raises:
        UserError: The model has weights only as a pickle, or its settings name code, a kernel, an
            adapter or a file outside of the folder.
    """
    folder = Path(source)
    local = folder.is_dir()
    if not local:
        hub = {**hub, "allow_patterns": PARTS, "ignore_patterns": _UNUSED}
        folder = Path(snapshot_download(source, revision=revision, **hub))
    for path in sorted({path for pattern in _CONFIGS for path in folder.rglob(pattern)}):
        check_config(path)
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{source} holds an adapter, which names another model. Merge the two with PEFT's "
            "merge_and_unload, save the result in a new folder, and pass that folder"
        )
    pickled = {path.parent for path in folder.rglob("pytorch_model*.bin")}
    nothing = not local and not any(folder.rglob("*.safetensors"))
    if nothing or not all(any(place.glob("*.safetensors")) for place in pickled):
        raise UserError(
            f"{source} has no weights in a safetensors file, the only format that is read: pickled "
            "weights, such as pytorch_model.bin, can run code. Convert them, for example with "
            "https://huggingface.co/spaces/safetensors/convert (see docs/explanation/security.md)"
        )
    return str(folder)


def shard_names(index: Path) -> set[str]:
    """Names of the files that an index of a sharded checkpoint lists.

    Raises:
        UserError: The index is damaged, or names a file that is not a safetensors file beside it.
    """
    with damage_errors(index):
        names = set(read_json(index, {"weight_map": dict})["weight_map"].values())
    for name in names:
        plain = isinstance(name, str) and not set(name) & set("/\\:") and name != ".safetensors"
        if not plain or not name.endswith(".safetensors"):
            raise UserError(
                f"{index} names {name!r}; expected names of safetensors files in its own folder. "
                "Copy the model again from a source that you trust"
            )
    return names


def load_tokenizer(folder: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a folder of `model_folder`."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def load_whole(kind: Any, folder: str | os.PathLike[str], **options: Any) -> PreTrainedModel:
    """Load a pretrained model; missing weights, which transformers would initialise, are an error.

    Args:
        kind: A class of transformers that has `from_pretrained`.
        folder: A folder of `model_folder`.
        **options: Arguments of `from_pretrained`.

    Raises:
        UserError: Weights are missing, except those of BERT's pooler, which is not used.
    """
    options |= SAFE | {"use_safetensors": True}
    model, report = kind.from_pretrained(folder, output_loading_info=True, **options)
    lost = sorted(name for name in report["missing_keys"] if "pooler." not in name)
    if lost and "quantization_config" not in options:
        raise UserError(
            f"{folder} does not hold all weights of a {type(model).__name__}: {len(lost)} are "
            f"missing, {lost[0]} among them. Either it is damaged, or it is a model of another kind"
        )
    return model


def is_gguf(source: str | os.PathLike[str]) -> bool:
    """Whether a model's source is a GGUF file, by its name."""
    return Path(source).suffix.lower() == ".gguf"


def check_config(path: Path) -> None:
    """Raise a `UserError` if a settings file names a kernel, a file elsewhere, or unsafe options.

    transformers downloads and runs a kernel for an attention or expert implementation of the form
    `owner/name`. sentence-transformers passes the `..._args` of a module to `from_pretrained`.
    """
    if path.name.endswith(".index.json"):
        shard_names(path)
        return
    if path.name == "modules.json":
        with damage_errors(path):
            modules = json.loads(path.read_text(encoding="utf-8"))
            check_types({"modules": modules}, {"modules": list[dict]}, str(path))
    else:
        modules = [read_json(path)]
    for key, value in _entries(modules):
        kernel = key.rpartition("_")[2] in ("implementation", "internal") and "/" in str(value)
        inside = isinstance(value, dict) and key.endswith(("_args", "_kwargs"))
        unsafe = sorted(_ARGUMENTS & value.keys()) if inside else []
        foreign = key == "activation_function" and re.match(r"(?!torch\.).+\.", str(value))
        if kernel or foreign or unsafe:
            found = f"{unsafe[0]} in {key}" if unsafe else f"{key} = {value!r}"
            raise UserError(
                f"{path} sets {found}, which can run code. Remove it from a copy of the model"
            )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys of nested JSON objects, with their values."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case dict() as entries:
                yield from entries.items()
                waiting += entries.values()
            case list() as items:
                waiting += items


def _named_models() -> list[str]:
    """Names of the models that can be downloaded by name, and of the bundled ones."""
    return [*CATALOGUE, *bundled_names()]


def _missing_folder(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source


def _short(error: BaseException) -> str:
    """The message of another library's error in one line of at most 200 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def _root(error: BaseException) -> BaseException:
    seen = error
    while seen.__cause__ is not None and not isinstance(seen, LocalEntryNotFoundError):
        seen = seen.__cause__
    return seen
