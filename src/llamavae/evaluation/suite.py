"""Run several evaluators on a system and save their results."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from llamavae.errors import UserError
from llamavae.evaluation.data import data_hashes
from llamavae.evaluation.evaluator import (
    Evaluation,
    EvaluationData,
    Evaluator,
    missing,
    system_fingerprint,
)
from llamavae.evaluation.predictions import PREDICTIONS
from llamavae.evaluation.results import EVALUATION, Found, Results, read_results, write_results
from llamavae.folders import locked
from llamavae.provenance import provenance
from llamavae.terminal import printable


def evaluate(
    system: Any,
    data: EvaluationData,
    evaluators: Sequence[Evaluator],
    folder: Path,
    *,
    name: str = "",
    model: Mapping[str, Any] | None = None,
    corpus: Mapping[str, Any] | None = None,
) -> Results:
    """Evaluate a system with each evaluator, and write the results to a folder.

    The results of each evaluator are written as soon as it finishes. Existing results for the
    same system, data and settings are kept and not repeated, unless a part had no data. An
    evaluator with an unmet requirement is skipped, and one that fails with a `UserError` does not
    stop the others; both are recorded in the results with the reason.

    Args:
        system: Any object that encodes texts or decodes latent codes.
        data: The evaluation data.
        evaluators: Evaluators with different names.
        folder: Folder of the results; see `llamavae.evaluation.results`.
        name: Name of the system; default: the name of the folder.
        model: Further description of the system, for the report: `source`, `run`.
        corpus: Further description of the data: `corpus`, `split`.

    Raises:
        UserError: The folder holds other results, such as a run, or an evaluation of another
            system or other data, or it cannot be written.
    """
    with locked(folder, EVALUATION):
        results = _open(system, data, folder, name, model or {}, corpus or {})
        for number, each in enumerate(evaluators, 1):
            say = partial(_say, f"[{number}/{len(evaluators)}] {each.name}", data.progress)
            changed = _run(each, system, data, results, say)
            write_results(results, folder, each.name if changed else None)
    return results


def _run(
    each: Evaluator,
    system: Any,
    data: EvaluationData,
    results: Results,
    say: Callable[[str], None],
) -> bool:
    """Add the results of one evaluator; returns whether its tables are new."""
    settings = _settings_of(each) | each.depends_on(system)
    results.skipped.pop(each.name, None)
    results.failed.pop(each.name, None)
    before = results.found.get(each.name)
    same = before.evaluation if before and before.settings == settings else None
    if lacking := missing(each, system, data):
        results.skipped[each.name] = f"needs {lacking}"
        say(f"skipped: it needs {lacking}")
        return False
    if same and not same.not_found:
        say("already complete")
        return False
    say("...")
    start = time.perf_counter()
    try:
        evaluation = each(system, data)
    except UserError as error:
        kept = " (the previous results are kept)" if before else ""
        results.failed[each.name] = f"{error}{kept}"
        say(f"failed: {error}{kept}")
        return False
    seconds = round(time.perf_counter() - start, 1)
    _describe_predictions(evaluation, each.name, results)
    if same and evaluation.not_found.keys() - same.not_found.keys():
        say(f"{seconds:.1f} s; fewer results than before; the previous ones are kept")
        return False
    own = {name: value for name, value in _settings_of(each).items() if name != "batch_size"}
    metrics = [asdict(metric) | {"signature": metric.signature(own)} for metric in each.metrics]
    results.found[each.name] = Found(
        evaluation, metrics, settings, seconds, provenance(), _sentences(each, data)
    )
    say(f"{seconds:.1f} s")
    return True


def _describe_predictions(evaluation: Evaluation, task: str, results: Results) -> None:
    """Add system, task, benchmark and split to the tables of predictions."""
    for name, table in evaluation.tables.items():
        if name.startswith(PREDICTIONS):
            about = {
                "system": results.system + name.removeprefix(PREDICTIONS),
                "task": task,
                "benchmark": results.data.get("corpus"),
                "split": results.data.get("split"),
            }
            known = {key: value for key, value in about.items() if value}
            evaluation.tables[name] = [row | known for row in table]


def _sentences(evaluator: Evaluator, data: EvaluationData) -> str:
    """Which sentences an evaluator uses; those with a `limit` use a random sample."""
    limit, n = getattr(evaluator, "limit", None), len(data.texts)
    if not isinstance(limit, int) or limit >= n:
        return f"all {n:,}"
    return f"{limit:,} of {n:,}, chosen at random with seed {data.seed}"


def _open(
    system: Any,
    data: EvaluationData,
    folder: Path,
    name: str,
    model: Mapping[str, Any],
    corpus: Mapping[str, Any],
) -> Results:
    """The existing results of the folder, or empty results."""
    new = Results(
        name or folder.name,
        {**model, "fingerprint": system_fingerprint(system)},
        {
            **corpus,
            "texts": len(data.texts),
            "labels": list(data.labels),
            "training_texts": len(data.training_texts),
            "seed": data.seed,
            **data_hashes(data),
        },
    )
    if not (folder / "results.json").is_file():
        return new
    old = read_results(folder)
    for what, before, now in (
        ("another model", old.model["fingerprint"], new.model["fingerprint"]),
        ("other sentences or labels", old.data["hash"], new.data["hash"]),
        ("other training sentences", old.data["training_hash"], new.data["training_hash"]),
    ):
        if before != now:
            raise UserError(
                f"{folder} holds an evaluation with {what}. Choose another folder with --output, "
                "or remove it"
            )
    new.found, new.skipped, new.failed = old.found, old.skipped, old.failed
    return new


def _settings_of(evaluator: Evaluator) -> dict[str, Any]:
    """The settings of an evaluator, its public attributes, as JSON values; models as hashes."""
    public = {name: value for name, value in vars(evaluator).items() if not name.startswith("_")}
    return json.loads(json.dumps(public, default=_setting))


def _setting(value: Any) -> str:
    return system_fingerprint(value) if isinstance(value, nn.Module) else str(value)


def _say(label: str, shown: bool, text: str) -> None:
    if shown:
        print(printable(f"{label} {text}"), file=sys.stderr, flush=True)
