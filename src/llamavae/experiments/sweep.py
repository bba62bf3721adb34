"""A sweep: one recipe trained with several values of some settings, and what that trades for what.

The rate is the KL, what a sentence's z costs in nats; the distortion is the NLL, what is still to
be said once z is known (Alemi et al., 1711.00464). A larger beta, fewer dimensions or a smaller
threshold move a model along that trade-off; other changes move it to a better one.
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
from llamavae.evaluation.evaluator import EvaluationData, Evaluator
from llamavae.evaluation.generations import write_csv
from llamavae.evaluation.results import Results
from llamavae.evaluation.suite import evaluate
from llamavae.files import write_json
from llamavae.metrics.metric import Metric, Rows
from llamavae.provenance import provenance
from llamavae.training import Recipe, TrainResult, load_recipe, train

TRAINING = "training"
"""Stands for an evaluator in the rows of what a run itself measured at its end."""
_FOLDER = "output.folder"

_SHUFFLED = "the same sentences with one another's z"
_NATS = "nats per sentence"
_MEASURES: dict[str, Metric] = {
    "kl": Metric("KL", _NATS, "", "raw KL(q(z|x) ‖ N(0, I)): the rate"),
    "nll": Metric("NLL", _NATS, "lower", "−log p(x|z), z drawn from q(z|x)", _SHUFFLED),
    "elbo": Metric("negative ELBO", _NATS, "lower", "NLL + KL, at beta 1"),
    "bleu": Metric("BLEU", "0 to 100", "higher", "greedy text of the posterior mean", _SHUFFLED),
    "active_units": Metric("active units", "0 to D", "", "dimensions with Var(μ) > 0.01"),
    "mutual_information": Metric("mutual information", "nats", "", "at most ln N"),
}
"""What every run measures at its end on validation sentences: key of its metrics -> measure."""


@dataclass(frozen=True)
class SweepRun:
    """One combination of values.

    Attributes:
        parts: The settings that vary, by the last part of their keys: `beta=0.1`, `dim=16`.
        values: Key -> value as it was given.
        recipe: All settings, with the folder of the run.
    """

    parts: tuple[str, ...]
    values: Mapping[str, str]
    recipe: Recipe

    @property
    def name(self) -> str:
        """As it stands in tables: `beta=0.1, dim=16`."""
        return ", ".join(self.parts)


@dataclass
class Sweep:
    """What a sweep found.

    Attributes:
        runs: The runs that are done.
        rows: A row for each number: `model`, the settings that vary, `evaluator`, or `training`,
            and the keys of `Metric.row`.
        warnings: Name of a run -> what the monitor said at its end, and which evaluators could not
            measure it.
    """

    runs: list[SweepRun] = field(default_factory=list)
    rows: Rows = field(default_factory=list)
    warnings: dict[str, list[str]] = field(default_factory=dict)

    def value(self, run: SweepRun, metric: str) -> float | None:
        """What a run itself measured at its end: `kl`, `nll`, `bleu`, ...; None if it did not."""
        return self._training(run, metric).get("value")

    def control(self, run: SweepRun, metric: str) -> float | None:
        """The same with shuffled z."""
        return self._training(run, metric).get("control")

    def _training(self, run: SweepRun, key: str) -> dict[str, Any]:
        wanted = run.name, TRAINING, _MEASURES[key].name
        rows = (r for r in self.rows if (r["model"], r["evaluator"], r["metric"]) == wanted)
        return next(rows, {})


def parse_vary(texts: Sequence[str]) -> dict[str, list[str]]:
    """Settings and the values that each takes in turn.

    Args:
        texts: `KEY=VALUE,VALUE,...`; commas inside brackets do not divide.

    Raises:
        UserError: A text is not of this form, or a setting comes twice.

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
                f"--vary {key} is given twice: put all its values into one, with commas"
            )
        found[key] = list(dict.fromkeys(values))
    return found


