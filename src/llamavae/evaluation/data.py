"""Sentences for an evaluation: of a corpus, by default of the one that a model was trained on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

from llamavae.corpora import load_corpus
from llamavae.corpora.splits import fold
from llamavae.errors import UserError
from llamavae.evaluation.evaluator import EvaluationData

logger = logging.getLogger(__name__)

_STREAMED = 200_000  # training sentences that are read of a corpus which was streamed


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
    """Held-out sentences with their labels, and the sentences that the system was trained on.

    Sentences that the system was trained on are left out of those that it is measured on.

    Args:
        corpus: As for `load_corpus`. None takes the recipe's; of several, the first.
        split: train, validation or test; None for all.
        recipe: Contents of the recipe.yaml of the system, for what it was trained on. Without it,
            that is taken to be the training split of `corpus`, where it has one.
        limit: At most this many sentences, a random choice with `seed`.
        seed: Seed of that choice and of every draw of the evaluation.
        labels: Columns with labels. None takes those that hold text, whole numbers or truth
            values, of which some differ and some agree.
        progress: Show progress on stderr.
        **options: Further options of `load_corpus`.

    Raises:
        UserError: There is no corpus, it cannot be read, or it lacks a column of `labels`.
    """
    if corpus is None:
        if recipe is None:
            raise UserError(
                "no run is beside the model that would say what it was trained on: name a corpus, "
                "a file of sentences or a hub id"
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
        raise UserError(
            f"{corpus} leaves {len(kept)} sentence(s) that the system was not trained on; at least "
            "2 are needed. Take another split or another corpus"
        )
    data = data.select(kept)
    found = _labels(data, str(corpus), labels)
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
            logger.warning("the sentences of training could not be read: %s", error)
    return texts


def _labels(data: Dataset, corpus: str, names: Sequence[str] | None) -> dict[str, list[Hashable]]:
    columns = [name for name in data.column_names if name != "text"]
    for name in names or []:
        if name not in columns:
            raise UserError(
                f"{corpus} has no column {name!r} of labels; it has {', '.join(columns) or 'none'}"
            )
    found = {name: data[name][:] for name in (columns if names is None else names)}
    return {n: values for n, values in found.items() if names is not None or _are_labels(values)}


def _are_labels(values: Sequence[Any]) -> bool:
    """Whether values divide sentences into groups: no vectors, no measurements, no identifiers."""
    plain = all(isinstance(value, str | int) for value in values)
    return plain and 1 < len(set(values)) < len(values)


# ------------------------------------------------------------------------------- around a model


def run_of(model: str | Path) -> dict[str, Any] | None:
    """What is known of the run that made a model: its results.json, or at least its recipe.

    Args:
        model: Folder of a run, or of the model in it.

    Returns:
        A dictionary with `recipe` in it, or None where no run is beside the model.
    """
    for folder in run_folders(model):
        results, recipe = folder / "results.json", folder / "recipe.yaml"
        if results.is_file():
            found = json.loads(results.read_text(encoding="utf-8"))
            if "recipe" in found:
                return found
        if recipe.is_file():
            return {"recipe": yaml.safe_load(recipe.read_text(encoding="utf-8"))}
    return None


def run_folders(model: str | Path) -> tuple[Path, ...]:
    """Where the run of a model may lie: its folder and the one around it; none of a hub id."""
    folder = Path(model)
    return (folder, folder.parent) if str(model) and folder.is_dir() else ()


def data_hashes(data: EvaluationData) -> dict[str, str]:
    """Hashes (hex, 32 digits) of what a system is measured on, and of what it was trained on."""
    labels = {name: list(map(repr, values)) for name, values in data.labels.items()}
    return {
        "hash": _hash([list(data.texts), labels, data.seed]),
        "training_hash": _hash(list(data.training_texts)),
    }


def _hash(values: Any) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()
