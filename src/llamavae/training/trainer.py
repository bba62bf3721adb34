"""Training with transformers' Trainer: the same steps on one process or many, resumable to the bit.

What is random in a step, the order of the sentences, eps and word dropout, is a function of seed
and step alone. So the number of processes does not change a run, nor does an interruption.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, cast

import torch
from accelerate import PartialState
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import Sampler
from tqdm.auto import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from llamavae.data.batches import Collator, LengthGroupedSampler
from llamavae.data.sentences import SentenceData, SentenceStream
from llamavae.errors import UserError
from llamavae.files import disk_errors, write_text
from llamavae.modeling import LlaMaVAE, TextDecoder
from llamavae.modeling.checkpoint import reload
from llamavae.modeling.checkpoint import write as write_checkpoint
from llamavae.modeling.llamavae import LlaMaVAEOutput
from llamavae.modes import evaluating
from llamavae.state import load_optimizer, load_random, save_optimizer, save_random
from llamavae.training.bag_of_words import BagOfWords
from llamavae.training.best import BestModel
from llamavae.training.diagnostics import diagnose
from llamavae.training.distillation import similarity_loss
from llamavae.training.measure import measure
from llamavae.training.recipe import ObjectiveSettings, Recipe
from llamavae.training.schedules import build_schedule

_CHECKPOINT = "checkpoint-"
_BAG = "bag_of_words.safetensors"


class SentenceTrainer(Trainer):
    """transformers' Trainer over sentences, without pickles, with a log file and safe stops.

    The Trainer sees the whole run as one epoch, whatever the number of passes over the corpus: an
    interruption between two passes is then like any other.

    Args:
        model: What is trained.
        args: See `training_arguments`.
        data: Training sentences.
        collator: Joins sentences to a batch.
        log: JSON-lines file that receives every log line.
        label: What the progress bar calls the run.
        progress: Show a progress bar on stderr.
        **options: Further arguments of `Trainer`.
    """

    step_name = "step"
    """What log lines call the step."""

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
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise UserError(
                "sharded training (FSDP, DeepSpeed) is not supported: diagnostics and checkpoints "
                "need whole weights on each process. Use data parallelism (torchrun), and for a "
                "large decoder decoder.quantization or optimisation.gradient_checkpointing"
            )
        self.folder = Path(str(args.output_dir))
        self.log_file = log
        self.interrupted = False
        self._step, self._micro = 0, -1  # optimiser step, and micro-batch in it
        self._sums: dict[str, Tensor] = {}
        self._norms = torch.zeros((), device=args.device)
        self._since, self._rows = time.perf_counter(), 0
        self.remove_callback(PrinterCallback)
        self._helpers: list[_StopSafely | _Progress] = [_StopSafely(self)]
        if progress and self.is_world_process_zero():
            self._helpers.append(_Progress(label))
        for helper in self._helpers:
            self.add_callback(helper)

    @abstractmethod
    def parts(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and scalars to log, all averaged over its sentences."""

    def train(self, *args: Any, **options: Any) -> Any:
        """`Trainer.train`, during which Ctrl-C and SIGTERM save a checkpoint before they stop."""
        with ExitStack() as stack:
            for helper in self._helpers:
                stack.enter_context(helper)
            return super().train(*args, **options)

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
        loss, scalars = self.parts(model, inputs)
        for name, value in {**scalars, "count": torch.ones_like(loss)}.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._rows += len(inputs["input_ids"])
        return loss

    def random_rows(self, draw: Callable[..., Tensor], rows: int, width: int) -> Tensor:
        """Random numbers (rows, width) for this micro-batch: its share of the whole batch's.

        Args:
            draw: `torch.randn` or `torch.rand`; each has a sequence of its own.
            rows: Sentences in the micro-batch.
            width: Numbers for each.
        """
        args = self.args
        first = self._micro * args.world_size + args.process_index
        first *= args.per_device_train_batch_size
        seed = 2 * (args.seed * 1_000_003 + self._step) + (draw is torch.rand)
        whole = draw(self.global_batch, width, generator=torch.Generator().manual_seed(seed))
        return whole[first : first + rows].to(args.device)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        self._norms = self._norms + torch.as_tensor(norm, device=self._norms.device).detach()
        return norm

    def _check_finite(self) -> None:
        """Stop where a gradient was not finite. Looked at now and then: looking holds a GPU up."""
        if math.isfinite(self._norms.item()):
            return
        raise UserError(
            f"the loss or its gradient is not finite at step {self.state.global_step} or shortly "
            "before. The run has stopped; its last good checkpoint is "
            f"{last_checkpoint(self.folder) or 'none yet'}. Try a lower "
            "optimisation.learning_rate, a smaller optimisation.max_grad_norm, longer "
            "optimisation.warmup_steps, or precision float32, in a new output folder"
        )

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Nothing: counting walks through all modules at every step."""
        return 0

    # ------------------------------------------------------------------ the log

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Add averages over steps and processes to a training line, and write it to the log."""
        data = self.train_dataset
        if isinstance(data, SentenceData):
            self.state.epoch = self.state.global_step * self.global_batch / len(data)
        if "loss" in logs:
            self._check_finite()
            logs.update(self._averages())
        super().log(logs, start_time)
        if isinstance(data, SentenceStream):
            logs.pop("epoch", None)  # nobody knows
        if "loss" in logs:
            self.write(logs)

    def write(self, line: dict[str, Any]) -> None:
        """Append one JSON line to the log file."""
        if not self.is_world_process_zero():
            return
        text = json.dumps({self.step_name: self.state.global_step, **line}) + "\n"
        with disk_errors(self.log_file, "run again with --resume"):
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

    def rewind(self, checkpoint: Path | None) -> None:
        """Forget what an interrupted run left behind after `checkpoint`: log lines and parts.

        Args:
            checkpoint: Where training goes on; None is its beginning.
        """
        if not self.is_world_process_zero():
            return
        step = -1 if checkpoint is None else _step_of(checkpoint)
        for path in self.folder.glob(f"{_CHECKPOINT}*"):
            if _step_of(path) > step:
                shutil.rmtree(path)
        if self.log_file.is_file():
            lines = self.log_file.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(self.log_file, "".join(x for x in lines if self._is_before(x, step)))

    def _is_before(self, line: str, step: int) -> bool:
        try:
            return json.loads(line).get(self.step_name, -1) <= step
        except ValueError:  # cut short when the process was killed
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

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_random(Path(checkpoint), self.args.process_index)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._check_finite()
        start = time.perf_counter()
        last = last_checkpoint(self.folder) or "none yet"
        new = self.folder / f"{_CHECKPOINT}{self.state.global_step}"
        try:
            with disk_errors(new, f"run again with --resume. The last good checkpoint is {last}"):
                super()._save_checkpoint(model, trial)
        except UserError:
            shutil.rmtree(new, ignore_errors=True)
            raise
        self._since += time.perf_counter() - start

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Weights and settings alone: Trainer would add its arguments as a Python object."""
        if self.args.should_save:
            self.save_weights(Path(output_dir or self.folder), state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.load_weights(Path(resume_from_checkpoint))

    @abstractmethod
    def save_weights(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """Write what trains into `folder`."""

    @abstractmethod
    def load_weights(self, folder: Path) -> None:
        """Read what `save_weights` wrote."""


class _WithBagOfWords(nn.Module):
    """A VAE and the map of the bag-of-words loss, as one module that trains."""

    def __init__(self, vae: LlaMaVAE) -> None:
        super().__init__()
        self.vae = vae
        self.bag = BagOfWords(vae.config.latent_dim, vae.decoder.hidden_size)

    def forward(self, **inputs: Any) -> tuple[LlaMaVAEOutput, Tensor]:
        output: LlaMaVAEOutput = self.vae(**inputs)
        head = cast(nn.Linear, self.vae.decoder.lm.get_output_embeddings()).weight
        return output, self.bag(output.z, head, inputs["input_ids"], inputs["attention_mask"])

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """What Trainer calls for `optimisation.gradient_checkpointing`."""
        self.vae.activation_checkpointing_enable(**options)


class VAETrainer(SentenceTrainer):
    """Trains a `LlaMaVAE` on its evidence lower bound.

    Where the sentences have a teacher's vectors, `teacher.weight` times `similarity_loss` is added.
    Its pairs are those of a micro-batch: of `optimisation.micro_batch_size` sentences, or with
    several processes of the share of one.

    Args:
        model: The VAE.
        args: See `training_arguments`.
        data: Training sentences.
        validation: Held-out sentences for the diagnostics.
        recipe: Objective and evaluation settings.
        folder: Folder of the run.
        progress: Show a progress bar on stderr.
        best: Measures the model too, and keeps the best one.
        learning_rates: Peak learning rates of weights whose names begin with a prefix, such as
            `decoder.`; all others have `optimisation.learning_rate`.
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
        best: BestModel | None = None,
        learning_rates: Mapping[str, float] | None = None,
    ) -> None:
        bag_of_words = recipe.objective.bag_of_words > 0
        self.learning_rates = dict(learning_rates or {})
        super().__init__(
            _WithBagOfWords(model) if bag_of_words else model,
            args,
            data,
            Collator(model.decoder, model.encoder),
            folder / "log.jsonl",
            "training",
            progress,
            eval_dataset=validation,
        )
        self.vae = model
        self.bag = self.model.bag if isinstance(self.model, _WithBagOfWords) else None
        self.validation = validation
        self.recipe = recipe
        self.best = best
        self.schedule = build_schedule(recipe.objective)
        self.metrics: dict[str, Any] = {}
        self.measured_at = -1
        self.warnings: list[str] = []
        self._kl: list[Tensor] = []  # raw KL of the micro-batches of this step

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW, with a group of parameters for each learning rate and weight decay."""
        if self.optimizer is None:
            model = cast(nn.Module, self.model if model is None else model)
            decayed = set(self.get_decay_parameter_names(model))
            groups: dict[tuple[float, float], list[nn.Parameter]] = {}
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    weight_decay = self.args.weight_decay if name in decayed else 0.0
                    groups.setdefault((self._rate(name), weight_decay), []).append(parameter)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, cast(Any, model))
            first = self.args.learning_rate  # the log shows the rate of the first group
            self.optimizer = kind(
                [
                    {"params": groups[rate, weight_decay], "lr": rate, "weight_decay": weight_decay}
                    for rate, weight_decay in sorted(groups, key=lambda key: key[0] != first)
                ],
                **options,
            )
        return self.optimizer

    def _rate(self, name: str) -> float:
        name = name.removeprefix("module.").removeprefix("vae.")
        rates = (r for prefix, r in self.learning_rates.items() if name.startswith(prefix))
        return next(rates, self.args.learning_rate)

    @property
    def beta(self) -> float:
        """Weight of the KL term at the present step."""
        return self.schedule(self.state.global_step, self.state.max_steps)

    def parts(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of one micro-batch; nll, raw KL, KL term, beta and the further losses."""
        objective: ObjectiveSettings = self.recipe.objective
        rows, width = inputs["input_ids"].shape
        teacher = inputs.pop("teacher_vectors", None)
        config = self.vae.config
        keep = None
        if objective.word_dropout:
            draws = self.random_rows(torch.rand, rows, config.max_tokens)
            keep = draws[:, : width - 1] >= objective.word_dropout
            keep[:, 0] = True  # the bos token is not a word
        beta = self.beta
        result = model(
            **inputs,
            noise=self.random_rows(torch.randn, rows, config.latent_dim),
            keep=keep,
            beta=beta,
            kl_rule=objective.kl_rule,
            kl_threshold=objective.kl_threshold,
        )
        output, bag = result if isinstance(result, tuple) else (result, None)
        loss, kl = output.loss, output.kl.detach().sum(-1).mean()
        if objective.schedule == "target_rate":
            self._observe(kl)
        scalars = {
            "nll": output.nll,
            "kl": kl,
            "kl_term": output.kl_term,
            "beta": torch.full_like(kl, beta),
        }
        if bag is not None:
            loss = loss + objective.bag_of_words * bag
            scalars["bag_of_words"] = bag
        if teacher is not None:
            scalars["similarity"] = similarity_loss(output.mean, teacher)
            loss = loss + self.recipe.teacher.weight * scalars["similarity"]
        return loss, scalars

    def _observe(self, kl: Tensor) -> None:
        """Tell the schedule the raw KL of the step, when all its micro-batches are through."""
        self._kl.append(kl)
        if self._micro + 1 == self.args.gradient_accumulation_steps:
            mean = self.accelerator.reduce(torch.stack(self._kl).mean(), reduction="mean")
            self.schedule.observe(cast(Tensor, mean).item())
            self._kl = []

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """All diagnostics on the held-out sentences, logged with what the monitor says of them."""
        start = time.perf_counter()
        settings = self.recipe.evaluation
        with self.accelerator.autocast():
            metrics = measure(
                self.vae, self.validation, decoded=settings.decoded, seed=self.args.seed
            )
            chosen_by = self._keep_best()
        self.metrics, self.measured_at = metrics, self.state.global_step
        named = {f"{metric_key_prefix}_{k}": v for k, v in (metrics | chosen_by).items()}
        scalars = {name: value for name, value in named.items() if not isinstance(value, list)}
        self.log(scalars)
        self.write({**scalars, **named})
        progress = self.state.global_step / max(1, self.state.max_steps)
        latent_dim = self.vae.config.latent_dim
        self.warnings = diagnose(metrics, latent_dim, self.beta, progress, self.recipe)
        for warning in self.warnings:
            self.write({"warning": warning})
            if self.is_world_process_zero():
                _say(f"warning (step {self.state.global_step}): {warning}")
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        self._since += time.perf_counter() - start
        return named

    def _keep_best(self) -> dict[str, float]:
        """The measures that models are chosen by, if any."""
        if self.best is None:
            return {}
        with evaluating(self.vae):
            return self.best(self.vae, self.state.global_step, self.is_world_process_zero())

    def save_weights(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """The VAE's checkpoint, the map of the bag-of-words loss, and the beta schedule's state."""
        if self.bag is not None:
            state = None  # its names are those of both together
            folder.mkdir(parents=True, exist_ok=True)
            save_model(self.bag, str(folder / _BAG))
        write_checkpoint(self.vae, folder, state)  # in place: other processes write to it too
        (folder / "schedule.json").write_text(json.dumps(self.schedule.state()))

    def load_weights(self, folder: Path) -> None:
        """The trained weights, and the state of the beta schedule."""
        if self.bag is not None:
            load_model(self.bag, folder / _BAG)
        reload(self.vae, folder)
        self.schedule.load_state(json.loads((folder / "schedule.json").read_text()))


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

    step_name = "warmup_step"

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

    def parts(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one micro-batch, which is its nll."""
        loss = model(**inputs)["loss"]
        return loss, {"nll": loss}

    def write(self, line: dict[str, Any]) -> None:
        """Log lines of the warm-up have names of their own."""
        super().write({"warmup_nll": line["nll"]})

    def save_weights(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """The decoder in transformers' own format."""
        self.decoder.lm.save_pretrained(folder)

    def load_weights(self, folder: Path) -> None:
        """The decoder's weights."""
        load_model(self.decoder.lm, folder / "model.safetensors")


# ------------------------------------------------------------------------------- settings


def training_arguments(
    recipe: Recipe, folder: Path, steps: int, resumed: bool
) -> TrainingArguments:
    """Trainer's arguments for a recipe."""
    o, world = recipe.optimisation, processes().num_processes
    if "wandb" in recipe.output.report_to and find_spec("wandb") is None:
        raise UserError("output.report_to wandb needs wandb: pip install 'llamavae[tracking]'")
    micro = o.micro_batch_size or max(1, o.batch_size // world)
    if o.batch_size % (micro * world):
        raise UserError(
            f"optimisation.batch_size {o.batch_size} cannot be shared among {world} processes in "
            f"micro-batches of {micro}: make it a multiple of {micro * world}"
        )
    args = TrainingArguments(
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
        activation_checkpointing=o.gradient_checkpointing,
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
        accelerator_config={"dispatch_batches": False},  # each process reads its own share
        use_cpu=not torch.accelerator.is_available(),
        disable_tqdm=True,
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # torchrun uses several; without it Trainer would fall back to DataParallel
    return args


def processes() -> PartialState:
    """The processes that train together: those of `torchrun`, or this one."""
    return PartialState(cpu=not torch.accelerator.is_available())


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run; one whose writing was cut short does not count."""
    for path in sorted(folder.glob(f"{_CHECKPOINT}*"), key=_step_of, reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text())  # written last
        except (OSError, ValueError):
            continue
        return path
    return None


def _step_of(checkpoint: Path) -> int:
    """Optimiser steps that a checkpoint has behind it; -1 for another folder."""
    number = checkpoint.name.removeprefix(_CHECKPOINT)
    return int(number) if number.isdecimal() else -1


# ------------------------------------------------------------------------------- callbacks


def _say(text: str) -> None:
    """Print a line on stderr, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


class _StopSafely(TrainerCallback):
    """On the first Ctrl-C or SIGTERM, finish the step, save a checkpoint and stop."""

    def __init__(self, trainer: SentenceTrainer) -> None:
        self.trainer = trainer
        self.asked, self.process = False, os.getpid()
        self.before: dict[int, Any] = {}

    def _ask(self, number: int, *_: Any) -> None:
        if os.getpid() != self.process:  # a process that prepares batches; training ends it
            if number == signal.SIGTERM:
                sys.exit()
            return
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        _say("stopping: saving a checkpoint first (press Ctrl-C again to stop at once)")

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
            self.trainer.interrupted = True
            control.should_save = control.should_training_stop = True


class _Progress(TrainerCallback):
    """A progress bar on stderr with sentences per second and the time left."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the bar, from where the run goes on."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.label,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move on by a step."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show the newest numbers."""
        if self.bar is None or not logs:
            return
        if "eval_nll" in logs:
            shown = ("nll", "nll_shuffled", "kl", "active_units", "bleu", "bleu_shuffled")
            shown += ("similarity",)
            values = (f"{n} {logs[f'eval_{n}']:.4g}" for n in shown if f"eval_{n}" in logs)
            _say(f"step {state.global_step}: held out: {', '.join(values)}")
        elif "nll" in logs:
            text = ", ".join(f"{n} {logs[n]:.3g}" for n in ("nll", "kl", "beta") if n in logs)
            self.bar.set_postfix_str(f"{logs['sentences_per_second']:.0f} sentences/s, {text}")
