"""The folder of a run: its recipe, its checkpoints and the record of the run."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerCallback

from llamavae.errors import UserError
from llamavae.files import disk_errors, write_json, write_text
from llamavae.manifest import MANIFEST, damage
from llamavae.parsing import damage_errors, read_json
from llamavae.training.arguments import processes
from llamavae.training.recipe import Recipe, load_recipe

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint-"
"""How the names of checkpoints begin; the number of optimiser steps follows."""
RUN = "a training run"
"""What the folder holds, for `llamavae.folders`."""
RESUME = "run again with --resume"
"""What to do after an error of the disk."""


def open_folder(folder: Path, recipe: Recipe, resume: bool) -> bool:
    """Create the run's folder, or check that it holds a run of this recipe.

    Returns:
        Whether there is a run to resume; one that failed before its first log line does not count.
    """
    saved = folder / "recipe.yaml"
    state = processes()
    begun = (folder / "log.jsonl").is_file() or last_checkpoint(folder / "warm-up") is not None
    found = saved.is_file() and begun
    state.wait_for_everyone()  # all have looked before one writes
    if found and not resume:
        raise UserError(
            f"{folder} already holds a run. Continue it with --resume, or choose another place "
            "with --output"
        )
    if found:
        _compare(_saved_recipe(saved), recipe, folder)
    state.wait_for_everyone()
    if state.is_main_process:
        text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        with disk_errors(folder, RESUME):
            folder.mkdir(parents=True, exist_ok=True)
            if not found:
                shutil.rmtree(folder / "backbones", ignore_errors=True)
            write_text(saved, text)
    return found


def _saved_recipe(file: Path) -> Recipe:
    try:
        return load_recipe(file)
    except UserError as error:
        raise UserError(
            f"{error}\n{file} is damaged: restore it, or choose another --output"
        ) from error


def _compare(old: Recipe, new: Recipe, folder: Path) -> None:
    """Refuse to resume with settings that make another run."""
    before, now = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    sharding = ("optimisation.shard_decoder", "optimisation.cpu_offload")
    free = ("output.", "evaluation.", "optimisation.workers", "optimisation.micro", "description")
    changed = [
        f"  {key}: was {before.get(key)}, now {now.get(key)}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key) and not key.startswith(free + sharding)
    ]
    if changed:
        raise UserError(
            "\n".join([f"the run in {folder} was started with other settings:", *changed])
            + "\nResume with the old ones, or choose another place with --output"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def last_checkpoint(folder: Path, verified: bool = False) -> Path | None:
    """The newest complete checkpoint of a run; one whose writing was cut short does not count.

    Args:
        folder: Folder of the run.
        verified: Also skip a checkpoint with a damaged file, with a warning.
    """
    for path in sorted(folder.glob(f"{CHECKPOINT}*"), key=step_of, reverse=True):
        try:
            read_json(path / "trainer_state.json")  # written last, but the manifest
        except (OSError, UserError):
            continue
        try:
            found = damage(path) if verified else {}
        except UserError:
            found = {MANIFEST: "cannot be read"}
        if found:
            name, what = next(iter(found.items()))
            logger.warning("%s is skipped, since it is damaged: %s %s", path, name, what)
            continue
        return path
    return None


def step_of(checkpoint: Path) -> int:
    """Number of optimiser steps of a checkpoint; -1 for another folder."""
    number = checkpoint.name.removeprefix(CHECKPOINT)
    return int(number) if number.isdecimal() else -1


_KINDS = {"seconds": float, "start_fingerprint": str | None, "corpus": dict}
_ADVICE = "Delete it to resume without a check of the start and the corpus"


class RunRecord(TrainerCallback):
    """`run.json` in the folder of a run, written when training begins and with each checkpoint.

    Args:
        folder: Folder of the run.
        resume: Whether the run is resumed, with its existing record.

    Attributes:
        start_fingerprint: Fingerprint of the checkpoint that the run started from, or None.
    """

    def __init__(self, folder: Path, resume: bool) -> None:
        self.path = folder / "run.json"
        self._since = time.monotonic()
        found: dict[str, Any] = {}
        if resume and self.path.is_file():
            found = read_json(self.path, _KINDS, _ADVICE)
            with damage_errors(self.path, _ADVICE):
                found["corpus"] = {
                    split: {"sentences": int(values["sentences"]), "hash": str(values["hash"])}
                    for split, values in found["corpus"].items()
                }
        self._before: float = found.get("seconds", 0.0)
        self.start_fingerprint: str | None = found.get("start_fingerprint")
        self._corpus: dict[str, Any] = found.get("corpus", {})

    def check_corpus(self, **sentences: Sequence[str]) -> None:
        """Record the sentences of a new run; a resumed run must have the same.

        A run without a record is not checked.

        Args:
            **sentences: The sentences of each split.

        Raises:
            UserError: The sentences have changed since the run began.
        """
        for split, texts in sentences.items():
            digest = hashlib.blake2b(json.dumps(list(texts)).encode(), digest_size=16).hexdigest()
            now = {"sentences": len(texts), "hash": digest}
            before = self._corpus.setdefault(split, now)
            if before != now:
                count = before["sentences"]
                what = "as many others" if count == len(texts) else f"{len(texts):,}"
                raise UserError(
                    f"the {split} sentences have changed since the run in {self.path.parent} "
                    f"began: there were {count:,}, and now there are {what}. Restore the corpus, "
                    "or start another run with --output"
                )

    @property
    def seconds(self) -> float:
        """Duration of the run, over all resumptions, without what an interruption undid."""
        return round(self._before + time.monotonic() - self._since, 1)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the file, so that the start is known without a checkpoint."""
        self.on_save(args, state, control)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the file."""
        if state.is_world_process_zero:
            values = {
                "seconds": self.seconds,
                "start_fingerprint": self.start_fingerprint,
                "corpus": self._corpus,
            }
            with disk_errors(self.path, RESUME):
                write_json(self.path, values)
