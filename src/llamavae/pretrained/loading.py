"""Loading transformers models, with instructive errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import PreTrainedModel

from llamavae.errors import UserError, nearest


@contextmanager
def hub_errors(kind: str, source: str) -> Iterator[None]:
    """Turn failures to reach or find a model into a `UserError` about `source`."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except TypeError as error:  # an option that the model does not know
        raise UserError(f"could not load the {kind} {source!r}: {error}") from error
    except (OSError, HfHubHTTPError, ValueError, RuntimeError, SafetensorError) as error:
        folder = Path(source)
        if folder.is_dir():
            found = ", ".join(sorted(p.name for p in folder.iterdir())[:12]) or "nothing"
            raise UserError(
                f"the folder {source} does not hold a usable {kind} (found there: {found}): {error}"
            ) from error
        if _missing_folder(source):
            near = nearest(folder.name, [path.name for path in folder.parent.glob("*")])
            hint = f" Did you mean {folder.parent / near[0]}?" if near else ""
            raise UserError(
                f"there is no folder {source} to load the {kind} from.{hint}"
            ) from error
        if isinstance(_root(error), RepositoryNotFoundError):
            raise UserError(
                f"the hub has no {kind} {source!r} that you can read. Check its spelling; for a "
                "private or gated model log in with `hf auth login`"
            ) from error
        raise UserError(
            f"could not load the {kind} {source!r}: {_root(error)}\n"
            "If the hub cannot be reached from here, download the model on another machine "
            f"(`hf download {source} --local-dir FOLDER`) and pass the folder instead of the id"
        ) from error


def load_whole(kind: Any, source: str | os.PathLike[str], **options: Any) -> PreTrainedModel:
    """Load a pretrained model; missing weights, which transformers would initialise, are an error.

    Args:
        kind: A class of transformers that has `from_pretrained`.
        source: Hub id or folder.
        **options: Arguments of `from_pretrained`.

    Raises:
        UserError: Weights are missing, except those of BERT's pooler, which is not used.
    """
    model, report = kind.from_pretrained(source, output_loading_info=True, **options)
    lost = sorted(name for name in report["missing_keys"] if "pooler." not in name)
    if lost and "quantization_config" not in options:
        raise UserError(
            f"{source} does not hold all weights of a {type(model).__name__}: {len(lost)} are "
            f"missing, {lost[0]} among them. Either it is damaged, or it is a model of another kind"
        )
    return model


def is_gguf(source: str | os.PathLike[str]) -> bool:
    """Whether a model's source is a GGUF file, by its name."""
    return Path(source).suffix.lower() == ".gguf"


def _missing_folder(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source


def _root(error: BaseException) -> BaseException:
    seen = error
    while seen.__cause__ is not None and not isinstance(seen, LocalEntryNotFoundError):
        seen = seen.__cause__
    return seen
