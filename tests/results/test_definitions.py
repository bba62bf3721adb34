"""The files of the definitions of a bundled model."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from results.definitions import write_study

from llamavae.experiments.fitted import NEAREST_ALONE, FittedStudy
from llamavae.experiments.study import NEAREST
from llamavae.metrics.metric import Items

VALUES = {"best of 8 draws": 0.75, NEAREST: 0.5, NEAREST_ALONE: 0.25}


def study(*systems: str) -> FittedStudy:
    """A study in which the items of a system have the same value."""
    rows: list[dict[str, Any]] = [
        {"system": name, "seed": 0, "metric": "sense-BLEU", "value": VALUES[name]}
        | {"items": Items(np.full(5, VALUES[name]))}
        for name in systems
    ]
    return FittedStudy(cast(Any, SimpleNamespace()), {name: [] for name in systems}, rows)


def paired_tests(file) -> dict[str, float]:
    with file.open(encoding="utf-8") as lines:
        return {row["system"]: float(row["difference"]) for row in csv.DictReader(lines)}


def test_each_nearest_neighbour_has_its_file_of_tests(tmp_path):
    write_study(study(*VALUES), tmp_path / "new")
    first = paired_tests(tmp_path / "new" / "differences.csv")
    assert first == {"best of 8 draws": 0.25, NEAREST_ALONE: -0.25}
    second = paired_tests(tmp_path / "new" / "differences-alone.csv")
    assert second == {"best of 8 draws": 0.5, NEAREST: 0.25}
    systems = json.loads((tmp_path / "new" / "study.json").read_text())["systems"]
    assert {name: [row["value"] for row in rows] for name, rows in systems.items()} == {
        name: [value] for name, value in VALUES.items()
    }


def test_words_alone_have_one_nearest_neighbour(tmp_path):
    write_study(study("best of 8 draws", NEAREST), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["differences.csv", "study.json"]
