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

    Only rows of the same benchmark are compared. The benchmark of a row without one of its own is
    the corpus and split of its evaluation.

    Row: `system`, `evaluator`, `metric`, `group`, `value`, `low`, `high`, `control`, `unit`,
    `direction`, `n` and `benchmark` as in the evaluations, and, for all but the first system:
    `difference` (its value minus the first one's; None if the first has no value on the
    benchmark), `difference_low` and `difference_high` (its 95 % interval; None without p), `p`
    (two-sided, of the paired bootstrap; None if the per-item values are unknown or the two
    evaluations differ in sentences, settings, signature of the metric or encoder, their `judge`),
    `test` (`paired bootstrap`; empty without p) and `verdict`: `better`, `worse` (`higher`,
    `lower` for a metric without a direction), or `no clear difference`; empty without p.

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
    tables = [{_key(row, results): row for row in results.rows} for results in evaluations]
    rows: Rows = []
    for key in dict.fromkeys(key for table in tables for key in table):
        base = tables[0].get(key)
        shown = next(table[key] for table in tables if key in table)
        same = {"group": shown["group"], "benchmark": key[-1]}
        if base is not None:
            rows.append({"system": first.system, **base, **same, **_NOTHING})
        for other, table in zip(others, tables[1:], strict=True):
            if key in table:
                row, found = table[key], _NOTHING
                if base is not None:
                    found = _difference(first, other, base, row, resamples)
                rows.append({"system": other.system, **row, **same, **found})
    return rows


def lines(rows: Rows) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Rows of `compare` as lines of a table: a title, and a dictionary from systems to rows.

    The title is the metric with its group, and with its benchmark where the same metric was
    computed on several.
    """
    found: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    benchmarks: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        key = row["evaluator"], row["metric"], row["group"]
        found.setdefault((*key, row["benchmark"]), {})[row["system"]] = row
        benchmarks.setdefault(key, set()).add(row["benchmark"])
    return [
        (_title(*key[1:], several=len(benchmarks[key[:-1]]) > 1), line)
        for key, line in found.items()
    ]


def _title(metric: str, group: str, benchmark: str, several: bool) -> str:
    names = [metric, group, benchmark if several and benchmark != group else ""]
    return ", ".join(filter(None, names))


def _key(row: dict[str, Any], results: Results) -> tuple[str, str, str, str]:
    """What two rows must have in common to be compared, the benchmark last.

    The group is ignored for a row with its own benchmark, since its group is that benchmark or,
    for the first of several, empty.
    """
    group, benchmark = row["group"], row.get("benchmark")
    if benchmark:
        group = ""
    else:
        data = results.data
        benchmark = ", ".join(filter(None, (data.get("corpus"), data.get("split"))))
    return row["evaluator"], row["metric"], group, benchmark


_NOTHING: dict[str, Any] = {
    **dict.fromkeys(("difference", "difference_low", "difference_high", "p")),
    "test": "",
    "verdict": "",
}


def _difference(
    first: Results, other: Results, base: dict[str, Any], row: dict[str, Any], resamples: int
) -> dict[str, Any]:
    """The difference of two rows of the same metric, with its significance test if possible."""
    found = {**_NOTHING, "difference": row["value"] - base["value"]}
    ours, theirs = other.found[row["evaluator"]], first.found[row["evaluator"]]
    if first.data["hash"] != other.data["hash"] or _decisive(ours, row) != _decisive(theirs, base):
        return found
    a, b = (
        one.evaluation.items.get((row["metric"], each["group"]))
        for one, each in ((ours, row), (theirs, base))
    )
    if a and b and len(a.values) == len(b.values):
        metric = _metric(ours, row)
        of, seed = AGGREGATES[metric["aggregate"]], int(first.data["seed"])
        _, low, high, p = paired_bootstrap(
            lambda i: of(a.values[i]),
            lambda i: of(b.values[i]),
            len(a.values),
            resamples=resamples,
            seed=seed,
        )
        found |= {"difference_low": low, "difference_high": high, "p": p}
        return found | {"test": "paired bootstrap", "verdict": _verdict(found, row, p)}
    return found


def _metric(found: Found, row: dict[str, Any]) -> dict[str, Any]:
    return next(metric for metric in found.metrics if metric["name"] == row["metric"])


def _decisive(found: Found, row: dict[str, Any]) -> tuple[Any, ...]:
    """Everything that a value depends on: settings, missing parts, encoder and signature."""
    settings = {name: value for name, value in found.settings.items() if name != "batch_size"}
    signature = _metric(found, row).get("signature")
    return settings, sorted(found.evaluation.not_found), row.get("judge", ""), signature


def _verdict(found: dict[str, Any], row: dict[str, Any], p: float) -> str:
    if p >= SIGNIFICANT:
        return "no clear difference"
    higher = found["difference"] > 0
    if not row["direction"]:
        return "higher" if higher else "lower"
    return "better" if higher == (row["direction"] == "higher") else "worse"
