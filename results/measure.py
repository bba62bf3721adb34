"""Runs the experiments and keeps their values.

Each experiment that has no results yet is run: its commands, one after the other, then the values
are read from the files that they wrote. An interrupted experiment resumes when it is run again,
since its commands do.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from llamavae.corpora import load_corpus
from llamavae.corpora.splits import fold
from llamavae.errors import UserError
from llamavae.evaluation import Scorer, read_predictions
from llamavae.evaluation import read_results as read_evaluation
from llamavae.parsing import read_json, read_json_lines, read_yaml
from llamavae.provenance import provenance
from results.experiments import Experiment, read_results, write_results

ENCODER = "all-minilm-l6-v2"
"""Encoder of the cosine."""
_KEPT = (
    *("metric", "group", "benchmark", "value", "control", "low", "high"),
    *("n", "unit", "direction"),
)


def measure(name: str, experiment: Experiment, runs: Path) -> bool:
    """Run an experiment and write its results; False if it lacks something that it requires.

    Args:
        name: Name of the experiment.
        experiment: The experiment.
        runs: Folder of all experiments' files.
    """
    folder = runs / name
    needs = [need.replace("{runs}", str(runs)) for need in experiment.requires]
    if missing := [need for need in needs if not _is_there(need)]:
        print(f"{name}: not measured, since it requires {', '.join(missing)}", file=sys.stderr)
        return False
    folder.mkdir(parents=True, exist_ok=True)
    usage = folder / "usage.jsonl"
    commands = [_filled(command, folder, runs) for command in experiment.commands]
    for command in commands:
        _run(command, usage)
    spent = [line for line in read_json_lines(usage) if line["command"] in commands]
    made_by = provenance()
    commits = (line.get("commit", made_by["commit"]) for line in spent if line["status"] == 0)
    about = {
        "experiment": name,
        "commands": experiment.commands,
        "seed": experiment.seed,
        **({"seeds": experiment.seeds} if experiment.seeds else {}),
        "processor_seconds": round(sum(line["seconds"] for line in spent)),
        "commit": ", ".join(dict.fromkeys(map(str, commits))),
        **{key: made_by[key] for key in ("version", "torch", "transformers", "machine")},
    }
    rows = [*_rows(experiment, folder), *_training_rows(spent, folder)]
    write_results(name, about, rows)
    return True


def _filled(command: str, folder: Path, runs: Path) -> str:
    """A command with its folders and environment variables; other braces are those of YAML."""
    for name, value in (("folder", folder), ("runs", runs)):
        command = command.replace("{" + name + "}", str(value))
    return os.path.expandvars(command)


def _is_there(need: str) -> bool:
    return Path(need).exists() if "/" in need else need in os.environ


def _run(command: str, usage: Path) -> None:
    """Run a command that has not succeeded yet.

    Its processor time, peak memory and commit are appended to `usage`, also if it fails or is
    interrupted.
    """
    known = read_json_lines(usage) if usage.is_file() else []
    if any(line["command"] == command and line["status"] == 0 for line in known):
        return
    print(f"$ {command}", file=sys.stderr)
    commit = provenance()["commit"]  # of the start: the tree can change while the command runs
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.Popen(shlex.split(command), env={**os.environ, "PATH": path})
    while True:
        try:
            _, status, used = os.wait4(process.pid, 0)
            break
        except KeyboardInterrupt:  # the command has it too, and saves what it has
            continue
    process.returncode = os.waitstatus_to_exitcode(status)
    line = {
        "command": command,
        "commit": commit,
        "status": process.returncode,
        "seconds": used.ru_utime + used.ru_stime,
        "peak memory": used.ru_maxrss / 1024,
    }
    with usage.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    if line["status"] != 0:
        raise UserError(f"the command failed with exit status {line['status']}: {command}")


# ------------------------------------------------------------------------------- reading values


def _rows(experiment: Experiment, folder: Path) -> Iterator[dict[str, Any]]:
    """The values of an experiment, from the files that its commands wrote."""
    for label, file in experiment.predictions.items():
        yield from _scored(label, folder / file, experiment.train, experiment.seed)
    for each in experiment.evaluations:
        results = read_evaluation(folder / each)
        for evaluator, found in results.found.items():
            signatures = {metric["name"]: metric["signature"] for metric in found.metrics}
            for row in found.evaluation.rows:
                yield {
                    "source": f"{each}/{evaluator}",
                    **{key: row[key] for key in _KEPT if row.get(key) not in (None, "")},
                    "signature": signatures.get(row["metric"], ""),
                }
    for each in experiment.studies:
        for system, rows in read_json(folder / each / "study.json")["systems"].items():
            for row in rows:
                kept = {key: row[key] for key in (*_KEPT, "seed") if row.get(key) is not None}
                group = ", ".join(filter(None, (row.get("system", system), row.get("group"))))
                yield {"source": each, **kept, "group": group}
        for file in sorted((folder / each).glob("differences*.csv"), key=lambda file: file.stem):
            yield from _differences(f"{each}/{file.stem}", file)
    for each in experiment.comparisons:
        yield from _comparison(each, folder / each / "comparison.csv")
    for each in experiment.sweeps:
        yield from _correlations(each, folder / each / "correlations.csv")


def _differences(source: str, file: Path) -> Iterator[dict[str, Any]]:
    """The paired tests of a study against one of its systems."""
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            yield {
                "source": source,
                "metric": row["metric"],
                "group": row["system"],
                "seed": int(row["seed"]),
                "value": float(row["difference"]),
                **{key: float(row[key]) for key in ("low", "high", "p")},
            }


def _comparison(source: str, file: Path) -> Iterator[dict[str, Any]]:
    """The paired tests of evaluations against the first one."""
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["p"]:
                yield {
                    "source": f"{source}/{row['evaluator']}/differences",
                    "metric": row["metric"],
                    "group": row["group"],
                    "value": float(row["difference"]),
                    "low": float(row["difference_low"]),
                    "high": float(row["difference_high"]),
                    "p": float(row["p"]),
                    "n": int(row["n"]),
                }


def _correlations(source: str, file: Path) -> Iterator[dict[str, Any]]:
    """The rank correlations of geometry and quality over the models of a sweep."""
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["spearman"]:
                yield {
                    "source": source,
                    "metric": f"correlation with {row['quality']}",
                    "group": row["geometry"],
                    "value": float(row["spearman"]),
                    **{key: float(row[key]) for key in ("low", "high", "p") if row[key]},
                    "n": int(row["n"]),
                }


def _training_rows(spent: list[dict[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    """Processor time, peak memory and sentences of a training, and the NLL in its log.

    The training is that of `llamavae train` in `run`, or of `langvae_baseline.py`.
    """
    run, other = folder / "run", folder / "run.json"
    log: list[dict[str, Any]] = []
    values: dict[str, float] = {}
    if (run / "recipe.yaml").is_file():
        commands = [line for line in spent if line["command"].startswith("llamavae train ")]
        seconds = sum(line["seconds"] for line in commands)
        if memory := [line["peak memory"] for line in commands if "peak memory" in line]:
            values["peak memory"] = max(memory)
        log = read_json_lines(run / "log.jsonl")
        recipe = read_yaml((run / "recipe.yaml").read_text(encoding="utf-8"), "recipe.yaml")
        sentences = log[-1]["step"] * recipe["optimisation"]["batch_size"]
    elif other.is_file():
        record = read_json(other)
        seconds = record["processor_seconds"]["training"]
        sentences = record["training"]["steps"] * record["settings"]["batch"]
    else:
        return
    values |= {
        "processor minutes": seconds / 60,
        "sentences": sentences,
        "sentences per processor second": sentences / seconds,
    }
    for metric, value in values.items():
        yield {"source": "training", "metric": metric, "value": value}
    for line in log:
        if "nll" in line:
            row = {"source": "training", "metric": "NLL", "step": line["step"]}
            yield {**row, "value": line["nll"], "unit": "nats per sentence"}


def _scored(label: str, file: Path, train: str | None, seed: int) -> Iterator[dict[str, Any]]:
    """Metrics of a file of predictions: of all items, and of those not in the training split."""
    predictions = read_predictions(file)
    parts = {"all": predictions.items}
    if train is not None:
        seen = _training(train)
        unseen = [i for i in predictions.items if fold(i.references[0]) not in seen]
        parts["not in train"] = unseen
    for part, items in parts.items():
        evaluation = _scorer(seed).score(replace(predictions, items=items))
        for row in evaluation.rows:
            kept = {key: row[key] for key in (*_KEPT, "signature") if row.get(key) is not None}
            yield {"source": label, **kept, "group": part}
    cost = file.with_suffix(".cost.json")
    if cost.is_file():
        for metric, value in read_json(cost).items():
            yield {"source": label, "metric": metric, "value": value}


@cache
def _scorer(seed: int) -> Scorer:
    return Scorer(encoder=ENCODER, seed=seed)


@cache
def _training(corpus: str) -> frozenset[str]:
    """The training and validation sentences of a corpus, without case and white space."""
    texts = (
        text for split in ("train", "validation") for text in load_corpus(corpus, split)["text"]
    )
    return frozenset(map(fold, texts))


def measure_all(chosen: Sequence[str], experiments: dict[str, Experiment], runs: Path) -> None:
    """Run the chosen experiments, or all that have no results of their commands yet."""
    for name, experiment in experiments.items():
        if chosen and name not in chosen:
            continue
        known = read_results(name)
        if not chosen and known and known[0]["commands"] == experiment.commands:
            continue
        measure(name, experiment, runs)
