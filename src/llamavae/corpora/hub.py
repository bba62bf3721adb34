"""Datasets of the Hugging Face hub, and local folders in any layout that `datasets` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset
from datasets.config import HF_DATASETS_CACHE
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from llamavae.corpora.corpus import Request, Sentences
from llamavae.corpora.files import check_header
from llamavae.corpora.text import choose_column
from llamavae.errors import UserError

_PATIENCE = 3.0  # timeout in seconds for reaching the hub
_SAMPLE = 100  # number of rows used to find the column with the sentences


def load(name: str, request: Request) -> dict[str, Sentences]:
    """The splits of a dataset, each with its sentences in a column `text`.

    Args:
        name: Id on the hub, or a local folder: data files, or the output of `save_to_disk`.
        request: What to read. Its column is called `text` in the result and replaces another
            column of this name. A stream is read while iterating instead of downloaded first.

    Raises:
        UserError: The hub cannot be reached, or there is no such dataset, configuration or column.
    """
    splits = open_splits(
        name, config=request.config, revision=request.revision, streaming=request.streaming
    )
    return {split: _with_text(data, request.column, name) for split, data in splits.items()}


def open_splits(
    name: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    data_files: str | Sequence[str] | None = None,
) -> Mapping[str, Sentences]:
    """`datasets.load_dataset` with instructive errors; columns are not changed."""
    folder = Path(name)
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            saved = datasets.load_from_disk(name)
            splits = {"train": saved} if isinstance(saved, Dataset) else saved
            if streaming:
                return {str(s): data.to_iterable_dataset() for s, data in splits.items()}
        else:
            if data_files is None and not folder.exists():
                _check_hub(name)
            splits = datasets.load_dataset(
                name, config, revision=revision, streaming=streaming, data_files=data_files
            )
    except DatasetNotFoundError as error:
        raise UserError(
            f"no dataset {name!r} on the hub, or it is private or gated "
            f"(then log in with `hf auth login`). {_LOCAL}"
        ) from error
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise _cannot_load(data_files or name, error) from error
    return {str(split): data for split, data in splits.items()}  # type: ignore[union-attr]


def _check_hub(name: str) -> None:
    """Raise a `ConnectionError` if there is no network, after which `datasets` retries for long."""
    cached = Path(HF_DATASETS_CACHE, name.replace("/", "___")).is_dir()
    if constants.HF_HUB_OFFLINE or cached:
        return
    try:
        HfApi().dataset_info(name, timeout=_PATIENCE)
    except (HfHubHTTPError, ValueError):
        return  # `datasets` finds out why
    except Exception as error:  # of the client below, which may be another tomorrow
        raise ConnectionError(str(error)) from error


_LOCAL = (
    "Or pass a local copy: a file (.txt, .jsonl, .csv, .tsv, .parquet) or a folder of such files, "
    "instead of the name"
)


def _cannot_load(name: object, error: Exception) -> UserError:
    reason = str(error.__cause__ or error).strip().split("\n")[0]
    if isinstance(error, ConnectionError):
        return UserError(
            f"cannot load {name!r}: the Hugging Face hub cannot be reached ({reason}). Check the "
            f"network, and that HF_HUB_OFFLINE is not set. {_LOCAL}"
        )
    return UserError(f"cannot load {name!r}: {reason.rstrip('.')}")


def _with_text(data: Sentences, column: str | None, where: str) -> Sentences:
    try:
        rows: list[Any] = list(islice(iter(data), _SAMPLE))
    except (OSError, DatasetsError) as error:
        raise _cannot_load(where, error) from error
    if not rows:
        raise UserError(f"{where} has no rows")
    if column is None and any(Path(where).rglob("*.[ct]sv*")):
        # `datasets` calls a column without a name "Unnamed: 0"
        check_header([name.replace("Unnamed:", "") for name in rows[0]], where)
    column = choose_column(rows, column, where)
    if column == "text":
        return data
    if any("text" in row for row in rows):
        data = data.remove_columns("text")
    return data.rename_column(column, "text")
