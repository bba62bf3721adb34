"""A sweep: one recipe trained with several values of some settings, and the resulting trade-off.

The rate is the KL and the distortion is the NLL, both in nats per sentence (Alemi et al.,
1711.00464). A larger beta, fewer dimensions or a smaller threshold move a model along this
trade-off; other changes can improve the trade-off itself.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamavae.errors import UserError
from llamavae.evaluation.data import evaluation_data, run_of
from llamavae.evaluation.evaluator import Evaluator
from llamavae.evaluation.suite import evaluate
from llamavae.files import write_csv, write_json
from llamavae.metrics.metric import Rows
from llamavae.provenance import provenance
from llamavae.training import Recipe, load_recipe, train
from llamavae.training.measure import METRICS, metric_rows

TRAINING = "training"
"""Name in place of an evaluator for the metrics of the run itself, at its end."""
_FOLDER = "output.folder"

_SHOWN = ("kl", "nll", "elbo", "bleu", "active_units", "mutual_information")
"""Metrics on the validation sentences at the end of a run; keys of `METRICS`."""
_UNDIRECTED = ("active_units", "mutual_information")
"""Neither higher nor lower values of these are better along a trade-off."""


@dataclass(frozen=True)
class SweepRun:
    """One combination of values.

    Attributes:
        parts: The settings that vary, by the last part of their keys: `beta=0.1`, `dim=16`.
        values: Maps keys to values as given.
        recipe: All settings, with the folder of the run.
    """

    parts: tuple[str, ...]
    values: Mapping[str, str]
    recipe: Recipe

    @property
    def name(self) -> str:
        """Name in tables: `beta=0.1, dim=16`."""
        return ", ".join(self.parts)


@dataclass
class Sweep:
    """Results of a sweep.

    Attributes:
        runs: The finished runs.
        rows: A row for each value: `model`, the settings that vary, `evaluator`, or `training`,
            and the keys of `Metric.row`.
        warnings: Maps names of runs to the warnings of the monitor at the end, and to the skipped
            or failed evaluators.
    """

    runs: list[SweepRun] = field(default_factory=list)
    rows: Rows = field(default_factory=list)
    warnings: dict[str, list[str]] = field(default_factory=dict)

    def value(self, run: SweepRun, metric: str) -> float | None:
        """A metric of the run itself at its end: `kl`, `nll`, `bleu`, ...; None if missing."""
        return self._training(run, metric).get("value")

    def control(self, run: SweepRun, metric: str) -> float | None:
        """The same metric with shuffled z."""
        return self._training(run, metric).get("control")

    def _training(self, run: SweepRun, key: str) -> dict[str, Any]:
        wanted = run.name, TRAINING, METRICS[key].name
        rows = (r for r in self.rows if (r["model"], r["evaluator"], r["metric"]) == wanted)
        return next(rows, {})


def parse_vary(texts: Sequence[str]) -> dict[str, list[str]]:
    """Parse the settings to vary and their values.

    Args:
        texts: `KEY=VALUE,VALUE,...`; commas inside brackets do not separate values.

    Raises:
        UserError: A text does not have this form, or a setting occurs twice.

    Example:
        >>> parse_vary(["objective.beta=0.1,0.2", "latent.dim=16"])
        {'objective.beta': ['0.1', '0.2'], 'latent.dim': ['16']}
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        key, equals, given = text.partition("=")
        key = key.strip()
        values = [value.strip() for value in re.split(r",(?![^\[{]*[\]}])", given)]
        if not (key and equals and all(values)):
            raise UserError(f"--vary expects section.key=value,value,...; got {text!r}")
        if key in found:
            raise UserError(
                f"--vary {key} is given twice. Pass all its values in one option, with commas"
            )
        found[key] = list(dict.fromkeys(values))
    return found


def sweep_runs(
    recipe: str | Path,
    overrides: Sequence[str],
    vary: Mapping[str, Sequence[str]],
    folder: Path,
) -> list[SweepRun]:
    """Create a run for every combination of values, each in its own folder; nothing is trained.

    Args:
        recipe: Name or file of the recipe.
        overrides: Settings common to all runs, as `section.key=value`.
        vary: Maps keys to values, from `parse_vary`; the last key changes fastest.
        folder: Folder of the sweep.

    Raises:
        UserError: A setting is unknown, a value is invalid, or nothing varies.
    """
    if not vary:
        raise UserError("expected at least one --vary section.key=value,value,...; got none")
    fixed = [text.partition("=")[0].strip() for text in overrides]
    for key in vary:
        if key in fixed:
            raise UserError(f"{key} is given to both --set and --vary")
    if _FOLDER in (*fixed, *vary):
        raise UserError(f"{_FOLDER} is set by the sweep for each run. Use --output instead")
    last = [key.rpartition(".")[2] for key in vary]
    short = dict(zip(vary, last if len(set(last)) == len(last) else vary, strict=True))
    runs = []
    for chosen in itertools.product(*vary.values()):
        values = dict(zip(vary, chosen, strict=True))
        given = [f"{key}={value}" for key, value in values.items()]
        parts = tuple(f"{short[key]}={value}" for key, value in values.items())
        output = folder / re.sub(r"[^\w.=+-]+", "_", ", ".join(parts))
        settings = load_recipe(recipe, [*overrides, *given], values={_FOLDER: str(output)})
        runs.append(SweepRun(parts, values, settings))
    return runs


