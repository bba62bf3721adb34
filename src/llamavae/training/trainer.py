"""Training with transformers' Trainer: the same steps on one process or many, resumable to the bit.

What is random in a step, the order of the sentences, eps and word dropout, is a function of seed
and step alone. So the number of processes does not change a run, nor does an interruption.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from tqdm.auto import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from llamavae.errors import UserError
from llamavae.modeling import LlaMaVAE, TextDecoder
from llamavae.training.data import Collator, LengthBatches, SentenceData, SentenceStream
from llamavae.training.diagnostics import diagnose
from llamavae.training.measure import measure
from llamavae.training.recipe import ObjectiveSettings, Recipe
from llamavae.training.schedules import build_schedule
from llamavae.training.state import load_optimizer, load_random, save_optimizer, save_random

_CHECKPOINT = "checkpoint-"


class SentenceTrainer(Trainer):
    """transformers' Trainer over sentences, without pickles, with a log file and safe stops.

    Args:
        model: What is trained; its output has a scalar `loss`.
        args: See `training_arguments`.
        data: Training sentences.
        collator: Joins sentences to a batch.
        log: JSON-lines file that receives every log line.
        label: What the progress bar calls the run.
        progress: Show a progress bar on stderr.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        data: SentenceData | SentenceStream,
        collator: Collator,
        log: Path,
        label: str,
        progress: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            model=model, args=args, train_dataset=data, data_collator=collator, **options
        )
        self.log_file = log
        self.interrupted = False
        self._sums: dict[str, Tensor] = {}
        self._micro = (0, -1)  # optimiser step and micro-batch in it
        self._since, self._rows = time.perf_counter(), 0
        self.remove_callback(PrinterCallback)
        self.add_callback(_StopSafely(self))
        if progress and self.is_world_process_zero():
            self.add_callback(_Progress(self, label))

    @abstractmethod
    def parts(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Scalars of one micro-batch, in nats per sentence, averaged over its sentences; `loss` is
        what is minimised.
        """

    # ------------------------------------------------------------------ one step

    @property
    def global_batch(self) -> int:
        """Sentences in an optimiser step, over all processes and accumulation."""
        args = self.args
        return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        data = train_dataset if train_dataset is not None else self.train_dataset
        if isinstance(data, SentenceData):
            return LengthBatches(data.lengths, self.global_batch, self.args.seed)
        return None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of one micro-batch; a loss that is not finite stops the run before the step."""
        step, micro = self._micro
        now = self.state.global_step
        self._micro = (now, micro + 1 if now == step else 0)
        parts = self.parts(model, inputs)
        if not torch.isfinite(parts["loss"]):
            raise UserError(
                f"the loss is {parts['loss'].item()} at step {now}. The run has stopped; its last "
                f"good checkpoint is {last_checkpoint(Path(self.args.output_dir)) or 'none yet'}. "
                "Try a lower optimisation.learning_rate, a smaller optimisation.max_grad_norm, a "
                "longer warmup_steps, or precision float32; then run again with --resume"
            )
        for name, value in parts.items():
            if name != "loss":
                self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()
        self._sums["count"] = self._sums.get("count", torch.zeros_like(parts["loss"])).detach() + 1
        self._rows += len(inputs["input_ids"])
        return parts["loss"]

    def random_rows(
        self, rows: int
    ) -> Callable[[Callable[[torch.Generator, int], Tensor]], Tensor]:
        """Draws for this micro-batch, cut from draws for the whole batch of the step.

        `draw(generator, n)` makes n rows; the share of this process and micro-batch is returned.
        """
        args = self.args
        first = self._micro[1] * args.world_size + args.process_index
        first *= args.per_device_train_batch_size
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + self._micro[0])

        def share(draw: Callable[[torch.Generator, int], Tensor]) -> Tensor:
            return draw(generator, self.global_batch)[first : first + rows].to(args.device)

        return share

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Nothing: counting walks through all modules at every step."""
        return 0

    # ------------------------------------------------------------------ the log

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Add averages over steps and processes to a training line, and write it to the log."""
        training = "loss" in logs
        if training:
            logs.update(self._averages())
        super().log(logs, start_time)
        if training or any(name.startswith("eval_") for name in logs):
            self.write(logs)

    def write(self, line: dict[str, Any]) -> None:
        """Append one JSON line to the log file."""
        if self.is_world_process_zero():
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.state.global_step, **line}) + "\n")

    def _averages(self) -> dict[str, float]:
        names = sorted(self._sums)
        total = torch.stack([self._sums[n].float() for n in names])
        total = self.accelerator.reduce(total, reduction="sum")
        values = dict(zip(names, total.tolist(), strict=True))
        count = values.pop("count")
        elapsed = time.perf_counter() - self._since
        rate = self._rows * self.args.world_size / elapsed
        self._sums, self._rows, self._since = {}, 0, time.perf_counter()
        return {**{n: v / count for n, v in values.items()}, "sentences_per_second": round(rate, 1)}

    # ------------------------------------------------------------------ checkpoints

    @property
    def _own_state(self) -> bool:
        return not (self.is_deepspeed_enabled or self.is_fsdp_enabled)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._own_state:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            save_optimizer(self.optimizer, self.lr_scheduler, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        if not self._own_state:
            super()._load_optimizer_and_scheduler(checkpoint)
        else:
            load_optimizer(self.optimizer, self.lr_scheduler, Path(checkpoint))

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_random(Path(output_dir), self.args.process_index)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_random(Path(checkpoint), self.args.process_index)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        start = time.perf_counter()
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, UserError) as error:
            folder = Path(self.args.output_dir)
            shutil.rmtree(folder / f"{_CHECKPOINT}{self.state.global_step}", ignore_errors=True)
            raise UserError(
                f"could not save a checkpoint at step {self.state.global_step}: {error}. The last "
                f"good one is {last_checkpoint(folder) or 'none yet'}; make room and run again "
                "with --resume"
            ) from error
        self._since += time.perf_counter() - start

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Weights and settings alone: Trainer would add a pickle of its arguments."""
        if self.args.should_save:
            self.save_weights(Path(output_dir or str(self.args.output_dir)), state_dict)

    @abstractmethod
    def save_weights(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write what trains into `folder`."""


