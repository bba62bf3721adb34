"""The saved state of a fit, from which an interrupted fit resumes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from llamavae.errors import UserError
from llamavae.files import replacing_folder, write_json
from llamavae.manifest import verify
from llamavae.parsing import read_json
from llamavae.state import load_optimizer, save_optimizer

logger = logging.getLogger(__name__)


class SavedFit:
    """The latest state of a fit, in a subfolder `step-N`, which has this name once it is complete.

    Args:
        folder: Folder of the state. Other files in it are not changed.
        key: Hash of everything that affects the result; the state of another fit is an error.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def write(
        self,
        step: int,
        weights: Mapping[str, Mapping[str, Tensor]],
        optimizer: Any,
        scheduler: Any,
        report: Mapping[str, Any],
    ) -> None:
        """Replace the previous state.

        Args:
            step: Number of finished steps.
            weights: State dicts by name.
            optimizer: A torch optimiser.
            scheduler: Its learning rate schedule.
            report: The results so far, as JSON values.
        """
        done = self.folder / f"step-{step}"
        with replacing_folder(done) as new:
            for name, tensors in weights.items():
                tensors = {k: v.contiguous() for k, v in tensors.items()}
                save_file(tensors, new / f"{name}.safetensors")
            save_optimizer(optimizer, scheduler, new)
            write_json(new / "fit.json", {"key": self.key, "report": dict(report)})
        for path in self.folder.glob("step-*"):
            if path != done:
                shutil.rmtree(path, ignore_errors=True)

    def read(
        self, optimizer: Any, scheduler: Any
    ) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """Weights and report of the latest state of this fit, if there is one.

        The states of optimiser and schedule are loaded in place.

        A damaged state is skipped with a warning.

        Raises:
            UserError: The state belongs to another fit.
        """
        states: dict[Path, dict[str, Any]] = {}
        for file in self.folder.glob("step-*/fit.json"):
            try:
                verify(file.parent)
                states[file.parent] = read_json(file, {"key": str, "report": dict})
            except UserError as error:
                logger.warning("%s is not used: %s", file.parent, error)
        if any(state["key"] != self.key for state in states.values()):
            raise UserError(
                f"{self.folder} is the state of another fit: data or settings differ. Use "
                "those of that fit, choose another folder, or remove this one"
            )
        if not states:
            return None
        latest = max(states, key=lambda folder: int(folder.name[5:]))
        load_optimizer(optimizer, scheduler, latest)
        weights = {name: load_file(latest / f"{name}.safetensors") for name in ("flow", "best")}
        return weights, states[latest]["report"]
