"""The page of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamavae.evaluation.results import interval_text, number_text
from llamavae.experiments.correlation import correlate
from llamavae.experiments.sweep import TRAINING, Sweep, geometry_and_quality, trade_off
from llamavae.files import replacing, write_csv
from llamavae.metrics.metric import Rows
from llamavae.provenance import provenance as made_by
from llamavae.report import plots
from llamavae.report.correlation import plot_correlations
from llamavae.report.page import write_page
from llamavae.report.pieces import (
    Html,
    Section,
    bold,
    figure,
    join,
    prose,
    table,
    warning,
    with_notes,
)
from llamavae.report.run import provenance


def write_sweep_report(sweep: Sweep, folder: Path) -> Path:
    """Write `report.html` and `trade-off.png` into the folder of a sweep, and `correlations.csv`.

    Returns:
        Path of the page.
    """
    plot = plots.plot_trade_off(trade_off(sweep))
    with replacing(folder / "trade-off.png") as new:
        plot.savefig(new, dpi=150)
    keys = list(sweep.runs[0].values)
    lead = (
        f"{len(sweep.runs)} models of the recipe {sweep.runs[0].recipe.name} that differ in "
        f"{' and '.join(keys)}."
    )
    sections = [
        _rate_and_distortion(sweep, figure(plot, "Distortion and BLEU against the rate")),
        *_evaluations(sweep),
        *_correlations(sweep, folder),
        provenance(made_by()),
    ]
    return write_page(folder, "Rate and distortion: a sweep", lead, sections)


def _rate_and_distortion(sweep: Sweep, plot: Html) -> Section:
    found = [warning(text, name) for name, texts in sweep.warnings.items() for text in texts]
    note = prose(
        "The KL is the rate and the NLL the distortion, both in nats per sentence of the "
        "validation set. A model is better than another if it has a lower NLL at the same KL, or "
        "the same NLL at a lower KL. BLEU is that of free-running reconstructions."
    )
    numbers = table(_across(sweep, TRAINING), "Measured at the end of training")
    return Section("Rate and distortion", join([note, plot, *found, numbers]))


def _evaluations(sweep: Sweep) -> list[Section]:
    names = dict.fromkeys(row["evaluator"] for row in sweep.rows)
    return [
        Section(name, table(_across(sweep, name), "All held-out test sentences"))
        for name in names
        if name != TRAINING
    ]


def _correlations(sweep: Sweep, folder: Path) -> list[Section]:
    """Correlation of geometry metrics and quality metrics over models, if both are available."""
    rows, geometry, quality = geometry_and_quality(sweep)
    if not geometry:
        return []
    correlations = correlate(rows, geometry, quality)
    write_csv(correlations, folder / "correlations.csv")
    found = {(row["geometry"], row["quality"]): row for row in correlations}
    matrix = [
        {
            "": a,
            **{b: _coefficient(found[a, b]) for b in quality},
            "models": found[a, quality[0]]["n"],
        }
        for a in geometry
    ]
    note = prose(
        "Spearman's rank correlation over the models, with its 95 % interval and the p-value of a "
        "permutation test. With fewer than 5 models no correlation is significant, and one of 20 "
        "pairs has p < 0.05 by chance. A change of one setting affects all metrics, so a "
        "correlation does not imply a causal relation."
    )
    plot = plot_correlations(rows, geometry[:1], quality)
    shown = figure(plot, f"Quality against {geometry[0]}")
    body = [note, table(matrix, "Geometry (rows) against quality (columns)"), shown]
    return [Section("Geometry against quality", join(body))]


def _coefficient(row: dict[str, Any]) -> str:
    if row["spearman"] is None:
        return ""
    interval = "" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}, "
    return f"{row['spearman']:.2f} ({interval}p = {row['p']:.2g})".replace("-", "−")


def _across(sweep: Sweep, evaluator: str) -> Rows:
    """A row for each metric of an evaluator, with a column for each model."""
    shown: dict[str, dict[str, Any]] = {}
    for row in sweep.rows:
        if row["evaluator"] != evaluator or row["group"]:
            continue
        metric = shown.setdefault(
            row["metric"],
            {
                "metric": row["metric"],
                **{run.name: "" for run in sweep.runs},
                "unit": row["unit"],
                "better": row["direction"],
            },
        )
        metric[row["model"]] = _cell(row)
    return list(shown.values())


def _cell(row: dict[str, Any]) -> Html:
    notes = [interval_text(row)]
    if row["control"] is not None:
        notes.append(f"control {number_text(row['control'])}")
    return with_notes(bold(number_text(row["value"])), *filter(None, notes))
