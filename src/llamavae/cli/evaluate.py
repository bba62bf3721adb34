"""Verbs that measure models: `evaluate`, `report` and `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llamavae.cli.options import Json, ModelOptions, Refine, grouped
from llamavae.cli.output import note, show_error, write
from llamavae.errors import UserError, unknown
from llamavae.files import disk_errors

if TYPE_CHECKING:
    from llamavae.evaluation.evaluator import Evaluator
    from llamavae.metrics.metric import Rows


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command()(grouped(evaluate))
    app.command()(report)
    app.command()(compare)


def evaluate(
    context: typer.Context,
    model: ModelOptions,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Measure a plain sentence encoder (hub id or folder) in place of a model.",
            rich_help_panel="Model",
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option(help="Which evaluators run, and how: quick, paper or all.")
    ] = "quick",
    names: Annotated[
        list[str] | None,
        typer.Option("--evaluator", "-e", help="Run this one alone; may be repeated."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="EVALUATOR.SETTING=VALUE",
            help="Change a setting of an evaluator, the value as YAML; may be repeated.",
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            "--corpus",
            "-c",
            help="Corpus, file or hub id of sentences; default: what the model was trained on.",
        ),
    ] = None,
    path: Annotated[
        Path | None, typer.Option(help="Where a named corpus lies, if not in its usual place.")
    ] = None,
    split: Annotated[
        Literal["train", "validation", "test", "all"], typer.Option(help="Part of the corpus.")
    ] = "test",
    limit: Annotated[int, typer.Option(min=2, help="At most this many sentences.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every draw.")] = 0,
    refine: Refine = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder of the results; default: runs/evaluation/NAME."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure a model: all numbers beside their controls, and the texts behind them.

    An evaluation that was interrupted goes on when it is started again. It ends with status 1 where
    an evaluator failed; what the others found is there all the same.
    """
    from llamavae.evaluation.data import evaluation_data, run_of
    from llamavae.evaluation.results import check_folder
    from llamavae.evaluation.suite import evaluate as run_suite
    from llamavae.evaluation.tasks import by_reason

    given = context.get_parameter_source("model")  # LLAMAVAE_MODEL may be set all the same
    if encoder is not None and given and given.name == "COMMANDLINE":
        raise UserError("give --model or --encoder, not both: one system is measured")
    if encoder is not None and refine:
        raise UserError("--refine is for a model: a plain sentence encoder writes no text")
    source = encoder or model.source
    name = _name(source) + (f"-refined-{refine}" if refine else "")
    folder = output or Path("runs/evaluation") / name
    check_folder(folder)  # before anything is loaded
    evaluators = _evaluators(suite, names or [], settings or [], model.batch_size)
    run = None if encoder else run_of(source)
    options: dict[str, Any] = {} if path is None else {"path": path}
    data = evaluation_data(
        corpus,
        None if split == "all" else split,
        recipe=run and run["recipe"],
        limit=limit,
        seed=seed,
        progress=True,
        **options,
    )
    system: Any = model.load() if encoder is None else model.load_encoder(encoder)
    facts: dict[str, Any] = {"source": _place(source), "run": run}
    if refine:
        from llamavae.evaluation.refined import RefinedSystem

        system = RefinedSystem(system, refine)
        facts["refine"] = system.refinement.settings()
    results = run_suite(
        system,
        data,
        evaluators,
        folder,
        name=name,
        model=facts,
        corpus={"corpus": corpus or (run and run["recipe"]["corpus"]["name"]), "split": split},
    )
    _show(results.rows, json)
    for reason, outcomes in (
        ("skipped", results.skipped),
        ("not found", results.not_found),
        ("failed", results.failed),
    ):
        for each, text in by_reason(outcomes).items():
            note(f"{reason}: {each}: {text}")
    note(f"results are in {folder}; a page of them: llamavae report {folder}")
    if failed := [each.name for each in evaluators if each.name in results.failed]:
        show_error(f"{len(failed)} of {len(evaluators)} evaluators failed: {', '.join(failed)}")
        raise typer.Exit(1)


