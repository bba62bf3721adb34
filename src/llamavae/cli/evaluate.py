"""Commands that evaluate models: `evaluate`, `report` and `compare`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamavae.cli.options import CorpusPath, Json, ModelOptions, Refine, Split
from llamavae.cli.output import note, show_error, write, write_table
from llamavae.errors import UserError, unknown
from llamavae.files import write_csv
from llamavae.folders import check_output, locked

if TYPE_CHECKING:
    from llamavae.evaluation.evaluator import Evaluator
    from llamavae.metrics.metric import Rows


def evaluate(
    context: typer.Context,
    model: ModelOptions,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Sentence encoder (hub id or folder) to evaluate instead of a model.",
            rich_help_panel="Model",
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option(help="Evaluators to run and their settings: quick, paper or all.")
    ] = "quick",
    names: Annotated[
        list[str] | None,
        typer.Option("--evaluator", "-e", help="Run only this evaluator. Can be repeated."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="EVALUATOR.SETTING=VALUE",
            help="Change a setting of an evaluator; the value is read as YAML. Can be repeated.",
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            "--corpus",
            "-c",
            help="Named corpus, file, or hub id of a dataset. Default: the training "
            "corpus of the model.",
        ),
    ] = None,
    path: CorpusPath = None,
    split: Split = "test",
    limit: Annotated[
        int,
        typer.Option(min=2, help="Maximum number of sentences, chosen at random with the seed."),
    ] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    refine: Refine = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder of the results. Default: runs/evaluation/NAME."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Evaluate a model: metrics with controls, and the texts they were computed from.

    An interrupted evaluation resumes when the command is repeated. The exit status is 1 if an
    evaluator failed; the results of the other evaluators are still saved.
    """
    from llamavae.evaluation.data import evaluation_data, run_of
    from llamavae.evaluation.results import EVALUATION
    from llamavae.evaluation.suite import evaluate as run_suite
    from llamavae.evaluation.tasks import by_reason

    given = context.get_parameter_source("model")  # LLAMAVAE_MODEL does not count
    if encoder is not None and given and given.name == "COMMANDLINE":
        raise UserError("expected --model or --encoder, not both")
    if encoder is not None and refine:
        raise UserError("--refine requires a model: a sentence encoder does not generate text")
    source = encoder or model.source
    name = _name(source) + (f"-refined-{refine}" if refine else "")
    folder = output or Path("runs/evaluation") / name
    check_output(folder, EVALUATION)  # before loading the model
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
        corpus={
            "corpus": corpus or (run and run["recipe"]["corpus"]["name"]),
            "split": split,
            "limit": limit,
        },
    )
    _show(results.rows, json)
    for reason, outcomes in (
        ("skipped", results.skipped),
        ("not found", results.not_found),
        ("failed", results.failed),
    ):
        for each, text in by_reason(outcomes).items():
            note(f"{reason}: {each}: {text}")
    command = shlex.join(["llamavae", "report", str(folder)])
    note(f"the results are in {folder}; for an HTML report: {command}")
    if failed := [each.name for each in evaluators if each.name in results.failed]:
        show_error(f"{len(failed)} of {len(evaluators)} evaluators failed: {', '.join(failed)}")
        raise typer.Exit(1)


def _evaluators(
    suite: str, names: list[str], settings: list[str], batch_size: int
) -> list[Evaluator]:
    """The chosen evaluators with their settings."""
    from inspect import signature

    from llamavae.evaluation.registry import EVALUATORS, SUITES, load_evaluator

    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    chosen = {name: dict(SUITES[suite].get(name, {})) for name in names or SUITES[suite]}
    for text in settings:
        name, setting, value = _setting(text)
        if name not in chosen:
            raise UserError(
                f"--set {text}: evaluator {name} is not selected; selected: {', '.join(chosen)}"
            )
        chosen[name][setting] = value
    for name, values in chosen.items():
        if "batch_size" in signature(EVALUATORS[name]).parameters:
            values.setdefault("batch_size", batch_size)
    return [load_evaluator(name, **values) for name, values in chosen.items()]


def _setting(text: str) -> tuple[str, str, Any]:
    from llamavae.parsing import read_yaml

    key, equals, value = text.partition("=")
    name, dot, setting = key.partition(".")
    if not (equals and dot):
        raise UserError(f"--set {text}: expected EVALUATOR.SETTING=VALUE")
    return name, setting, read_yaml(value, f"--set {text!r:.80}")


def _place(source: str) -> str:
    """A folder as an absolute path, for reports; a hub id unchanged."""
    place = Path(source).expanduser()
    return str(place.resolve()) if place.is_dir() else source


def _name(source: str) -> str:
    """Name of a system: the folder of its run, or the last part of its hub id."""
    *parents, last = Path(_place(source)).parts or ("system",)
    return parents[-1] if last == "model" and parents else last


def _show(rows: Rows, json: bool) -> None:
    """Write the metrics as a table or as JSON."""
    from llamavae.evaluation.results import interval_text, number_text

    if json:
        for row in rows:
            write(True, **row)
        return
    table = [("", "metric", "value", "control", "95 % interval", "better")]
    for row in rows:
        control = "" if row["control"] is None else number_text(row["control"])
        cells = (number_text(row["value"]), control, interval_text(row))
        title = ", ".join(filter(None, (row["metric"], row["group"])))
        table.append((row["evaluator"], title, *cells, row["direction"]))
    if len(table) > 1:
        write_table(table)


Folder = Annotated[Path, typer.Argument(help="Folder of an evaluation or of a training run.")]


def report(folder: Folder) -> None:
    """Write a report of an evaluation or a training run as one self-contained HTML file."""
    from llamavae.report import write_report

    note(f"the report is {write_report(folder)}; open it in a browser")


def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of evaluations; the others are compared with the first."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the table and the report.")
    ] = Path("runs/comparison"),
    json: Json = False,
) -> None:
    """Compare evaluations, with significance tests of the differences."""
    from llamavae.evaluation.comparison import compare as differences
    from llamavae.evaluation.results import read_results
    from llamavae.report.comparison import write_comparison

    check_output(output, "a comparison")  # before reading
    evaluations = [read_results(folder) for folder in folders]
    systems = {results.system for results in evaluations}
    if len(systems) < len(folders):  # several evaluations of one model
        for results, folder in zip(evaluations, folders, strict=True):
            results.system = str(folder)
    rows = differences(evaluations)
    with locked(output, "a comparison"):
        write_csv(rows, output / "comparison.csv")
        page = write_comparison(evaluations, rows, output)
    if json:
        for row in rows:
            write(True, **row)
    else:
        write_table(_side_by_side([results.system for results in evaluations], rows))
    note(f"the table is {output / 'comparison.csv'}, the report is {page}")


def _side_by_side(systems: list[str], rows: Rows) -> list[tuple[str, ...]]:
    """A row for each metric, group and benchmark, and a column for each system."""
    from llamavae.evaluation.comparison import lines

    table = [("", "metric", *systems)]
    for title, found in lines(rows):
        evaluator = next(iter(found.values()))["evaluator"]
        table.append((evaluator, title, *(_compared(found.get(system)) for system in systems)))
    return table


def _compared(row: dict[str, Any] | None) -> str:
    """A value, the verdict if the difference is significant, and its p-value."""
    from llamavae.evaluation.results import number_text

    if row is None:
        return ""
    verdict = "" if row["verdict"] == "no clear difference" else row["verdict"]
    p = "" if row["p"] is None else f"(p = {row['p']:.3f})"
    return " ".join(filter(None, (number_text(row["value"]), verdict, p)))
