"""The experiments: what is run for each system, and where its results are kept.

`experiments.yaml` lists them. The results of an experiment are `ID.jsonl`, one JSON object per
line: the first describes the experiment (commands, commit, machine, processor seconds), and each
of the others is one value with its interval and control. They contain no text of a corpus.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from llamavae.files import write_text
from llamavae.parsing import read_json_lines, read_yaml

HERE = Path(__file__).parent


class Experiment(BaseModel):
    """One system on one dataset.

    Attributes:
        commands: Shell commands; `{folder}` is the experiment's folder under `runs/results`, and
            `{runs}` is `runs/results`. Each resumes when it is repeated.
        predictions: Files of predictions in the folder, by name of the group of rows; they are
            scored on all items and on those that do not occur in training (`not in train`).
        evaluations: Folders of `llamavae evaluate` in the folder, whose values are kept.
        studies: Folders of `llamavae study` in the folder, whose values are kept.
        comparisons: Folders of `llamavae compare` in the folder, whose paired tests are kept.
        sweeps: Folders of `llamavae sweep` in the folder, whose correlations are kept.
        train: Corpus whose training split defines `not in train`.
        requires: Names of environment variables and of files that the commands need; `{runs}` as
            in the commands.
        seed: The seed of all commands.
        seeds: The seeds of the models, if the commands train several.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    commands: list[str]
    predictions: dict[str, str] = {}
    evaluations: list[str] = []
    studies: list[str] = []
    comparisons: list[str] = []
    sweeps: list[str] = []
    train: str | None = None
    requires: list[str] = []
    seed: int = 0
    seeds: list[int] = []


def experiments() -> dict[str, Experiment]:
    """The experiments of `experiments.yaml`, by name."""
    text = (HERE / "experiments.yaml").read_text(encoding="utf-8")
    return {
        name: Experiment.model_validate(values)
        for name, values in read_yaml(text, "experiments.yaml").items()
    }


def results_file(name: str) -> Path:
    """The file of an experiment's results."""
    return HERE / f"{name}.jsonl"


def read_results(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """The description and the values of an experiment; None if it has not been measured."""
    if not results_file(name).is_file():
        return None
    first, *rows = read_json_lines(results_file(name))
    return first, rows


def find_lines(name: str, source: str, metric: str, group: str = "") -> list[dict[str, Any]]:
    """The values of a metric of an experiment, one for each seed; none if it is not measured."""
    results = read_results(name)
    wanted = source, metric, group
    return [
        line
        for line in (results[1] if results else [])
        if (line["source"], line["metric"], line.get("group", "")) == wanted
    ]


def write_results(name: str, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write the description and the values of an experiment."""
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in (about, *rows))
    write_text(results_file(name), "".join(lines))