def _evaluators(
    suite: str, names: list[str], settings: list[str], batch_size: int
) -> list[Evaluator]:
    """The evaluators that were asked for, with their settings."""
    from inspect import signature

    from llamavae.evaluation.registry import EVALUATORS, SUITES, load_evaluator

    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    chosen = {name: dict(SUITES[suite].get(name, {})) for name in names or SUITES[suite]}
    for text in settings:
        name, setting, value = _setting(text)
        if name not in chosen:
            raise UserError(f"--set {text}: {name} is not run; it is set for {', '.join(chosen)}")
        chosen[name][setting] = value
    for name, values in chosen.items():
        if "batch_size" in signature(EVALUATORS[name]).parameters:
            values.setdefault("batch_size", batch_size)
    return [load_evaluator(name, **values) for name, values in chosen.items()]


def _setting(text: str) -> tuple[str, str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    name, dot, setting = key.partition(".")
    if not (equals and dot):
        raise UserError(f"--set {text}: expected EVALUATOR.SETTING=VALUE")
    try:
        return name, setting, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is not YAML: {error}") from error


def _place(source: str) -> str:
    """A folder as an absolute path, so that a report finds it; a hub id as it is."""
    place = Path(source).expanduser()
    return str(place.resolve()) if place.is_dir() else source


def _name(source: str) -> str:
    """What a system is called: its run's folder, or the last part of its id."""
    *parents, last = Path(_place(source)).parts or ("system",)
    return parents[-1] if last == "model" and parents else last


def _show(rows: Rows, json: bool) -> None:
    """Numbers over all the data as a table; as JSON, all of them."""
    from llamavae.evaluation.results import interval_text, number_text

    if json:
        for row in rows:
            write(True, **row)
        return
    table = [("", "metric", "value", "control", "95 % interval", "better")]
    for row in _whole(rows):
        control = "" if row["control"] is None else number_text(row["control"])
        cells = (number_text(row["value"]), control, interval_text(row))
        table.append((row["evaluator"], row["metric"], *cells, row["direction"]))
    if len(table) > 1:
        _align(table)


def _align(table: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        print(line.rstrip(), flush=True)


Folder = Annotated[Path, typer.Argument(help="Folder that llamavae evaluate wrote, or of a run.")]


def report(folder: Folder) -> None:
    """Write a page about an evaluation or a run: one HTML file that loads nothing."""
    from llamavae.report import write_report

    note(f"the page is {write_report(folder)}: open it in a browser")


def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders that llamavae evaluate wrote; the others are compared with the first."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the table and the page.")
    ] = Path("runs/comparison"),
    json: Json = False,
) -> None:
    """Set evaluations side by side, with the significance of their differences."""
    from llamavae.evaluation.comparison import compare as differences
    from llamavae.evaluation.generations import write_csv
    from llamavae.evaluation.results import read_results
    from llamavae.report.comparison import write_comparison

    evaluations = [read_results(folder) for folder in folders]
    if len({results.system for results in evaluations}) < len(folders):  # two of one model
        for results, folder in zip(evaluations, folders, strict=True):
            results.system = str(folder)
    rows = differences(evaluations)
    with disk_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    write_csv(rows, output / "comparison.csv")
    page = write_comparison(evaluations, rows, output)
    if json:
        for row in rows:
            write(True, **row)
    else:
        _align(_side_by_side([results.system for results in evaluations], rows))
    note(f"the table is {output / 'comparison.csv'}, the page is {page}")


def _side_by_side(systems: list[str], rows: Rows) -> list[tuple[str, ...]]:
    """A line for each measure over all the data, and a column for each system."""
    cells = {(row["evaluator"], row["metric"], row["system"]): row for row in _whole(rows)}
    table = [("", "metric", *systems)]
    for name, metric in dict.fromkeys(key[:2] for key in cells):
        found = (cells.get((name, metric, system)) for system in systems)
        table.append((name, metric, *map(_compared, found)))
    return table


def _whole(rows: Rows) -> Rows:
    return [row for row in rows if not row["group"]]


def _compared(row: dict[str, Any] | None) -> str:
    """A value, a difference that is more than chance, and its p."""
    from llamavae.evaluation.results import number_text

    if row is None:
        return ""
    verdict = "" if row["verdict"] == "no clear difference" else row["verdict"]
    p = "" if row["p"] is None else f"(p = {row['p']:.3f})"
    return " ".join(filter(None, (number_text(row["value"]), verdict, p)))
