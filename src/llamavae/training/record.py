"""What a run knows of itself beside its checkpoints: how long it took, and where it started."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from llamavae.files import disk_errors, write_json


class RunRecord(TrainerCallback):
    """`run.json` in the folder of a run, written when training begins and with each checkpoint.

    Args:
        folder: Folder of the run.
        resume: Whether the run goes on, and with it the record that is there.

    Attributes:
        start_fingerprint: Of the weights that the run started from; None where they were fresh.
    """

    def __init__(self, folder: Path, resume: bool) -> None:
        self.path = folder / "run.json"
        self._since = time.monotonic()
        found: dict[str, Any] = {}
        if resume and self.path.is_file():
            found = json.loads(self.path.read_text(encoding="utf-8"))
        self._before: float = found.get("seconds", 0.0)
        self.start_fingerprint: str | None = found.get("start_fingerprint")

    @property
    def seconds(self) -> float:
        """Time that the run took, over all its legs; what an interruption undid does not count."""
        return round(self._before + time.monotonic() - self._since, 1)

    def save(self) -> None:
        """Write the file."""
        values = {"seconds": self.seconds, "start_fingerprint": self.start_fingerprint}
        with disk_errors(self.path, "run again with --resume"):
            write_json(self.path, values)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep what the run started from, also where no checkpoint is reached."""
        self.on_save(args, state, control)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the time until this checkpoint."""
        if state.is_world_process_zero:
            self.save()
