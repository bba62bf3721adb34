"""Callbacks of the trainers: safe stops and a progress bar."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import AbstractContextManager
from typing import Any, Self, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback

from llamavae.errors import Terminated


def say(text: str) -> None:
    """Print a line on stderr, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


class StopSafely(TrainerCallback):
    """On the first Ctrl-C or SIGTERM, finish the step, save a checkpoint and stop.

    Args:
        trainer: The trainer, for the communication between processes.

    Attributes:
        interrupted: Whether training was stopped before its end.
        terminated: Whether SIGTERM was the reason, in this process.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.interrupted = self.terminated = False
        self.asked, self.process = False, os.getpid()
        self.before: dict[int, Any] = {}

    def _ask(self, number: int, *_: Any) -> None:
        if os.getpid() != self.process:  # a process that prepares batches; training ends it
            if number == signal.SIGTERM:
                sys.exit()
            return
        if self.asked:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self.asked, self.terminated = True, number == signal.SIGTERM
        say("stopping: saving a checkpoint first (press Ctrl-C again to stop at once)")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # it alone may handle signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop, on all processes together, when one of them was asked to."""
        asked = self.asked
        if args.world_size > 1:
            flag = torch.tensor(float(asked), device=args.device)
            total = self.trainer.accelerator.reduce(flag, reduction="sum")
            asked = cast(Tensor, total).item() > 0
        if asked and state.global_step < state.max_steps:
            self.interrupted = True
            control.should_save = control.should_training_stop = True


class Progress(TrainerCallback, AbstractContextManager[Any]):
    """A progress bar on stderr with sentences per second and the time left.

    Args:
        label: What the bar calls the run.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: tqdm[Any] | None = None

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the bar, starting at the current step."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.label,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show the newest numbers."""
        if self.bar is None or not logs:
            return
        if "eval_nll" in logs:
            shown = ("nll", "nll_shuffled", "kl", "active_units", "bleu", "bleu_shuffled")
            names = (name for name in (*shown, "similarity") if f"eval_{name}" in logs)
            values = (f"{name} {logs[f'eval_{name}']:.4g}" for name in names)
            say(f"step {state.global_step}: held out: {', '.join(values)}")
        elif "nll" in logs:
            text = ", ".join(f"{n} {logs[n]:.3g}" for n in ("nll", "kl", "beta") if n in logs)
            self.bar.set_postfix_str(f"{logs['sentences_per_second']:.0f} sentences/s, {text}")
