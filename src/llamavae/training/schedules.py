"""How beta, the weight of the KL term, changes over a run: small objects with a value per step.

A schedule is called before each step, `beta = schedule(step, total)`, and receives the KL
after it, `schedule.observe(kl)`. Only `TargetRate` uses the KL, so only it has a state to save.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from llamavae.errors import UserError
from llamavae.training.recipe import ObjectiveSettings


class BetaSchedule(ABC):
    """Beta at each step of a run."""

    @abstractmethod
    def __call__(self, step: int, total: int) -> float:
        """Beta, never negative.

        Args:
            step: Optimiser step, from 0; the value at `total` and beyond is that of the end.
            total: Number of optimiser steps of the run.
        """

    def observe(self, kl: float) -> None:  # noqa: B027 (only TargetRate uses it)
        """Receive the raw KL of the last step, in nats per sentence over the whole batch."""

    def state(self) -> dict[str, Any]:
        """The state to save in a checkpoint, as JSON values.

        Empty if beta depends only on step and total.
        """
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        if state:
            raise UserError(
                f"{type(self).__name__} has no state, but the checkpoint has one with "
                f"{', '.join(state)}: it was made with another objective.schedule"
            )


@dataclass(frozen=True)
class ConstantBeta(BetaSchedule):
    """The same beta throughout; 0 trains a plain autoencoder."""

    beta: float

    def __call__(self, step: int, total: int) -> float:
        """Beta; independent of the step."""
        return self.beta


@dataclass(frozen=True)
class LinearBeta(BetaSchedule):
    """Beta 0 for the part `start` of the run, then a straight rise during the part `ramp`.

    Bowman et al., arXiv 1511.06349, section 3.1 (KL cost annealing).

    Example:
        >>> schedule = LinearBeta(beta=1.0, start=0.5, ramp=0.25)
        >>> [schedule(step, 8) for step in range(0, 9)]
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    """

    beta: float
    start: float = 0.0
    ramp: float = 0.5

    def __call__(self, step: int, total: int) -> float:
        """Beta at a step; see `BetaSchedule`."""
        return self.beta * _rise(min(step, total) / total, self.start, self.ramp)


@dataclass(frozen=True)
class CyclicalBeta(BetaSchedule):
    """`cycles` equal cycles, each with a part at 0, a linear rise, and the rest at beta.

    Fu et al., arXiv 1903.10145, eq. 6, where `zero` is 0 and `ramp` is called R.

    Example:
        >>> schedule = CyclicalBeta(beta=1.0, cycles=2, zero=0.25, ramp=0.5)
        >>> [schedule(step, 16) for step in range(8)]
        [0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
        >>> schedule(8, 16), schedule(16, 16)
        (0.0, 1.0)
    """

    beta: float
    cycles: int = 4
    zero: float = 0.0
    ramp: float = 0.5

    def __call__(self, step: int, total: int) -> float:
        """Beta at a step; see `BetaSchedule`."""
        position = step * self.cycles % total / total if step < total else 1.0
        return self.beta * _rise(position, self.zero, self.ramp)


def _rise(position: float, start: float, ramp: float) -> float:
    """0 until `start`, then a straight line to 1 over the length `ramp`, then 1."""
    return min(max((position - start) / ramp, 0.0), 1.0)


@dataclass
class TargetRate(BetaSchedule):
    """Moves beta so that the KL settles at `rate` nats per sentence: a PI controller.

    Shao et al., ControlVAE, arXiv 2004.05988, section 3. Two things differ from the paper: the
    error is relative, e = 1 - KL / rate held within [-1, 1], so that the gains suit any rate; and
    the proportional term is linear. With I the integral,

        I <- clamp(I - K_i e, 0, beta_max),    beta = clamp(I - K_p e, 0, beta_max)

    The limits of I keep it from winding up while beta is at a limit of its own. A KL of twice the
    rate or more thus raises beta by K_i a step. A rate that the model does not reach even at
    beta 0 leaves beta at 0.

    Args:
        rate: The KL to hold, in nats per sentence.
        beta_max: Largest beta.
        proportional: K_p.
        integral: K_i, for each step.
    """

    rate: float
    beta_max: float = 1.0
    proportional: float = 0.05
    integral: float = 1e-3
    beta: float = field(default=0.0, init=False)
    _sum: float = field(default=0.0, init=False)

    def __call__(self, step: int, total: int) -> float:
        """Beta after the last observed KL."""
        return self.beta

    def observe(self, kl: float) -> None:
        """Move beta after a step with this raw KL, in nats per sentence."""
        if kl != kl:  # a step whose loss is NaN is ignored
            return
        error = min(max(1 - kl / self.rate, -1.0), 1.0)
        self._sum = min(max(self._sum - self.integral * error, 0.0), self.beta_max)
        self.beta = min(max(self._sum - self.proportional * error, 0.0), self.beta_max)

    def state(self) -> dict[str, Any]:
        """Beta and the integral."""
        return {"beta": self.beta, "integral": self._sum}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        if set(state) != {"beta", "integral"}:
            raise UserError(
                f"a target_rate schedule resumes from beta and integral, but the checkpoint has "
                f"{', '.join(state) or 'neither'}: it was made with another objective.schedule"
            )
        self.beta, self._sum = float(state["beta"]), float(state["integral"])


def build_schedule(settings: ObjectiveSettings) -> BetaSchedule:
    """The schedule that a recipe's `objective` asks for."""
    match settings.schedule:
        case "constant":
            return ConstantBeta(settings.beta)
        case "linear":
            return LinearBeta(settings.beta, settings.start, settings.ramp)
        case "cyclical":
            return CyclicalBeta(settings.beta, settings.cycles, settings.zero, settings.ramp)
        case "target_rate":
            assert settings.target_rate is not None  # the recipe checks it
            return TargetRate(settings.target_rate, settings.beta)