class VAETrainer(SentenceTrainer):
    """Trains a `LlaMaVAE` on its evidence lower bound.

    Args:
        model: The VAE.
        args: See `training_arguments`.
        data: Training sentences.
        validation: Held-out sentences for the diagnostics.
        recipe: Objective and evaluation settings.
        folder: Folder of the run.
        progress: Show a progress bar on stderr.
    """

    def __init__(
        self,
        model: LlaMaVAE,
        args: TrainingArguments,
        data: SentenceData | SentenceStream,
        validation: SentenceData,
        recipe: Recipe,
        folder: Path,
        progress: bool = True,
    ) -> None:
        model._keys_to_ignore_on_save = set(model.state_dict()) - set(model.trained_names)
        super().__init__(
            model,
            args,
            data,
            Collator(model.decoder, model.encoder),
            folder / "log.jsonl",
            "training",
            progress,
            eval_dataset=validation,
        )
        self.vae = model
        self.validation = validation
        self.recipe = recipe
        self.schedule = build_schedule(recipe.objective)
        self.metrics: dict[str, Any] = {}
        self.warnings: list[str] = []

    @property
    def beta(self) -> float:
        """Weight of the KL term at the present step."""
        return self.schedule(self.state.global_step, self.state.max_steps)

    def parts(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Loss, nll, raw KL, KL term and beta of one micro-batch."""
        objective: ObjectiveSettings = self.recipe.objective
        rows, width = inputs["input_ids"].shape
        share = self.random_rows(rows)
        dim = self.vae.config.latent_dim
        noise = share(lambda g, n: torch.randn(n, dim, generator=g))
        keep = None
        if objective.word_dropout:
            most = self.vae.config.max_tokens
            keep = share(lambda g, n: torch.rand(n, most, generator=g))[:, : width - 1]
            keep = keep >= objective.word_dropout
            keep[:, 0] = True  # the bos token is not a word
        beta = self.beta
        output = model(
            **inputs,
            noise=noise,
            keep=keep,
            beta=beta,
            kl_rule=objective.kl_rule,
            kl_threshold=objective.kl_threshold,
        )
        kl = output.kl.detach().sum(-1).mean()
        if objective.schedule == "target_rate":
            self.schedule.observe(self.accelerator.reduce(kl.clone(), reduction="mean").item())
        return {
            "loss": output.loss,
            "nll": output.nll.detach(),
            "kl": kl,
            "kl_term": output.kl_term.detach(),
            "beta": torch.full_like(kl, beta),
        }

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """All diagnostics on the held-out sentences, logged with what the monitor says of them."""
        start = time.perf_counter()
        settings = self.recipe.evaluation
        with self.compute_loss_context_manager():
            metrics = measure(
                self.vae, self.validation, decoded=settings.decoded, seed=self.args.seed
            )
        self.metrics = metrics
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log({k: v for k, v in named.items() if not isinstance(v, list)})
        progress = self.state.global_step / max(1, self.state.max_steps)
        self.warnings = diagnose(metrics, self.vae.config.latent_dim, self.beta, progress)
        for warning in self.warnings:
            self.write({"warning": warning})
            if self.is_world_process_zero():
                tqdm.write(f"warning (step {self.state.global_step}): {warning}")
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        self._since += time.perf_counter() - start
        return named

    def save_weights(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """The VAE's checkpoint, and the state of its beta schedule."""
        self.vae.save_pretrained(folder, state_dict=state)
        (folder / "schedule.json").write_text(json.dumps(self.schedule.state()))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        path = Path(resume_from_checkpoint) / "schedule.json"
        if path.is_file():
            self.schedule.load_state(json.loads(path.read_text()))


class _PlainModel(nn.Module):
    """A decoder as the Trainer wants it: a module whose output has a loss."""

    def __init__(self, decoder: TextDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return {"loss": self.decoder.nll(input_ids, attention_mask) / len(input_ids)}


class LanguageModelTrainer(SentenceTrainer):
    """Trains a decoder as a plain language model, before it becomes part of a VAE.

    Args:
        decoder: The decoder; all of it trains.
        args: See `training_arguments`.
        data: Training sentences.
        folder: Folder of the run.
        progress: Show a progress bar on stderr.
    """

    def __init__(
        self,
        decoder: TextDecoder,
        args: TrainingArguments,
        data: SentenceData | SentenceStream,
        folder: Path,
        progress: bool = True,
    ) -> None:
        model = _PlainModel(decoder)
        super().__init__(
            model, args, data, Collator(decoder), folder / "log.jsonl", "warm-up", progress
        )
        self.decoder = decoder

    def parts(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Loss and nll of one micro-batch."""
        loss = model(inputs["input_ids"], inputs["attention_mask"])["loss"]
        return {"loss": loss, "nll": loss.detach()}

    def write(self, line: dict[str, Any]) -> None:
        """Log lines of the warm-up have names of their own."""
        if "nll" in line:
            super().write({"warmup_step": self.state.global_step, "warmup_nll": line["nll"]})

    def save_weights(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """The decoder in transformers' own format."""
        self.decoder.lm.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, self.decoder.lm)


# ------------------------------------------------------------------------------- settings


def training_arguments(
    recipe: Recipe, folder: Path, steps: int, resumed: bool
) -> TrainingArguments:
    """Trainer's arguments for a recipe."""
    o, world = recipe.optimisation, _world_size()
    micro = o.micro_batch_size or o.batch_size // world
    if o.batch_size % (micro * world):
        raise UserError(
            f"optimisation.batch_size {o.batch_size} cannot be shared among {world} processes in "
            f"micro-batches of {micro}: make it a multiple of {micro * world}"
        )
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=o.batch_size // (micro * world),
        learning_rate=o.learning_rate,
        weight_decay=o.weight_decay,
        warmup_steps=o.warmup_steps,
        lr_scheduler_type="constant_with_warmup" if o.decay == "constant" else o.decay,
        max_grad_norm=o.max_grad_norm,
        bf16=o.precision == "bfloat16",
        gradient_checkpointing=o.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False}
        if o.gradient_checkpointing
        else None,
        seed=o.seed,
        data_seed=o.seed,
        eval_strategy="steps",
        eval_steps=recipe.evaluation.every,
        eval_on_start=not resumed,
        logging_steps=recipe.output.log_every,
        logging_nan_inf_filter=False,
        save_steps=recipe.output.save_every,
        save_total_limit=recipe.output.keep,
        report_to=list(recipe.output.report_to),
        dataloader_num_workers=o.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        disable_tqdm=True,
    )


