"""A metric: its name, unit, direction, definition, source and signature, and how it aggregates."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llamavae.metrics.bootstrap import Statistic, bootstrap_interval
from llamavae.metrics.correlation import mean_correlation, pearson, spearman
from llamavae.metrics.ngrams import bleu_of_counts, chrf_of_counts

Rows = list[dict[str, Any]]


def perplexity(nats_and_tokens: NDArray[Any]) -> float:
    """Exponential of the sum of nats over the sum of tokens, both of N texts (N, 2); 1 if empty.

    Example:
        >>> perplexity(np.array([[2.0, 1], [4.0, 2]])) == math.exp(2)
        True
    """
    nats, tokens = nats_and_tokens.sum(0)
    return math.exp(nats / tokens) if tokens else 1.0


AGGREGATES: dict[str, Callable[[NDArray[Any]], float]] = {
    "mean": lambda items: float(items.mean()),
    "median": lambda items: float(np.median(items)),
    "BLEU": lambda items: bleu_of_counts(items.astype(int)),
    "chrF": lambda items: chrf_of_counts(items.astype(int)),
    "deviation": lambda items: float(items.std()),
    "ratio": lambda items: float(np.divide(*items.sum(0))),
    "perplexity": perplexity,
    "spearman": partial(mean_correlation, spearman),
    "pearson": partial(mean_correlation, pearson),
}
"""Maps names to functions of per-item values, of shape (N,) or (N, K)."""


@dataclass(frozen=True, eq=False)
class Items:
    """Per-item values of a metric, from which intervals and paired tests are computed.

    Attributes:
        values: A value for each item (N,), or a row of K values (N, K), see `AGGREGATES`.
        control: Per-item values of the control, for N or fewer items; None without control.
    """

    values: NDArray[Any]
    control: NDArray[Any] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Items) and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("values", "control")
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]


@dataclass(frozen=True)
class Metric:
    """A metric: how it is computed and how its values are read.

    Attributes:
        name: Name in tables.
        unit: Unit or range of its values. A range of numbers, such as `0 to 1`, also bounds the
            intervals.
        direction: Whether higher or lower values are better; empty if neither is.
        definition: How it is computed, in full sentences, with its source.
        control: How its control is computed, in full sentences; empty if it has none.
        aggregate: How it is computed from per-item values, a name of `AGGREGATES`.
        library: The distribution that computes it.
        settings: Settings in the form of sacrebleu's signatures, such as `tok:13a|case:mixed`, that
            are not settings of the evaluator.
    """

    name: str
    unit: str
    direction: Literal["higher", "lower", ""]
    definition: str
    control: str = ""
    aggregate: str = "mean"
    library: str = "llamavae"
    settings: str = ""

    def signature(self, settings: Mapping[str, Any] | None = None) -> str:
        """Everything that defines the metric, in the form of sacrebleu's signatures.

        It has the settings of the metric and of its evaluator, and the versions of the library
        that computes it and of llamavae. Values are comparable if their signatures are equal.

        Args:
            settings: Settings of the evaluator; those that are None are omitted.

        Example:
            >>> Metric("BLEU", "0 to 100", "higher", "BLEU.", settings="tok:13a").signature()
            'tok:13a|version:llamavae ...'
        """
        given = {name: value for name, value in (settings or {}).items() if value is not None}
        parts = [self.settings, *(f"{name}:{_compact(value)}" for name, value in given.items())]
        packages = dict.fromkeys([self.library, "llamavae"])
        versions = ", ".join(f"{name} {_version(name)}" for name in packages)
        return "|".join([*filter(None, parts), f"version:{versions}"])

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and largest possible value; infinite if the unit is not a range of numbers.

        Example:
            >>> Metric("cosine", "−1 to 1", "higher", "Cosine.").bounds
            (-1.0, 1.0)
        """
        found = re.fullmatch(r"([−\d.]+) to ([−\d.]+)", self.unit)
        if found is None:
            return -math.inf, math.inf
        low, high = (float(end.replace("−", "-")) for end in found.groups())
        return low, high

    def row(
        self,
        value: float,
        n: int,
        *,
        control: float | None = None,
        interval: tuple[float, float] | None = None,
        group: str = "",
        items: Items | None = None,
        benchmark: str = "",
    ) -> dict[str, Any]:
        """One value as a tidy row.

        Args:
            value: The value.
            n: Number of items it is computed from.
            control: Value of the control.
            interval: 95 % confidence interval of the value; it is cut at the bounds of the metric,
                which an interval that is symmetric about the value can exceed.
            group: Subset of the data, such as `words 1 to 5`; empty for all.
            items: The per-item values; `Evaluation` stores them separately from its rows.
            benchmark: Name of the benchmark, if not the sentences of the evaluation.
        """
        low, high = (None, None) if interval is None else np.clip(interval, *self.bounds).tolist()
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
            **({"benchmark": benchmark} if benchmark else {}),
            **({} if items is None else {"items": items}),
        }

    def bootstrap(
        self,
        statistic: Statistic,
        n: int,
        seed: int,
        *,
        resamples: int = 1000,
        control: float | None = None,
        group: str = "",
        items: Items | None = None,
        benchmark: str = "",
    ) -> dict[str, Any]:
        """A statistic of N items as a tidy row, with its bootstrap interval.

        Args:
            statistic: The metric as a function of item indices.
            n: Number N of items.
            seed: Seed of the bootstrap.
            resamples: Number of bootstrap samples.
            control: As for `row`.
            group: As for `row`.
            items: As for `row`.
            benchmark: As for `row`.
        """
        interval = bootstrap_interval(statistic, n, resamples=resamples, seed=seed)
        return self.row(
            statistic(np.arange(n)),
            n,
            control=control,
            interval=interval,
            group=group,
            items=items,
            benchmark=benchmark,
        )

    def mean(
        self,
        values: NDArray[Any],
        seed: int,
        *,
        resamples: int = 1000,
        control: NDArray[Any] | None = None,
        group: str = "",
    ) -> dict[str, Any]:
        """The mean over N items as a tidy row, with its bootstrap interval.

        Args:
            values: Value of each item (N,).
            seed: Seed of the bootstrap.
            resamples: Number of bootstrap samples.
            control: Control value of each item.
            group: As for `row`.
        """
        return self.bootstrap(
            lambda i: values[i].mean(),
            len(values),
            seed,
            resamples=resamples,
            control=None if control is None else float(control.mean()),
            group=group,
            items=Items(values, control),
        )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