def sweep_runs(
    recipe: str | Path,
    overrides: Sequence[str],
    vary: Mapping[str, Sequence[str]],
    folder: Path,
) -> list[SweepRun]:
    """Every combination of values as a run in a folder of its own; nothing is trained.

    Args:
        recipe: Name or file of the recipe.
        overrides: What is the same in all runs, as `section.key=value`.
        vary: Key -> its values, from `parse_vary`; the last key changes fastest.
        folder: Folder of the sweep.

    Raises:
        UserError: A setting does not exist, a value is not usable, or nothing varies.
    """
    if not vary:
        raise UserError("nothing varies: give --vary section.key=value,value,...")
    fixed = [text.partition("=")[0].strip() for text in overrides]
    for key in vary:
        if key in fixed:
            raise UserError(f"{key} is given to both --set and --vary")
    if _FOLDER in (*fixed, *vary):
        raise UserError(f"{_FOLDER} is a folder in that of the sweep: choose it with --output")
    last = [key.rpartition(".")[2] for key in vary]
    short = dict(zip(vary, last if len(set(last)) == len(last) else vary, strict=True))
    runs = []
    for chosen in itertools.product(*vary.values()):
        values = dict(zip(vary, chosen, strict=True))
        given = [f"{key}={value}" for key, value in values.items()]
        settings = load_recipe(recipe, [*overrides, *given])
        run = SweepRun(tuple(f"{short[k]}={v}" for k, v in values.items()), values, settings)
        settings.output.folder = str(folder / re.sub(r"[^\w.=+-]+", "_", run.name))
        runs.append(run)
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
    """Train and measure every run, and write `sweep.csv` and `sweep.json` as they come.

    What is trained or measured already is kept, and an interrupted run goes on.

    Args:
        runs: From `sweep_runs`.
        evaluators: What measures each model, on held-out sentences of its corpus.
        folder: Folder of the sweep.
        limit: At most this many sentences for the evaluators.
        seed: Seed of their choice and of every draw of the evaluators.
        progress: Show progress on stderr.
        tell: Called with a line before each run.

    Raises:
        UserError: A run or an evaluation is not possible; the message begins with its name.
    """
    data = _data(runs, limit, seed, progress) if evaluators else {}
    sweep = Sweep()
    for number, run in enumerate(runs, 1):
        if tell is not None:
            tell(f"[{number}/{len(runs)}] {run.name}")
        try:
            result = train(run.recipe, resume=True, progress=progress)
            rows = _training_rows(result.metrics, run.recipe.evaluation.decoded)
            warnings = list(result.warnings)
            if evaluators:
                found = _evaluated(run, result, data[_corpus(run)], evaluators)
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


def _data(
    runs: Sequence[SweepRun], limit: int, seed: int, progress: bool
) -> dict[str, EvaluationData]:
    """Sentences for the evaluators of each corpus, read before anything trains."""
    recipes = {_corpus(run): run.recipe.model_dump(mode="json") for run in runs}
    options = {"limit": limit, "seed": seed, "progress": progress}
    return {key: evaluation_data(recipe=recipe, **options) for key, recipe in recipes.items()}


def _corpus(run: SweepRun) -> str:
    return run.recipe.corpus.model_dump_json()


def _training_rows(metrics: Mapping[str, Any], decoded: int) -> Rows:
    n = metrics["sentences"]
    return [
        {"evaluator": TRAINING}
        | metric.row(
            metrics[key],
            min(n, decoded) if key == "bleu" else n,
            control=metrics.get(f"{key}_shuffled"),
        )
        for key, metric in _MEASURES.items()
        if key in metrics
    ]


def _evaluated(
    run: SweepRun, result: TrainResult, data: EvaluationData, evaluators: Sequence[Evaluator]
) -> Results:
    """What the evaluators find; they keep it in the run's folder."""
    return evaluate(
        result.model,
        data,
        evaluators,
        result.folder / "evaluation",
        name=run.name,
        model={"source": str(result.folder / "model"), "run": run_of(result.folder)},
        corpus={"corpus": run.recipe.corpus.name, "split": "test"},
    )


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
    `bleu_shuffled`; the last two are None where nothing was decoded.
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
"""Measures of the space that are held against those of the texts."""
QUALITY = ("BLEU", "negative ELBO", "MAUVE", "plain perplexity", "self-BLEU")
"""Measures of what is written."""


def geometry_and_quality(sweep: Sweep) -> tuple[Rows, list[str], list[str]]:
    """What `llamavae.experiments.correlation` relates over the models of a sweep.

    An evaluator's measure comes before one of the same name that the run itself measured.

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
