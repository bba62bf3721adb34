"""Comparison of several evaluations, with significance tests of their differences.

Systems evaluated on the same sentences are compared sentence by sentence with the paired
bootstrap, where the folder holds the per-sentence values of a metric. No other difference is
tested: intervals describe one system alone, and some are over seeds instead of sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamavae.errors import UserError
from llamavae.evaluation.results import Found, Results
from llamavae.metrics.bootstrap import paired_bootstrap
from llamavae.metrics.metric import AGGREGATES, Rows

SIGNIFICANT = 0.05
"""Significance level. Without a true difference, 1 of 20 tests falls below it by chance."""


def compare(evaluations: Sequence[Results], resamples: int = 1000) -> Rows:
    """Rows of several evaluations, each with its difference from the first evaluation.

    Row: `system`, `evaluator`, `metric`, `group`, `value`, `low`, `high`, `control`, `unit`,
    `direction` and `n` as in the evaluations, and, for all but the first system: `difference` (its
    value minus the first one's; None if the benchmarks differ), `p` (two-sided, of the paired
    bootstrap; None if the per-item values are unknown or the two evaluations differ in sentences,
    settings or encoder, their `judge`), `test` (`paired bootstrap`; empty without p) and
    `verdict`: `better`, `worse`
    (`higher`, `lower` for a metric without a direction), or `no clear difference`; empty without
    p.

    Args:
        evaluations: At least two evaluations, of systems with different names.
        resamples: Number of bootstrap samples.

    Raises:
        UserError: There are fewer than two evaluations, or two have the same name.
    """
    names = [results.system for results in evaluations]
    if len(evaluations) < 2 or len(set(names)) < len(names):
        raise UserError(
            "expected at least two evaluations, of systems with different names; got "
            f"{', '.join(names) or 'none'}"
        )
    first, *others = evaluations
    tables = [
        {(row["evaluator"], row["metric"], row["group"]): row for row in results.rows}
        for results in evaluations
    ]
    rows: Rows = []
    for key in dict.fromkeys(key for table in tables for key in table):
        base = tables[0].get(key)
        if base is not None:
            rows.append({"system": first.system, **base, **_NOTHING})
        for other, table in zip(others, tables[1:], strict=True):
            if key in table:
                row, found = table[key], _NOTHING
                if base is not None:
                    found = _difference(first, other, base, row, resamples)
                rows.append({"system": other.system, **row, **found})
    return rows


_NOTHING: dict[str, Any] = {"difference": None, "p": None, "test": "", "verdict": ""}


def _difference(
    first: Results, other: Results, base: dict[str, Any], row: dict[str, Any], resamples: int
) -> dict[str, Any]:
    """The difference of two rows of the same metric, with its significance test if possible."""
    if row.get("benchmark") != base.get("benchmark"):
        return _NOTHING
    found = {**_NOTHING, "difference": row["value"] - base["value"]}
    ours, theirs = other.found[row["evaluator"]], first.found[row["evaluator"]]
    if first.data["hash"] != other.data["hash"] or _decisive(ours, row) != _decisive(theirs, base):
        return found
    key = row["metric"], row["group"]
    a, b = (one.evaluation.items.get(key) for one in (ours, theirs))
    if a and b and len(a.values) == len(b.values):
        metric = next(m for m in ours.metrics if m["name"] == row["metric"])
        of, seed = AGGREGATES[metric["aggregate"]], int(first.data["seed"])
        p = paired_bootstrap(
            lambda i: of(a.values[i]),
            lambda i: of(b.values[i]),
            len(a.values),
            resamples=resamples,
            seed=seed,
        ).p
        return found | {"p": p, "test": "paired bootstrap", "verdict": _verdict(found, row, p)}
    return found


def _decisive(found: Found, row: dict[str, Any]) -> tuple[Any, ...]:
    """Everything that a value depends on: settings, missing parts, encoder and benchmark."""
    settings = {name: value for name, value in found.settings.items() if name != "batch_size"}
    return settings, sorted(found.evaluation.not_found), row.get("judge", "")


def _verdict(found: dict[str, Any], row: dict[str, Any], p: float) -> str:
    if p >= SIGNIFICANT:
        return "no clear difference"
    higher = found["difference"] > 0
    if not row["direction"]:
        return "higher" if higher else "lower"
    return "better" if higher == (row["direction"] == "higher") else "worse"
