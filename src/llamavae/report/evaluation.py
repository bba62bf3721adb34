"""The report of an evaluation: metrics with their controls, plots and example sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamavae.evaluation.data import run_folders
from llamavae.evaluation.evaluator import Plot
from llamavae.evaluation.results import Found, Results, interval_text, number_text, read_results
from llamavae.evaluation.tasks import by_reason
from llamavae.metrics.metric import Rows
from llamavae.parsing import damage_errors
from llamavae.report import plots
from llamavae.report.page import write_page
from llamavae.report.pieces import (
    Html,
    Section,
    bold,
    details,
    escape,
    facts,
    figure,
    gallery,
    join,
    prose,
    table,
    warning,
    with_notes,
)
from llamavae.report.run import about, read_run, training
from llamavae.report.texts import TEXTS, text_sections

_FEW = 10  # number of rows shown per table; the folder has all
_MAPPED = 4  # maximum number of labels to colour a projection by


def write_evaluation_report(folder: Path) -> Path:
    """Write `report.html` into the folder of an evaluation.

    If the training run of the model is known, the page also shows its settings and training curves.

    Args:
        folder: Output folder of `llamavae evaluate`.

    Returns:
        Path of the page.

    Raises:
        UserError: The folder holds no evaluation.
    """
    results = read_results(folder)
    run = results.model.get("run")
    texts = {
        name: rows
        for found in results.found.values()
        for name, rows in found.evaluation.tables.items()
        if name in TEXTS
    }
    source = results.model.get("source") or results.system
    unknown = Section("The model", prose(f"{source}. Its training run is unknown."))
    sections = [
        about(run["recipe"], run.get("sentences")) if run else unknown,
        headline(results),
        *text_sections(texts),
        *(_evaluator_section(name, found) for name, found in results.found.items()),
        *_training(results),
        how(results),
    ]
    data, n = results.data, len(results.found)
    lead = (
        f"{n} evaluator{'' if n == 1 else 's'} on {data['texts']} sentences of "
        f"{data.get('corpus') or 'a corpus'} ({data.get('split', 'all')}), seed {data['seed']}."
    )
    return write_page(folder, f"{results.system}: evaluation", lead, sections)


# ------------------------------------------------------------------------------- numbers


def headline(results: Results) -> Section:
    """Skipped and failed evaluators, and the primary metric of each evaluator."""
    lost = [
        warning(f"{what}: {reason}", name)
        for what, outcomes in (
            ("failed", results.failed),
            ("was skipped", results.skipped),
            ("was not found", results.not_found),
        )
        for name, reason in by_reason(outcomes).items()
    ]
    rows = [
        _number(row, found) | {"metric": _linked(name, row)}
        for name, found in results.found.items()
        if (row := found.primary)
    ]
    note = prose(
        "Intervals are 95 % bootstrap confidence intervals over sentences, unless the definition "
        "says otherwise. The control is the value of the same metric for shuffled or random data, "
        "or for a simpler system. A value is meaningful only in comparison with its control."
    )
    return Section("Metrics", join([*lost, table(rows, "Primary metrics"), note]))


def _linked(name: str, row: Mapping[str, Any]) -> Html:
    """The name of a metric, with a link to the section of its evaluator."""
    link = Html(f'<a href="#{escape(_id(name))}">{escape(row["metric"])}</a>')
    return with_notes(link, *filter(None, (name, row["group"], row["unit"])))


def _number(row: Mapping[str, Any], found: Found, control: bool = True) -> dict[str, Any]:
    """A row as the columns of a table, with or without the definition of its control."""
    metric = next((m for m in found.metrics if m["name"] == row["metric"]), {})
    how = [metric.get("definition", ""), f"N = {row['n']:,}."]
    if control and row["control"] is not None:
        how.append(f"Control: {metric.get('control') or 'the same metric.'}")
    if signature := metric.get("signature"):
        how.append(f"Signature: {signature}")
    note = " ".join(filter(None, how))
    return {
        "metric": with_notes(row["metric"], row["unit"]),
        **_values(row),
        "better": row["direction"],
        "how it is obtained": with_notes("", note),
    }


def _evaluator_section(name: str, found: Found) -> Section:
    """The results of an evaluator: metrics, plots, and the first rows of its tables."""
    whole = [row for row in found.evaluation.rows if not row["group"]]
    parts = [row for row in found.evaluation.rows if row["group"]]
    controls = [m["control"] for m in found.metrics if m["control"]]
    one = len(controls) > 1 and len(set(controls)) == 1
    body = [prose(f"Control: {controls[0]}")] if one else []
    if whole:
        body.append(table([_number(row, found, not one) for row in whole], "All metrics"))
    if parts:
        groups = [
            {"metric": row["metric"], "part": row["group"], **_values(row), "n": row["n"]}
            for row in parts
        ]
        body.append(details(f"By group: {len(parts)} values", table(groups)))
    shown = {n: t for n, t in found.evaluation.tables.items() if n not in TEXTS and t}
    drawn = [
        each
        for table_name, plot in found.evaluation.plots.items()
        if table_name in shown
        for each in _figures(table_name, shown[table_name], plot)
    ]
    if drawn:
        body.append(gallery(drawn))
    for each, rows in shown.items():
        few = [
            {name: "" if row.get(name) is None else row[name] for name in _columns(rows)}
            for row in rows[:_FEW]
        ]
        start = "all" if len(rows) <= _FEW else f"the first {_FEW} of"
        body.append(details(f"{each}: {start} {len(rows):,} rows", table(few)))
    return Section(name, join(body), _id(name))


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    """The value, interval and control of a row as columns of a table."""
    return {
        "value": bold(number_text(row["value"])),
        "95 % interval": interval_text(row),
        "control": "" if row["control"] is None else number_text(row["control"]),
    }


def _figures(name: str, rows: Rows, plot: Plot) -> list[Html]:
    """The figures of a table."""
    match plot.kind:
        case "map":
            labels = plot.columns[:_MAPPED]
            return [figure(plots.plot_map(rows, label), f"{name}: {label}") for label in labels]
        case "bars":
            kl, active = ([row[column] for row in rows] for column in plot.columns)
            drawn = plots.plot_kl_per_dimension(kl, sum(active))
        case "squares":
            drawn = plots.plot_squares(rows, *plot.columns)
        case "curve":
            drawn = plots.plot_curve(rows, *plot.columns)
    return [figure(drawn, plot.caption)]


def _columns(rows: Rows) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _id(name: str) -> str:
    return f"evaluator-{name}"


# ------------------------------------------------------------------------------- the end


def _training(results: Results) -> list[Section]:
    """Training curves of the run, if its folder still exists."""
    for folder in run_folders(results.model.get("source") or ""):
        if (folder / "log.jsonl").is_file() and (folder / "results.json").is_file():
            finished, log = read_run(folder)
            with damage_errors(folder):
                return [training(log, finished["metrics"])]
    return []


def _chosen(data: Mapping[str, Any]) -> str:
    """How the sentences were chosen, if their number is limited."""
    limit = data.get("limit")
    return f" (at most {limit:,}, chosen at random with the seed)" if limit else ""


def how(results: Results) -> Section:
    """Model, data, and settings, run time, command and machine of each evaluator."""
    data, model = results.data, results.model
    refine = [f"{name} {value}" for name, value in (model.get("refine") or {}).items()]
    known = {
        "model": model.get("source") or results.system,
        "codes": f"refined ({', '.join(refine)})" if refine else "the encoder's",
        "fingerprint of the model": model["fingerprint"],
        "corpus": f"{data.get('corpus') or ''}, {data.get('split') or 'all'}, "
        f"{data['texts']} sentences{_chosen(data)}",
        "labels": ", ".join(data["labels"]) or "none",
        "training sentences, for novelty": f"{data['training_texts']:,}",
        "seed": data["seed"],
        "hash of the data": data["hash"],
    }
    runs: dict[str, list[str]] = {}
    for name, found in results.found.items():
        runs.setdefault(json.dumps(found.made_by), []).append(name)
    made = [
        (key, value or "installed package")
        for made_by, names in runs.items()
        for key, value in {"measured": ", ".join(names), **json.loads(made_by)}.items()
    ]
    settings = [
        {
            "evaluator": name,
            "seconds": found.seconds,
            "sentences": found.sentences,
            "settings": ", ".join(f"{k} = {json.dumps(v)}" for k, v in found.settings.items()),
        }
        for name, found in results.found.items()
    ]
    body = [
        facts(known.items(), "Model and data"),
        facts(made, "Command and machine"),
        table(settings, "Settings of the evaluators"),
    ]
    return Section("Provenance", join(body))