def _world_size() -> int:
    from accelerate import PartialState

    return PartialState().num_processes


def steps_per_epoch(sentences: int, batch_size: int) -> int:
    """Optimiser steps in which every sentence comes at least once."""
    return math.ceil(sentences / batch_size)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run; one whose writing was cut short does not count."""

    def step(path: Path) -> int:
        return int(path.name.removeprefix(_CHECKPOINT))

    for path in sorted(folder.glob(f"{_CHECKPOINT}[0-9]*"), key=step, reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text())  # written last
        except (OSError, ValueError):
            continue
        return path
    return None


# ------------------------------------------------------------------------------- callbacks


class _StopSafely(TrainerCallback):
    """On the first Ctrl-C or SIGTERM, finish the step, save a checkpoint and stop."""

    def __init__(self, trainer: SentenceTrainer) -> None:
        self.trainer = trainer
        self.asked = False
        self.before: dict[int, Any] = {}

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        tqdm.write("stopping: saving a checkpoint first (press Ctrl-C again to stop at once)")

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._ask)
        except ValueError:  # not in the main thread, which alone may handle signals
            self.before = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        asked = self.asked
        if args.world_size > 1:
            flag = torch.tensor(float(asked), device=args.device)
            asked = bool(self.trainer.accelerator.reduce(flag, reduction="sum") > 0)
        if asked:
            self.trainer.interrupted = True
            control.should_save = control.should_training_stop = True

    def on_train_end(self, *_: Any, **__: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


class _Progress(TrainerCallback):
    """A progress bar on stderr with sentences per second and the time left."""

    def __init__(self, trainer: SentenceTrainer, label: str) -> None:
        self.trainer, self.label = trainer, label
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.label,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self.bar is None or not logs:
            return
        if "eval_nll" in logs:
            shown = ("nll", "nll_shuffled", "kl", "active_units", "bleu", "bleu_shuffled")
            values = (f"{n} {logs[f'eval_{n}']:.4g}" for n in shown if f"eval_{n}" in logs)
            tqdm.write(f"step {state.global_step}: held out: {', '.join(values)}")
        elif "nll" in logs:
            names = [n for n in ("nll", "kl", "beta") if n in logs]
            text = ", ".join(f"{n} {logs[n]:.3g}" for n in names)
            self.bar.set_postfix_str(f"{logs['sentences_per_second']:.0f} sentences/s, {text}")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        if self.bar is not None:
            self.bar.close()
