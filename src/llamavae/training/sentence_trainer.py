"""Training with transformers' Trainer, reproducible on any number of processes and after a resume.

The order of the sentences, eps and word dropout of a step depend only on the seed and the step.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from llamavae.data.batches import Collator, LengthGroupedSampler
from llamavae.data.sentences import SentenceData
from llamavae.data.streams import SentenceStream
from llamavae.errors import Terminated, UserError
from llamavae.files import disk_errors, write_text
from llamavae.manifest import write_manifest
from llamavae.modeling.sharding import is_sharded, place, replicate
from llamavae.state import (
    load_optimizer,
    load_positions,
    load_random,
    save_optimizer,
    save_positions,
    save_random,
)
from llamavae.training.arguments import processes
from llamavae.training.callbacks import Progress, StopSafely
from llamavae.training.folder import CHECKPOINT, RESUME, last_checkpoint, step_of


class SentenceTrainer(Trainer):
    """transformers' Trainer over sentences, without pickles, with a log file and safe stops.

    The whole run is one epoch of the Trainer, whatever the number of passes over the corpus.

    Args:
        model: The module to train.
        args: See `training_arguments`.
        data: Training sentences.
        collator: Joins sentences to a batch.
        progress: Show a progress bar on stderr.
        **options: Further arguments of `Trainer`.
    """

    label, step_name = "training", "step"
    """What the progress bar calls the run, and what log lines call the step."""

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        data: SentenceData | SentenceStream,
        collator: Collator,
        progress: bool = True,
        **options: Any,
    ) -> None:
        for parameter in model.parameters():
            if parameter.requires_grad:  # updates are smaller than the steps of half precision
                parameter.data = parameter.data.float()
        super().__init__(
            model=model, args=args, train_dataset=data, data_collator=collator, **options
        )
        if is_sharded(model):
            place(model, self.args.device)
        self.collator = collator
        self.folder = Path(str(args.output_dir))
        self.log_file = self.folder / "log.jsonl"
        self._step, self._micro = 0, -1  # optimiser step, and micro-batch in it
        self._sums: dict[str, Tensor] = {}
        self._positions: dict[str, Any] = {}  # of the shards of a stream, after this step
        self._losses: list[tuple[int, Tensor, Tensor]] = []  # step, loss, ids since the last check
        self._norms: list[tuple[int, Tensor]] = []  # likewise step and norm of the gradient
        self._since, self._rows = time.perf_counter(), 0
        self.remove_callback(PrinterCallback)
        self._stop, self._progress = StopSafely(self), Progress(self.label)
        self.add_callback(self._stop)
        if progress and self.is_world_process_zero():
            self.add_callback(self._progress)

    @abstractmethod
    def parts(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and scalars to log, all averaged over its sentences."""

    def train(self, *args: Any, **options: Any) -> Any:
        """`Trainer.train`, during which Ctrl-C and SIGTERM save a checkpoint before they stop."""
        with self._stop, self._progress:
            return super().train(*args, **options)

    def fit(self, checkpoint: Path | None, resume: bool) -> None:
        """Train to the end.

        Args:
            checkpoint: Where training continues; None is its beginning.
            resume: Remove what an interrupted run left behind after `checkpoint`.

        Raises:
            KeyboardInterrupt: Training was interrupted, and has saved a checkpoint.
        """
        if resume:
            if self.is_world_process_zero():
                self._rewind(-1 if checkpoint is None else step_of(checkpoint))
            processes().wait_for_everyone()
        if checkpoint and isinstance(self.train_dataset, SentenceStream):
            self.train_dataset.load_positions(load_positions(checkpoint))
        if checkpoint and step_of(checkpoint) == self.args.max_steps:  # it only needs to be read
            self.load_weights(checkpoint)
            return
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        self.check_finite()
        if self._stop.interrupted:
            kind = Terminated if self._stop.terminated else KeyboardInterrupt
            raise kind("stopped; a checkpoint is saved, continue with --resume")

    # ------------------------------------------------------------------ one step

    @property
    def global_batch(self) -> int:
        """Sentences in an optimiser step, over all processes and accumulation."""
        args = self.args
        return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        data = self.train_dataset
        if isinstance(data, SentenceData):
            return LengthGroupedSampler(
                data.lengths, self.global_batch, int(self.args.max_steps), self.args.seed
            )
        return None

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The loader of the training sentences; a stream divides them among processes itself."""
        data = self.train_dataset
        if not isinstance(data, SentenceStream):
            return super().get_train_dataloader()
        loader = DataLoader(
            data,
            batch_size=None,
            collate_fn=self.collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return prepare_data_loader(  # as if this were the only process
            loader, self.args.device, 1, 0, put_on_device=True, dispatch_batches=False
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of one micro-batch; its scalars are added up for the log."""
        now = self.state.global_step
        self._step, self._micro = now, self._micro + 1 if now == self._step else 0
        ids = inputs["input_ids"]
        self._positions |= json.loads(inputs.pop("position", "{}"))
        loss, scalars = self.parts(model, inputs)
        share = len(ids) / self.args.per_device_train_batch_size  # below 1 with a limit of tokens
        if share < 1:
            loss = share * loss
        for name, value in {**scalars, "count": torch.ones_like(loss)}.items():
            value = share * value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._rows += len(ids)
        self._losses.append((now, loss.detach(), ids))
        return loss

    def random_rows(
        self, draw: Callable[..., Tensor], rows: int, width: int, stream: int = 0
    ) -> Tensor:
        """Random numbers (rows, width) for this micro-batch: its share of the whole batch's.

        Args:
            draw: `torch.randn` or `torch.rand`; each has a sequence of its own.
            rows: Sentences in the micro-batch.
            width: Numbers for each.
            stream: Number of an independent sequence.
        """
        args = self.args
        first = self._micro * args.world_size + args.process_index
        first *= args.per_device_train_batch_size
        seed = 2 * (args.seed * 1_000_003 + self._step) + (draw is torch.rand) + (stream << 56)
        whole = draw(self.global_batch, width, generator=torch.Generator().manual_seed(seed))
        return whole[first : first + rows].to(args.device)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        self._norms.append((self.state.global_step, torch.as_tensor(norm).detach()))
        return norm

    def check_finite(self) -> None:
        """Stop if a loss or a gradient was not finite.

        Called when logging, evaluating and saving, since it synchronises a GPU.

        Raises:
            UserError: One was not; the message names its step and sentences.
        """
        losses, norms, self._losses, self._norms = self._losses, self._norms, [], []
        bad = [("loss", step) for step, loss, _ in losses if not math.isfinite(loss.item())]
        bad += [("gradient", step) for step, norm in norms if not math.isfinite(norm.item())]
        if bad:
            what, at = bad[0]
            rows = [row for step, _, ids in losses if step == at for row in ids[:, 1:]]
            texts = [self.collator.decoder.texts(row[None])[0][:40] for row in rows[:4]]
            raise self.diverged(
                f"the {what} of {self.label} step {at + 1} is not finite; the sentences of its "
                f"batch begin with {', '.join(map(repr, texts))}"
            )

    def diverged(self, what: str) -> UserError:
        """The error of a run that cannot go on.

        Args:
            what: What is not finite.
        """
        return UserError(
            f"{what}. The run has stopped; its last good checkpoint is "
            f"{last_checkpoint(self.folder) or 'none yet'}. Try a lower "
            "optimisation.learning_rate, a smaller optimisation.max_grad_norm, longer "
            "optimisation.warmup_steps, or precision float32, in a new output folder"
        )

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Always 0, since counting them visits all modules at every step."""
        return 0

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> Any:
        """A model with a distributed decoder, which accelerate does not support beside DDP."""
        if not (training and is_sharded(model)) or isinstance(model, DistributedDataParallel):
            return super()._wrap_model(model, training, dataloader)
        model = self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
        return replicate(model)

    # ------------------------------------------------------------------ the log

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Add averages over steps and processes to a training line, and write it to the log."""
        data = self.train_dataset
        if isinstance(data, SentenceData):
            self.state.epoch = self.state.global_step * self.global_batch / len(data)
        if "loss" in logs:
            self.check_finite()
            logs.update(self._averages())
        super().log(logs, start_time)
        if isinstance(data, SentenceStream):
            logs.pop("epoch", None)  # unknown for a stream
        if "loss" in logs:
            self.write(logs)

    def write(self, line: dict[str, Any]) -> None:
        """Append one JSON line to the log file."""
        if not self.is_world_process_zero():
            return
        text = json.dumps({self.step_name: self.state.global_step, **line}) + "\n"
        with disk_errors(self.log_file, RESUME):
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(text)

    def _averages(self) -> dict[str, float]:
        names = sorted(self._sums)
        total = torch.stack([self._sums[n].float() for n in names])
        total = cast(Tensor, self.accelerator.reduce(total, reduction="sum"))
        values = dict(zip(names, total.tolist(), strict=True))
        count = values.pop("count")
        elapsed = time.perf_counter() - self._since
        rate = self._rows * self.args.world_size / elapsed
        self._sums, self._rows, self._since = {}, 0, time.perf_counter()
        return {**{n: v / count for n, v in values.items()}, "sentences_per_second": round(rate, 1)}

    # ------------------------------------------------------------------ checkpoints

    def _rewind(self, step: int) -> None:
        """Remove checkpoints and log lines after a step, and the final evaluation, which is made
        again.
        """
        for path in self.folder.glob(f"{CHECKPOINT}*"):
            if step_of(path) > step:
                shutil.rmtree(path)
        if self.log_file.is_file():
            text = self.log_file.read_text(encoding="utf-8", errors="replace")
            lines = text.splitlines(keepends=True)
            write_text(self.log_file, "".join(x for x in lines if self._is_before(x, step)))

    def _is_before(self, line: str, step: int) -> bool:
        try:
            entry = json.loads(line)
            if entry.get(self.step_name, -1) == step == self.args.max_steps:
                return not any(key.startswith(("eval_", "warning")) for key in entry)
            return entry.get(self.step_name, -1) <= step
        except (ValueError, TypeError, AttributeError, RecursionError):  # cut short by a kill
            return False

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.args.should_save:
            save_optimizer(self.optimizer, self.lr_scheduler, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_optimizer(self.optimizer, self.lr_scheduler, Path(checkpoint))

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_random(Path(output_dir), self.args.process_index)
        if self._positions:
            save_positions(self._positions, Path(output_dir), self.args.process_index)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_random(Path(checkpoint), self.args.process_index)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.check_finite()
        start = time.perf_counter()
        last = last_checkpoint(self.folder) or "none yet"
        new = self.folder / f"{CHECKPOINT}{self.state.global_step}"
        try:
            with disk_errors(new, f"{RESUME}. The last good checkpoint is {last}"):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()  # each process writes its random state
                if self.is_world_process_zero() and new.is_dir():
                    write_manifest(new)
        except UserError:
            shutil.rmtree(new, ignore_errors=True)
            raise
        self._since += time.perf_counter() - start

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Weights and settings alone: Trainer would add its arguments as a Python object."""
        self.save_weights(Path(output_dir or self.folder), state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.load_weights(Path(resume_from_checkpoint))

    @abstractmethod
    def save_weights(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write what trains into `folder`; called in all processes, of which the first writes."""

    @abstractmethod
    def load_weights(self, folder: Path) -> None:
        """Read what `save_weights` wrote."""
