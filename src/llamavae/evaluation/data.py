"""Sentences for an evaluation, by default of the corpus that the model was trained on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from llamavae.corpora import load_corpus
from llamavae.corpora.splits import fold
from llamavae.errors import UserError, check_types
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.parsing import damage_errors, read_json, read_yaml

logger = logging.getLogger(__name__)

_STREAMED = 200_000  # training sentences that are read from a streamed corpus


def evaluation_data(
    corpus: str | Path | None = None,
    split: str | None = "test",
    *,
    recipe: Mapping[str, Any] | None = None,
    limit: int | None = 500,
    seed: int = 0,
    labels: Sequence[str] | None = None,
    progress: bool = False,
    **options: Any,
) -> EvaluationData:
    """Held-out sentences with their labels, and the training sentences of the system.

    Training sentences are excluded from the held-out sentences.

    Args:
        corpus: As for `load_corpus`. None uses the corpus of the recipe, or the first of several.
        split: train, validation or test; None for all.
        recipe: Contents of the recipe.yaml of the system, which names its training data. Without
            it, the training split of `corpus` is assumed, if it has one.
        limit: Maximum number of sentences, chosen at random with `seed`.
        seed: Seed of that choice and of the evaluation.
        labels: Columns with labels. None uses columns of strings, integers or booleans in which
            some values differ and some are equal.
        progress: Show progress on stderr.
        **options: Further options of `load_corpus`.

    Raises:
        UserError: There is no corpus, it cannot be read, or it lacks a column of `labels`.
    """
    if corpus is None:
        if recipe is None:
            raise UserError(
                "the model has no training run that names its corpus. Pass a corpus, a file of "
                "sentences or a hub id"
            )
        corpus, options = str(recipe["corpus"]["name"]), _options(recipe["corpus"]) | options
    data = load_corpus(corpus, split, limit=limit, seed=seed, **options)
    if recipe is not None:
        training = _training_texts(_parts(recipe))
    else:
        training = [] if split in ("train", None) else _training_texts([(corpus, options)])
    seen = set(map(fold, training))
    kept = [i for i, text in enumerate(data["text"]) if fold(text) not in seen]
    if len(kept) < 2:
        where, whole = (f", split {split}", "split=None (--split all), ") if split else ("", "")
        raise UserError(
            f"{corpus}{where}: expected at least 2 sentences that the system was not trained on; "
            f"got {len(kept)} of {len(data)}. Use {whole}another corpus, or a larger one"
        )
    data = data.select(kept)
    found = label_columns(data, str(corpus), labels)
    return EvaluationData(list(data["text"]), found, training, seed, progress)


def _parts(recipe: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and options of each corpus that a recipe trains on."""
    corpus = recipe["corpus"]
    usual = _STREAMED if corpus["streaming"] else None
    return [
        (part["name"], _options(part) | {"limit": part["limit"] or usual})
        for part in (corpus, *corpus.get("mix", []))
    ]


def _options(part: Mapping[str, Any]) -> dict[str, Any]:
    names = ("path", "column", "config", "revision", "min_words", "max_words")
    return {name: part[name] for name in names}


def _training_texts(parts: Sequence[tuple[str | Path, Mapping[str, Any]]]) -> list[str]:
    texts: list[str] = []
    for name, options in parts:
        try:
            texts += load_corpus(name, "train", **options)["text"]
        except UserError as error:
            logger.warning("could not read the training sentences: %s", error)
    return texts


def label_columns(
    data: Dataset, corpus: str, names: Sequence[str] | None = None
) -> dict[str, list[Hashable]]:
    """Columns with labels.

    Args:
        data: Sentences in a column `text`, with further columns.
        corpus: Name of the corpus, for errors.
        names: The columns. None uses columns of strings, integers or booleans in which some values
            differ and some are equal.

    Raises:
        UserError: There is no such column.
    """
    columns = [name for name in data.column_names if name != "text"]
    for name in names or []:
        if name not in columns:
            raise UserError(
                f"{corpus} has no column {name!r} of labels; it has {', '.join(columns) or 'none'}"
            )
    found = {name: data[name][:] for name in (columns if names is None else names)}
    return {n: values for n, values in found.items() if names is not None or _are_labels(values)}


def _are_labels(values: Sequence[Any]) -> bool:
    """Whether values are class labels, and not vectors, measurements or identifiers."""
    plain = all(isinstance(value, str | int) for value in values)
    return plain and 1 < len(set(values)) < len(values)


# ------------------------------------------------------------------------------- around a model


def run_of(model: str | Path) -> dict[str, Any] | None:
    """The training run of a model: its results.json, or at least its recipe.

    Args:
        model: Folder of a run, or of the model in it.

    Returns:
        A dictionary with the key `recipe`, or None if there is no run.

    Raises:
        UserError: A file of the run is damaged.
    """
    for folder in run_folders(model):
        results, recipe = folder / "results.json", folder / "recipe.yaml"
        if results.is_file():
            found = read_json(results)
            if "recipe" in found:
                check_types(found, {"recipe": dict}, str(results))
                return found
        if recipe.is_file():
            with damage_errors(recipe):
                found = {"recipe": read_yaml(recipe.read_text(encoding="utf-8"), str(recipe))}
            check_types(found, {"recipe": dict}, str(recipe))
            return found
    return None


def run_folders(model: str | Path) -> tuple[Path, ...]:
    """Possible run folders of a model: its folder and the parent; empty for a hub id."""
    folder = Path(model)
    return (folder, folder.parent) if str(model) and folder.is_dir() else ()


def data_hashes(data: EvaluationData) -> dict[str, str]:
    """Hashes (hex, 32 digits) of the evaluation data and of the training sentences."""
    labels = {name: list(map(repr, values)) for name, values in data.labels.items()}
    return {
        "hash": _hash([list(data.texts), labels, data.seed]),
        "training_hash": _hash(list(data.training_texts)),
    }


def _hash(values: Any) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()
