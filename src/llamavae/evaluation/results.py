"""The folder of an evaluation: reading and writing.

    results.json                 model and data; for each evaluator its settings, rows, plots,
                                 sentences, provenance and missing parts; skipped and failed
                                 evaluators, with the reason
    rows.csv                     all values as one table
    EVALUATOR/TABLE.jsonl        the underlying texts, curves and codes, one JSON object per line
    EVALUATOR/predictions.jsonl  the texts of evaluators that generate one for each sentence, see
                                 `llamavae.evaluation.predictions`
    EVALUATOR/items.jsonl        per-item values of metrics and their controls

Each file is replaced atomically, and results.json last, so all files that it names exist.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import Evaluation, Plot
from llamavae.files import disk_errors, replacing_folder, write_csv, write_text
from llamavae.manifest import verify
from llamavae.metrics.metric import Items, Rows
from llamavae.parsing import damage_errors, read_json, read_json_lines


@dataclass
class Found:
    """Results of one evaluator.

    Attributes:
        evaluation: Its rows and tables.
        metrics: Its metrics as dictionaries with their `signature`, the primary one first.
        settings: Its settings.
        seconds: Run time.
        made_by: Command, versions and machine, see `llamavae.provenance`.
        sentences: Which sentences of the data were evaluated, such as a random sample.
    """

    evaluation: Evaluation
    metrics: Rows
    settings: dict[str, Any]
    seconds: float
    made_by: dict[str, Any]
    sentences: str = ""

    @property
    def primary(self) -> dict[str, Any] | None:
        """The row of the primary metric over all the data, or else the first row."""
        name = self.metrics[0]["name"]
        rows = [row for row in self.evaluation.rows if row["metric"] == name]
        return next((row for row in rows if not row["group"]), rows[0] if rows else None)


@dataclass
class Results:
    """Contents of an evaluation's folder.

    Attributes:
        system: Name of the system.
        model: Its `source` and `fingerprint`, and `run`, the description of its training run.
        data: The evaluation data: `corpus`, `split`, `texts`, `seed`, hashes.
        found: Maps evaluators to their results.
        skipped: Maps skipped evaluators to the unmet requirement.
        failed: Maps failed evaluators to the error message.
    """

    system: str
    model: dict[str, Any]
    data: dict[str, Any]
    found: dict[str, Found] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def not_found(self) -> dict[str, str]:
        """Maps evaluators and their parts without data to the reason."""
        return {
            f"{name}, {part}": reason
            for name, found in self.found.items()
            for part, reason in found.evaluation.not_found.items()
        }

    @property
    def rows(self) -> Rows:
        """All rows, with the evaluator as the first column."""
        return [
            {"evaluator": name, **row}
            for name, found in self.found.items()
            for row in found.evaluation.rows
        ]


EVALUATION = "an evaluation"
"""What the folder holds, for `llamavae.folders`."""


def read_results(folder: Path) -> Results:
    """Read an evaluation's folder.

    Raises:
        UserError: The folder holds no evaluation, or a file is damaged.
    """
    path = folder / "results.json"
    verify(folder)
    try:
        saved = read_json(path, _KINDS, _ADVICE)
        with damage_errors(path, _ADVICE):
            evaluators = saved.pop("evaluators")
            found = {
                name: _read_found(folder / name, values) for name, values in evaluators.items()
            }
            return Results(**saved, found=found)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no evaluation: {error.filename} is missing. Create one with llamavae "
            "evaluate"
        ) from error


_KINDS = {"system": str, "model": dict, "data": dict, "evaluators": dict}
_ADVICE = "Pass a folder that llamavae evaluate wrote"


def _read_found(folder: Path, values: dict[str, Any]) -> Found:
    tables = {name: read_json_lines(folder / _file(name)) for name in values.pop("tables")}
    items = {}
    for line in read_json_lines(folder / _ITEMS):
        control = line["control"]
        items[line["metric"], line["group"]] = Items(
            np.array(line["values"]), None if control is None else np.array(control)
        )
    plots = {
        name: Plot(plot["kind"], tuple(plot["columns"]), plot["caption"])
        for name, plot in values.pop("plots", {}).items()
    }
    evaluation = Evaluation(values.pop("rows"), tables, values.pop("not_found", {}), items, plots)
    return Found(evaluation, **values)


_ITEMS = "items.jsonl"


def _file(table: str) -> str:
    return f"{table.replace(' ', '-')}.jsonl"


def write_results(results: Results, folder: Path, changed: str | None = None) -> None:
    """Write an evaluation's folder.

    Args:
        results: Its contents.
        folder: Folder, which is created if it does not exist.
        changed: The evaluator whose tables are new; those of the others are not rewritten.

    Raises:
        UserError: The folder cannot be written.
    """
    values = {
        "system": results.system,
        "model": results.model,
        "data": results.data,
        "evaluators": {
            name: {
                "rows": found.evaluation.rows,
                "tables": list(found.evaluation.tables),
                "not_found": found.evaluation.not_found,
                "plots": {name: vars(plot) for name, plot in found.evaluation.plots.items()},
                **{key: value for key, value in vars(found).items() if key != "evaluation"},
            }
            for name, found in results.found.items()
        },
        "skipped": results.skipped,
        "failed": results.failed,
    }
    own = ["rows.csv", "results.json", *([changed] if changed else [])]
    with (
        disk_errors(folder, "run the command again: what is finished is kept"),
        replacing_folder(folder, own=own) as new,
    ):
        if changed is not None:
            _write_tables(results.found[changed].evaluation, new / changed)
        if results.rows:
            write_csv(results.rows, new / "rows.csv")
        write_text(new / "results.json", _json(values, indent=1) + "\n")


def _write_tables(evaluation: Evaluation, folder: Path) -> None:
    folder.mkdir()
    for name, rows in evaluation.tables.items():
        write_text(folder / _file(name), "".join(f"{_json(row)}\n" for row in rows))
    lines = (
        f"{_json({'metric': metric, 'group': group, **vars(items)})}\n"
        for (metric, group), items in evaluation.items.items()
    )
    write_text(folder / _ITEMS, "".join(lines))


def _json(values: Any, indent: int | None = None) -> str:
    return json.dumps(values, indent=indent, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """A numpy or torch number or array as a JSON value; any other object as a string."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


# ------------------------------------------------------------------------------- as text


def number_text(value: float) -> str:
    """Format a number with four significant digits.

    Example:
        >>> number_text(0.123456), number_text(1234567.0), number_text(32.0)
        ('0.1235', '1,234,567', '32')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def interval_text(row: Mapping[str, Any]) -> str:
    """Format the 95 % interval of a row; empty if it has none.

    Example:
        >>> interval_text({"low": 0.25, "high": 0.5})
        '0.25 to 0.5'
    """
    if row["low"] is None:
        return ""
    return f"{number_text(row['low'])} to {number_text(row['high'])}"
