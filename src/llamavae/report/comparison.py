"""The HTML page of a comparison of several systems."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llamavae.evaluation.comparison import SIGNIFICANT, lines
from llamavae.evaluation.results import Results, interval_text, number_text
from llamavae.metrics.metric import Rows
from llamavae.report import plots
from llamavae.report.page import write_page
from llamavae.report.pieces import (
    Html,
    Section,
    bold,
    details,
    figure,
    join,
    prose,
    table,
    with_notes,
)


def write_comparison(evaluations: Sequence[Results], rows: Rows, folder: Path) -> Path:
    """Write `report.html` about a comparison.

    Args:
        evaluations: The evaluations to compare.
        rows: Rows of `llamavae.evaluation.comparison.compare`.
        folder: Existing folder for the page.

    Returns:
        Path of the page.
    """
    systems = [results.system for results in evaluations]
    sections = [_numbers(evaluations, rows), *_details(systems, rows), _measured(evaluations)]
    lead = f"{len(systems)} systems; the others are compared with {systems[0]}."
    return write_page(folder, " and ".join(systems), lead, sections)


def _numbers(evaluations: Sequence[Results], rows: Rows) -> Section:
    """The primary metrics as a table and as a bar chart."""
    primary = {
        (name, row["metric"], row["group"])
        for results in evaluations
        for name, found in results.found.items()
        if (row := found.primary)
    }
    chosen = [row for row in rows if (row["evaluator"], row["metric"], row["group"]) in primary]
    systems = [results.system for results in evaluations]
    note = prose(
        "Each cell shows the value, its 95 % interval and the result of the comparison with the "
        "first system. p is the two-sided p-value of a paired bootstrap over sentences (Koehn "
        f"2004); a difference is called better or worse if p < {SIGNIFICANT:g}. Without true "
        "differences, one of 20 metrics is expected to fall below that by chance. A difference is "
        "not tested if per-sentence values are missing or if the two evaluations differ in data "
        "or settings."
    )
    bars = [
        {**row, "metric": title}
        for title, found in lines(chosen)
        for row in found.values()
        if row["direction"]
    ]
    body = [note, _side_by_side(systems, chosen, "Primary metrics")]
    if bars:
        plot = plots.plot_scores(bars)
        body.append(figure(plot, "Primary metrics; the dashed mark is the control"))
    return Section("Metrics", join(body))


def _details(systems: Sequence[str], rows: Rows) -> list[Section]:
    sections = []
    for name in dict.fromkeys(row["evaluator"] for row in rows):
        ours = [row for row in rows if row["evaluator"] == name]
        whole = [row for row in ours if not row["group"]]
        parts = [row for row in ours if row["group"]]
        body = [_side_by_side(systems, whole, "All metrics")] if whole else []
        if parts:
            body.append(details("Parts of the data", _side_by_side(systems, parts)))
        sections.append(Section(name, join(body)))
    return sections


def _side_by_side(systems: Sequence[str], rows: Rows, caption: str = "") -> Html:
    """A row for each metric, group and benchmark, and a column for each system."""
    table_rows = []
    for title, found in lines(rows):
        row = next(iter(found.values()))
        better = f"; {row['direction']} is better" if row["direction"] else ""
        table_rows.append(
            {"metric": with_notes(title, row["unit"] + better)}
            | {system: _cell(found.get(system)) for system in systems}
        )
    return table(table_rows, caption)


def _cell(row: dict[str, Any] | None) -> Html | str:
    if row is None:
        return "not measured"
    notes = filter(None, (interval_text(row), _verdict_text(row)))
    return with_notes(bold(number_text(row["value"])), *notes)


def _verdict_text(row: dict[str, Any]) -> str:
    """Description of the difference from the first system."""
    if row["difference"] is None:
        return ""
    return "not tested" if row["p"] is None else f"{row['verdict']}, p = {row['p']:.3f}"


def _measured(evaluations: Sequence[Results]) -> Section:
    rows = [
        {
            "system": results.system,
            "model": results.model.get("source") or "",
            "sentences": f"{results.data['texts']} of {results.data.get('corpus') or 'a corpus'} "
            f"({results.data.get('split') or 'all'})",
            "seed": str(results.data["seed"]),
            "hash of the data": results.data["hash"],
        }
        for results in evaluations
    ]
    note = (
        "Differences are tested only between systems that were evaluated on the same sentences "
        "(equal hash of the data) and with the same settings of the evaluator."
    )
    return Section("Data", join([prose(note), table(rows)]))
