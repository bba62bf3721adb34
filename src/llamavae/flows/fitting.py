"""Maximum-likelihood training of flows, with early stopping and Gaussian baselines."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from llamavae.errors import UserError
from llamavae.flows.architectures import build_flow
from llamavae.flows.data import FlowData
from llamavae.flows.flow import Flow
from llamavae.flows.heldout import contrastive_loss, invertibility, mean_contrastive_loss, nll
from llamavae.flows.resuming import SavedFit
from llamavae.learning_rate import warmup_cosine

logger = logging.getLogger(__name__)

_RIDGE_ROWS = 20_000
_TEMPERATURE = "log_temperature"  # its name in a saved state
_RIDGES = (0.01, 1.0, 10.0, 100.0, 1000.0, 10_000.0)


@dataclass(frozen=True)
class FitConfig:
    """Training settings of a flow.

    Attributes:
        steps: Maximum number of steps; the learning rate decays to 0 over them.
        batch_size: Number of rows per step.
        learning_rate: Peak learning rate of AdamW, after a warm-up over the first 2 % of the steps.
        weight_decay: Weight decay of AdamW.
        eval_every: Number of steps between two evaluations on the held-out data.
        patience: Stop after this many evaluations without improvement of the held-out loss: the
            NLL, plus the weighted contrastive loss if it is used. The best weights are kept.
        max_grad_norm: Gradients are clipped to this norm.
        seed: Seed of the order of rows and of the noise.
        contrastive_weight: Weight of `contrastive_loss`, which is added to the NLL so that the flow
            also distinguishes contexts. It needs the reference form. Its temperature is learned.
            Larger batches make the task harder. A closed form ignores it.
        context_noise: Standard deviation of Gaussian noise added to each context, in standard
            deviations of each dimension, to prevent memorisation of contexts.
    """

    steps: int = 4000
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    eval_every: int = 200
    patience: int = 5
    max_grad_norm: float = 1.0
    seed: int = 0
    contrastive_weight: float = 0.0
    context_noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "patience"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0; got {getattr(self, name)}")
        for name in ("weight_decay", "contrastive_weight", "context_noise"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative; got {getattr(self, name)}")


@dataclass
class FlowFit:
    """Result of `fit_flow`. NLLs are held-out, in nats per dimension; lower is better.

    Attributes:
        nll: NLL of the fitted flow.
        references: NLL of `gaussian` and `linear-gaussian` on the same data.
        best_step: Step of the best weights, which are kept; 0 is the Gaussian initialisation.
        stopped: Reason for the end: `steps`, `patience`, `diverged`, or `closed form`.
        history: One row for each evaluation on the held-out data: `step`; `train_nll`, the mean
            since the previous evaluation (none at step 0); `nll`; with a contrastive weight,
            `contrastive_loss` and its `temperature`; `inverse_error`, the largest
            |T^-1(T(x)) - x|; `log_scale_min` and `log_scale_max`, the extremes over maps and rows
            of log |det| of one map, per dimension; `seconds` since the previous evaluation.
    """

    nll: float = math.inf
    references: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    stopped: str = "steps"
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def inverse_error(self) -> float:
        """Largest |T^-1(T(x)) - x| over some held-out rows, for the best weights."""
        return self.best_row["inverse_error"]

    @property
    def best_row(self) -> dict[str, float]:
        """The row of `history` of the best weights."""
        return next(row for row in self.history if row["step"] == self.best_step)

    @property
    def seconds(self) -> float:
        """Wall time until the last evaluation; repeated steps of a resumed fit do not count."""
        return sum(row["seconds"] for row in self.history)


def fit_flow(
    flow: Flow,
    x: Tensor,
    c: Tensor | None = None,
    *,
    noise: Tensor | None = None,
    valid: FlowData | None = None,
    config: FitConfig | None = None,
    state: Path | None = None,
    progress: bool = True,
) -> FlowFit:
    """Fit `flow` to data by maximum likelihood; afterwards it has its best weights, in eval mode.

    Args:
        flow: A flow from `build_flow`. It is initialised from the data and changed in place.
        x: Data (N, D).
        c: Contexts (N, C), for a flow with a context.
        noise: Standard deviations (N, D): every use of a row draws x + noise * eps.
        valid: Held-out rows for early stopping; None uses a random tenth of the data.
        config: Training settings.
        state: Folder for the state, written at each evaluation. An interrupted fit of the same flow
            to the same data resumes from there, with the same result. Remove the folder after the
            result is saved.
        progress: Show a progress bar on stderr.

    Raises:
        UserError: Shapes do not match, values are not finite or too large, there are fewer than 2
            rows to train on, or `state` belongs to another fit.

    Example:
        >>> x = 3 + torch.randn(500, 2)
        >>> fit = fit_flow(build_flow("gaussian", features=2), x, progress=False)
        >>> fit.stopped, abs(fit.nll - 1.42) < 0.2
        ('closed form', True)
    """
    began = time.perf_counter()
    config = config or FitConfig()
    sizes = flow.features, flow.context
    train = FlowData(x, c, noise).checked("the data", *sizes)
    generator = torch.Generator().manual_seed(config.seed)
    if valid is None:
        order = torch.randperm(len(train), generator=generator)
        part = max(1, len(train) // 10)
        train, valid = train.take(order[part:]), train.take(order[:part])
    else:
        valid = valid.checked("the held-out data", *sizes)
    if len(train) < 2 or not len(valid):
        raise UserError(
            "expected at least 2 training rows and 1 held-out row; "
            f"got {len(train)} and {len(valid)}"
        )
    contrasted = config.contrastive_weight > 0 and len(flow.blocks) > 0
    if contrasted and (not flow.context or flow.settings["form"] != "reference"):
        raise UserError(
            "contrastive_weight compares each row with the contexts of all others, which is only "
            "supported by a flow with a context in the reference form"
        )
    if len(train) < flow.features:
        advice = "try the flow linear-gaussian, or more data" if flow.blocks else "use more data"
        logger.warning(
            "%d rows are fewer than the %d dimensions: %s", len(train), flow.features, advice
        )
    held_out = FlowData(valid.draw(generator), valid.c)
    fit = FlowFit()
    ridge = _references(fit, flow, train, held_out, generator)
    flow.eval()  # no dropout
    flow.initialise(train.draw(generator), train.c, ridge)
    fit.nll = nll(flow, held_out)
    if not math.isfinite(fit.nll):
        raise UserError(
            "the held-out NLL of a Gaussian is not finite. Check the data for extreme values"
        )
    start: dict[str, float] = {"step": 0, "nll": fit.nll}
    if contrasted:
        loss = mean_contrastive_loss(flow, held_out, config.batch_size)
        start |= {"contrastive_loss": loss, "temperature": 1.0}
    start |= invertibility(flow, held_out)
    fit.history.append(start | {"seconds": round(time.perf_counter() - began, 2)})
    if not flow.blocks:
        fit.stopped = "closed form"
        return fit
    saved = None
    if state is not None:
        kind = [asdict(config), flow.settings, str(flow.affine.weight.dtype)]
        saved = SavedFit(state, json.dumps([kind, train.digest(), held_out.digest()]))
    _Run(flow, fit, train, held_out, config, saved, progress).run()
    return fit


def _references(
    fit: FlowFit, flow: Flow, train: FlowData, held_out: FlowData, generator: torch.Generator
) -> float:
    """Compute the NLLs of the two Gaussians; returns the best ridge penalty on the held-out data.

    The penalty is chosen on a subset of the data; in pseudo-observations it does not depend on N.
    """
    part = train.take(torch.randperm(len(train), generator=generator)[:_RIDGE_ROWS])
    ridges = _RIDGES if flow.context else (1.0,)

    def gaussian(name: str, rows: FlowData, ridge: float) -> float:
        reference = build_flow(name, flow.features, flow.context).to(flow.affine.weight)
        reference.initialise(rows.draw(generator), rows.c, ridge)
        return nll(reference, held_out)

    _, ridge = min((gaussian("linear-gaussian", part, ridge), ridge) for ridge in ridges)
    for name in ("gaussian", "linear-gaussian"):
        fit.references[name] = gaussian(name, train, ridge)
    return ridge


@dataclass
class _Run:
    """The training loop of a fit, with the best weights and the state for resuming."""

    flow: Flow
    fit: FlowFit
    train: FlowData
    held_out: FlowData
    config: FitConfig
    saved: SavedFit | None
    progress: bool

    def __post_init__(self) -> None:
        self.best = copy.deepcopy(self.flow.state_dict())
        # for each dimension of the contexts; 0 if it is constant
        c = self.train.c
        self.spread = None if c is None else c.double().std(0, correction=0).float()
        # the confidence of the densities differs from their ranking, so it is learned separately
        self.log_temperature = torch.nn.Parameter(self.flow.affine.weight.new_zeros(()))
        self.optimizer = torch.optim.AdamW(
            [*self.flow.parameters(), self.log_temperature],
            self.config.learning_rate,
            weight_decay=self.config.weight_decay,
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)

    def _rate(self, step: int) -> float:
        """Factor on the peak learning rate."""
        total = self.config.steps
        return warmup_cosine(step, total, max(1, total // 50), first=1)

    def run(self) -> None:
        """Train until the last step, early stopping or divergence; keep the best weights."""
        done = self._resume()
        total, every = self.config.steps, self.config.eval_every
        with tqdm(
            total=total,
            initial=done,
            desc="fitting",
            unit="step",
            leave=False,
            disable=not self.progress,
        ) as bar:
            try:
                for step in range(done, total, every):
                    if step - self.fit.best_step >= self.config.patience * every:
                        self.fit.stopped = "patience"
                        break
                    to = min(step + every, total)
                    row = self._train_and_evaluate(to, step, bar)
                    if row is None:
                        self.fit.stopped = "diverged"
                        logger.warning(
                            "the fit diverged between steps %d and %d: kept the weights of step "
                            "%d. Try a smaller learning rate",
                            *(step, to, self.fit.best_step),
                        )
                        break
                    self.fit.history.append(row)
                    if self._loss(row) < self._loss(self.fit.best_row):
                        self.fit.nll, self.fit.best_step = row["nll"], to
                        self.best = copy.deepcopy(self.flow.state_dict())
                    self._save(to)
            finally:  # also after an interruption
                self.flow.load_state_dict(self.best)
                self.flow.eval()

    def _loss(self, row: dict[str, float]) -> float:
        """The held-out objective in nats per dimension."""
        weight = self.config.contrastive_weight / self.flow.features
        return row["nll"] + weight * row.get("contrastive_loss", 0.0)

    def _train_and_evaluate(self, to: int, step: int, bar: Any) -> dict[str, float] | None:
        """Train from `step` to step `to` and evaluate on the held-out data; None if it diverged."""
        start = time.perf_counter()
        device = self.flow.affine.weight.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            # rows and dropout depend only on seed and step, so a resumed fit uses the same ones
            seed = self.config.seed * 1_000_003 + step
            torch.manual_seed(seed)
            train_nll = self._train(to - step, torch.Generator().manual_seed(seed), bar)
        value = nll(self.flow, self.held_out) if math.isfinite(train_nll) else math.nan
        if not math.isfinite(value):
            return None
        bar.set_postfix_str(f"held-out NLL {value:.4f} nats per dimension")
        row = {"step": to, "train_nll": train_nll, "nll": value}
        if self.config.contrastive_weight:
            size, temperature = self.config.batch_size, self.log_temperature.exp()
            loss = mean_contrastive_loss(self.flow, self.held_out, size, temperature)
            row |= {"contrastive_loss": loss, "temperature": temperature.item()}
        row |= invertibility(self.flow, self.held_out)
        return row | {"seconds": round(time.perf_counter() - start, 2)}

    def _train(self, steps: int, generator: torch.Generator, bar: Any) -> float:
        """Train for some steps; returns their mean NLL, which is not finite after divergence."""
        self.flow.train()
        total = 0.0
        for index in self._batches(steps, generator):
            part = self.train.take(index)
            x = part.draw(generator)
            p = self.flow(self._blurred(part.c, generator))
            y, log_det = p.transform.call_and_ladj(x)
            train_nll = loss = -(p.base.log_prob(y) + log_det).mean() / self.flow.features
            if self.config.contrastive_weight and part.c is not None:
                weight = self.config.contrastive_weight / self.flow.features
                temperature = self.log_temperature.exp()
                loss = loss + weight * contrastive_loss(p.base, y, part.c, temperature)
            if not loss.isfinite():
                return math.nan
            self.optimizer.zero_grad()
            with torch.autocast(loss.device.type, enabled=False):
                loss.backward()
            torch.nn.utils.clip_grad_norm_(self.flow.parameters(), self.config.max_grad_norm)
            self.optimizer.step()
            self.scheduler.step()
            total += train_nll.item()
            bar.update()
        self.flow.eval()
        return total / steps

    def _blurred(self, c: Tensor | None, generator: torch.Generator) -> Tensor | None:
        """The contexts with noise."""
        if not self.config.context_noise or c is None or self.spread is None:
            return c
        eps = torch.randn(c.shape, generator=generator)
        return c + self.config.context_noise * self.spread * eps

    def _batches(self, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Row indices of each step: passes over the data in random order, split into batches."""
        size = min(self.config.batch_size, len(self.train))
        passes = -(-steps * size // len(self.train))
        order = torch.cat(
            [torch.randperm(len(self.train), generator=generator) for _ in range(passes)]
        )
        return iter(order[: steps * size].split(size))

    def _save(self, step: int) -> None:
        if self.saved is not None:
            flow = {**self.flow.state_dict(), _TEMPERATURE: self.log_temperature.detach()}
            weights = {"flow": flow, "best": self.best}
            self.saved.write(step, weights, self.optimizer, self.scheduler, asdict(self.fit))

    def _resume(self) -> int:
        """Load the state of an interrupted run; returns the number of finished steps."""
        found = None if self.saved is None else self.saved.read(self.optimizer, self.scheduler)
        if found is None:
            self._save(0)  # with the initial random weights
            return 0
        weights, report = found
        self.log_temperature.data.copy_(weights["flow"].pop(_TEMPERATURE))
        self.flow.load_state_dict(weights["flow"])
        self.best = weights["best"]
        vars(self.fit).update(report)
        return int(self.fit.history[-1]["step"])
