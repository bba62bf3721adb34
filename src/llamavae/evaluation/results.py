"""What an evaluation leaves in its folder, written and read.

    results.json                 what was measured on what; per evaluator its settings, rows and
                                 how they were obtained, and what of it was not found; what was
                                 skipped or failed, and why
    rows.csv                     all numbers as one table
    EVALUATOR/TABLE.jsonl        texts, curves and points behind the numbers, a JSON object a line
    EVALUATOR/items.jsonl        what each item adds to each number, and to its control

Each file is replaced as a whole, and results.json last: what it names is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import Evaluation
from llamavae.evaluation.generations import write_csv
from llamavae.files import disk_errors, write_text
from llamavae.metrics.metric import Items, Rows


@dataclass
class Found:
    """What one evaluator found.

    Attributes:
        evaluation: Its rows and tables.
        metrics: Its measures as dictionaries, the primary one first.
        settings: Its settings.
        seconds: How long it took.
        made_by: Command, versions and machine, see `llamavae.provenance`.
    """

    evaluation: Evaluation
    metrics: Rows
    settings: dict[str, Any]
    seconds: float
    made_by: dict[str, Any]

    @property
    def primary(self) -> dict[str, Any] | None:
        """The row of the primary measure over all the data, or else its first row."""
        name = self.metrics[0]["name"]
        rows = [row for row in self.evaluation.rows if row["metric"] == name]
        return next((row for row in rows if not row["group"]), rows[0] if rows else None)


@dataclass
class Results:
    """Contents of an evaluation's folder.

    Attributes:
        system: Name of what was measured.
        model: `source` and `fingerprint` of it, and `run`: what is known of its training.
        data: What it was measured on: `corpus`, `split`, `texts`, `seed`, hashes.
        found: Evaluator -> what it found.
        skipped: Evaluator -> what it lacked.
        failed: Evaluator -> the error that ended it.
    """

    system: str
    model: dict[str, Any]
    data: dict[str, Any]
    found: dict[str, Found] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def not_found(self) -> dict[str, str]:
        """Evaluator and part that it was to measure -> why its data are not there."""
        return {
            f"{name}, {part}": reason
            for name, found in self.found.items()
            for part, reason in found.evaluation.not_found.items()
        }

    @property
    def rows(self) -> Rows:
        """All numbers, with the evaluator in front."""
        return [
            {"evaluator": name, **row}
            for name, found in self.found.items()
            for row in found.evaluation.rows
        ]


_OTHERS = {
    "recipe.yaml": "a training run",
    "sweep.json": "a sweep",
    "study.json": "a study",
    "comparison.csv": "a comparison",
}


def check_folder(folder: Path) -> None:
    """Refuse a folder of something else than an evaluation, whose files would be overwritten.

    Raises:
        UserError: The folder holds a run, a sweep, a study or a comparison.
    """
    for name, what in _OTHERS.items():
        if (folder / name).is_file():
            raise UserError(
                f"{folder} holds {what} ({name}), and its results would be overwritten; choose "
                "another place with --output"
            )


def read_results(folder: Path) -> Results:
    """Read an evaluation's folder.

    Raises:
        UserError: The folder holds no evaluation.
    """
    path = folder / "results.json"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        evaluators = saved.pop("evaluators")
        found = {name: _read_found(folder / name, values) for name, values in evaluators.items()}
        return Results(**saved, found=found)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no evaluation: {error.filename} is missing. Make one with llamavae "
            "evaluate"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is not the results of an evaluation; name a folder that llamavae evaluate "
            "wrote"
        ) from error


def _read_found(folder: Path, values: dict[str, Any]) -> Found:
    tables = {name: _read_table(folder / _file(name)) for name in values.pop("tables")}
    items = {}
    for line in _read_table(folder / _ITEMS):
        control = line["control"]
        items[line["metric"], line["group"]] = Items(
            np.array(line["values"]), None if control is None else np.array(control)
        )
    evaluation = Evaluation(values.pop("rows"), tables, values.pop("not_found", {}), items)
    return Found(evaluation, **values)


_ITEMS = "items.jsonl"


def _file(table: str) -> str:
    return f"{table.replace(' ', '-')}.jsonl"


def _read_table(path: Path) -> Rows:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_results(results: Results, folder: Path, changed: str | None = None) -> None:
    """Write an evaluation's folder.

    Args:
        results: Its contents.
        folder: Made if it is not there.
        changed: The evaluator whose tables are new; those of the others are not written again.

    Raises:
        UserError: The folder cannot be written.
    """
    values = {
        "system": results.system,
        "model": results.model,
        "data": results.data,
        "evaluators": {name: _values(found) for name, found in results.found.items()},
        "skipped": results.skipped,
        "failed": results.failed,
    }
    with disk_errors(folder, "run the command again: what is finished is kept"):
        folder.mkdir(parents=True, exist_ok=True)
        if changed is not None:
            (folder / changed).mkdir(exist_ok=True)
            for name, rows in results.found[changed].evaluation.tables.items():
                lines = (f"{_json(row)}\n" for row in rows)
                write_text(folder / changed / _file(name), "".join(lines))
            lines = (
                f"{_json({'metric': metric, 'group': group, **vars(items)})}\n"
                for (metric, group), items in results.found[changed].evaluation.items.items()
            )
            write_text(folder / changed / _ITEMS, "".join(lines))
        if results.rows:
            write_csv(results.rows, folder / "rows.csv")
        write_text(folder / "results.json", _json(values, indent=1) + "\n")


def _values(found: Found) -> dict[str, Any]:
    return {
        "rows": found.evaluation.rows,
        "tables": list(found.evaluation.tables),
        "not_found": found.evaluation.not_found,
        "metrics": found.metrics,
        "settings": found.settings,
        "seconds": found.seconds,
        "made_by": found.made_by,
    }


def _json(values: Any, indent: int | None = None) -> str:
    return json.dumps(values, indent=indent, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """A number or an array of numpy or torch as JSON has it; the text of anything else."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


# ------------------------------------------------------------------------------- as text


def number_text(value: float) -> str:
    """A number as people read it: four digits that count.

    Example:
        >>> number_text(0.123456), number_text(1234567.0), number_text(32.0)
        ('0.1235', '1,234,567', '32')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def interval_text(row: Mapping[str, Any]) -> str:
    """The 95 % interval of a row; empty where it has none.

    Example:
        >>> interval_text({"low": 0.25, "high": 0.5})
        '0.25 to 0.5'
    """
    if row["low"] is None:
        return ""
    return f"{number_text(row['low'])} to {number_text(row['high'])}"
