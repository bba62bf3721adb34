"""What a number means: the name, unit, direction, definition and source of a metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from llamavae.metrics.bootstrap import bootstrap_interval


@dataclass(frozen=True)
class Metric:
    """What a number means.

    Attributes:
        name: As it stands in tables.
        unit: The scale of its values.
        direction: Which values are better; empty where neither is better in itself.
        definition: How it is computed, with its source.
        control: What the control beside it is; empty where there is none.
    """

    name: str
    unit: str
    direction: Literal["higher", "lower", ""]
    definition: str
    control: str = ""

    def row(
        self,
        value: float,
        n: int,
        *,
        control: float | None = None,
        interval: tuple[float, float] | None = None,
        group: str = "",
    ) -> dict[str, Any]:
        """One number as a tidy row.

        Args:
            value: The number.
            n: Items that it was computed from.
            control: The same under the measure's control.
            interval: Its 95 % interval.
            group: The part of the data it is about, such as `words 1 to 5`; empty for all.
        """
        low, high = interval or (None, None)
        return {
            "metric": self.name,
            "group": group,
            "value": float(value),
            "control": None if control is None else float(control),
            "low": low,
            "high": high,
            "unit": self.unit,
            "direction": self.direction,
            "n": n,
        }

    def mean(
        self,
        values: NDArray[Any],
        seed: int,
        *,
        control: NDArray[Any] | None = None,
        group: str = "",
    ) -> dict[str, Any]:
        """The mean of N items as a tidy row, with its bootstrap interval.

        Args:
            values: One for each item (N,).
            seed: Seed of the bootstrap.
            control: The same items under the measure's control.
            group: As for `row`.
        """
        return self.row(
            float(values.mean()),
            len(values),
            control=None if control is None else float(control.mean()),
            interval=bootstrap_interval(lambda i: values[i].mean(), len(values), seed=seed),
            group=group,
        )


Rows = list[dict[str, Any]]