def run_sweep(
    runs: Sequence[SweepRun],
    evaluators: Sequence[Evaluator],
    folder: Path,
    *,
    limit: int = 500,
    seed: int = 0,
    progress: bool = True,
    tell: Callable[[str], None] | None = None,
) -> Sweep:
    """Train and evaluate every run, and update `sweep.csv` and `sweep.json` after each one.

    Finished runs and evaluations are kept, and an interrupted run is resumed.

    Args:
        runs: Runs from `sweep_runs`.
        evaluators: Evaluators of each model, on held-out sentences of its corpus.
        folder: Folder of the sweep.
        limit: Maximum number of sentences for the evaluators.
        seed: Seed of their choice and of the evaluators.
        progress: Show progress on stderr.
        tell: Called with a line before each run.

    Raises:
        UserError: A run or an evaluation failed; the message begins with its name.
    """
    recipes = {_corpus(run): run.recipe.model_dump(mode="json") for run in runs}
    data = {  # loaded before training starts
        corpus: evaluation_data(recipe=recipe, limit=limit, seed=seed, progress=progress)
        for corpus, recipe in (recipes if evaluators else {}).items()
    }
    sweep = Sweep()
    for number, run in enumerate(runs, 1):
        if tell is not None:
            tell(f"[{number}/{len(runs)}] {run.name}")
        try:
            result = train(run.recipe, resume=True, progress=progress)
            rows = _training_rows(result.metrics, run.recipe.evaluation.decoded)
            warnings = list(result.warnings)
            if evaluators:
                found = evaluate(
                    result.model,
                    data[_corpus(run)],
                    evaluators,
                    result.folder / "evaluation",
                    name=run.name,
                    model={"source": str(result.folder / "model"), "run": run_of(result.folder)},
                    corpus={"corpus": run.recipe.corpus.name, "split": "test"},
                )
                names = [each.name for each in evaluators]
                rows += [row for row in found.rows if row["evaluator"] in names]
                lost = {**found.skipped, **found.failed}
                warnings += [f"{name}: {lost[name]}" for name in names if name in lost]
                warnings += [
                    f"{part} was not found: {reason}"
                    for part, reason in found.not_found.items()
                    if part.split(",")[0] in names
                ]
        except UserError as error:
            raise UserError(f"{run.name}: {error}") from error
        sweep.runs.append(run)
        sweep.rows += [{"model": run.name, **run.values, **row} for row in rows]
        sweep.warnings[run.name] = warnings
        _write(sweep, folder)
    return sweep


def _corpus(run: SweepRun) -> str:
    return run.recipe.corpus.model_dump_json()


def _training_rows(metrics: Mapping[str, Any], decoded: int) -> Rows:
    rows = {row["metric"]: row for row in metric_rows(metrics, decoded)}
    return [
        {"evaluator": TRAINING, **rows[metric.name], "unit": metric.unit}
        | ({"direction": ""} if key in _UNDIRECTED else {})
        for key, metric in ((key, METRICS[key]) for key in _SHOWN)
        if metric.name in rows
    ]


def _write(sweep: Sweep, folder: Path) -> None:
    write_csv(sweep.rows, folder / "sweep.csv")
    models = [
        {
            "model": run.name,
            "folder": Path(run.recipe.output.folder).name,
            "settings": run.values,
            "warnings": sweep.warnings[run.name],
        }
        for run in sweep.runs
    ]
    values = {"made by": provenance(), "models": models, "rows": sweep.rows}
    write_json(folder / "sweep.json", values)


def trade_off(sweep: Sweep) -> Rows:
    """Rate, distortion and BLEU of each run, for `plots.plot_trade_off`.

    Row: `label` (the first setting that varies), `line` (the others), `kl`, `nll`, `bleu` and
    `bleu_shuffled`; the last two are None if nothing was decoded.
    """
    return [
        {
            "label": run.parts[0],
            "line": ", ".join(run.parts[1:]),
            **{key: sweep.value(run, key) for key in ("kl", "nll", "bleu")},
            "bleu_shuffled": sweep.control(run, "bleu"),
        }
        for run in sweep.runs
    ]


GEOMETRY = (
    "interpolation smoothness",
    "sentence smoothness",
    "traversal consistency",
    "IsoScore",
    "mean cosine",
    "MIG",
    "silhouette",
)
"""Metrics of the latent space, to be correlated with those of the texts."""
QUALITY = ("BLEU", "negative ELBO", "MAUVE", "plain perplexity", "self-BLEU")
"""Metrics of the generated texts."""


def geometry_and_quality(sweep: Sweep) -> tuple[Rows, list[str], list[str]]:
    """The metrics that `llamavae.experiments.correlation` correlates over the models of a sweep.

    The metric of an evaluator takes precedence over one of the same name of the run itself.

    Returns:
        Rows, and which of `GEOMETRY` and of `QUALITY` are among them.
    """
    wanted = {*GEOMETRY, *QUALITY}
    rows = [row for row in sweep.rows if row["metric"] in wanted and not row["group"]]
    rows.sort(key=lambda row: row["evaluator"] != TRAINING)
    values = {(row["model"], row["metric"]): row for row in rows}  # the last one counts
    there = {metric for _, metric in values}
    geometry, quality = ([n for n in names if n in there] for names in (GEOMETRY, QUALITY))
    return list(values.values()), geometry, quality
