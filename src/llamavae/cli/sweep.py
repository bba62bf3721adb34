"""The command `sweep`: train a recipe with several values of its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamavae.cli.options import quiet
from llamavae.cli.output import note, resumable, write
from llamavae.cli.training import Overrides
from llamavae.folders import locked


def sweep(
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", "-r", metavar="NAME_OR_FILE", help="Bundled recipe, or a YAML file."
        ),
    ],
    vary: Annotated[
        list[str],
        typer.Option(
            "--vary",
            metavar="KEY=VALUE,VALUE,...",
            help="Train with each of these values, which are read as YAML. If repeated, train with "
            "all combinations.",
        ),
    ],
    overrides: Overrides = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--evaluator", "-e", help="Evaluator to run on each model. Can be repeated."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=2, help="Maximum number of test sentences for the evaluators.")
    ] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the evaluators.")] = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the sweep.")] = Path(
        "runs/sweep"
    ),
) -> None:
    """Train models with several values of a recipe's settings, and plot distortion against rate.

    An interrupted sweep resumes when the command is repeated. More values can be added later.
    """
    from llamavae.evaluation.registry import load_evaluator
    from llamavae.experiments.sweep import parse_vary, run_sweep, sweep_runs, trade_off

    runs = sweep_runs(recipe, overrides or [], parse_vary(vary), output)
    evaluators = [load_evaluator(name) for name in dict.fromkeys(names or [])]
    quiet()
    with resumable(), locked(output, "a sweep"):
        found = run_sweep(runs, evaluators, output, limit=limit, seed=seed, tell=note)
    from llamavae.report.sweep import write_sweep_report

    page = write_sweep_report(found, output)
    write(False, "model", "KL", "NLL", "BLEU")
    for run, row in zip(found.runs, trade_off(found), strict=True):
        values = (row[key] for key in ("kl", "nll", "bleu"))
        write(False, run.name, *("" if v is None else f"{v:.2f}" for v in values))
    for name, warnings in found.warnings.items():
        for warning in warnings:
            note(f"{name}: {warning}")
    note(f"the results are in {output / 'sweep.csv'}; the report is {page}")
