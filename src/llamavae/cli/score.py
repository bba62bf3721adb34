"""The command `score`: metrics of files of predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamavae.cli.engine import EngineOptions
from llamavae.cli.options import Json, quiet
from llamavae.cli.output import note, progress_bar, resumable, write, write_table
from llamavae.errors import UserError
from llamavae.files import write_csv, write_json
from llamavae.folders import check_output, locked

if TYPE_CHECKING:
    from llamavae.evaluation.predictions import Predictions
    from llamavae.metrics.metric import Rows

_KIND = "scores of predictions"


def score(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Files of predictions (JSON lines), or with --references submissions for CODWOE "
            "(.json). The others are compared with the first. Or a single Parquet file of any "
            "length, whose rows are scored one by one.",
        ),
    ],
    engine: EngineOptions,
    references: Annotated[
        Path | None,
        typer.Option(
            help="Complete file of CODWOE with the words and definitions, for submissions."
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Sentence encoder for the cosine (hub id or folder). Default: none.",
            rich_help_panel="Models",
        ),
    ] = None,
    mover: Annotated[
        str | None,
        typer.Option(
            help="Encoder for MoverScore (hub id or folder). Default: none.",
            rich_help_panel="Models",
        ),
    ] = None,
    bertscore: Annotated[
        str | None,
        typer.Option(
            help="Encoder for BERTScore (hub id or folder). Default: none.",
            rich_help_panel="Models",
        ),
    ] = None,
    bertscore_layer: Annotated[
        int,
        typer.Option(
            min=1,
            help="Layer of that encoder; its authors chose 17 for roberta-large.",
            rich_help_panel="Models",
        ),
    ] = 17,
    bleurt: Annotated[
        str | None,
        typer.Option(
            help="BLEURT checkpoint (hub id or folder). Default: none.", rich_help_panel="Models"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    resamples: Annotated[int, typer.Option(min=1, help="Number of bootstrap samples.")] = 1000,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the results, or for a Parquet file of predictions the Parquet file of "
            "their scores. Default: none.",
        ),
    ] = None,
    submission: Annotated[
        Path | None,
        typer.Option(
            help="Also write the predictions of a single FILE to this file, in CODWOE's submission "
            "format."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compute the metrics of generated texts, of any system.

    Several files about the same items are compared, with significance tests of the differences.
    """
    models = {"encoder": encoder, "mover": mover, "bertscore": bertscore, "bleurt": bleurt}
    settings = {**models, "bertscore_layer": bertscore_layer}
    if any(file.suffix.lower() == ".parquet" for file in files):
        if len(files) > 1 or output is None or references or submission:
            raise UserError(
                "a Parquet file of predictions is scored alone, to another Parquet file. Use "
                "llamavae score FILE.parquet --output SCORES.parquet"
            )
        _score_rows(files[0], output, settings, engine, json)
        return
    if engine.engine != "local" or engine.overwrite:
        raise UserError("--engine and --overwrite are for a single Parquet file of predictions")
    from llamavae.corpora.codwoe import check_submission
    from llamavae.evaluation.predictions import write_submission
    from llamavae.evaluation.scoring import Scorer

    if output is not None:
        check_output(output, _KIND)
    if submission is not None and len(files) > 1:
        raise UserError(f"--submission requires a single file of predictions; got {len(files)}")
    check_submission(submission)
    systems = _read(files, references)
    quiet()
    settings |= {"seed": seed, "resamples": resamples}
    rows = Scorer(**settings).compare(systems)
    if submission is not None:
        write_submission(systems[0], submission)
        note(f"{len(systems[0].items)} definitions are in {submission}")
    if output is not None:
        _save(output, files, systems, rows, settings)
    if json:
        for row in rows:
            write(True, **row)
    else:
        write_table(_table(rows, len(systems) > 1))
    if output is not None:
        note(f"the results are in {output}")


def _score_rows(
    file: Path,
    output: Path,
    models: dict[str, Any],
    engine: EngineOptions,
    json: bool,
) -> None:
    """Score a Parquet file row by row."""
    from llamavae.bulk import score_file
    from llamavae.evaluation.results import number_text
    from llamavae.evaluation.scoring import METRICS

    quiet()
    runner = engine.create(output)
    with progress_bar("scoring", "predictions") as update, resumable():
        report = score_file(
            file, output, overwrite=engine.overwrite, progress=update, engine=runner, **models
        )
    if json:
        for name, value in report.metrics.items():
            write(True, metric=name, value=value, n=report.items)
    else:
        rows = [(n, number_text(v), METRICS[n].direction) for n, v in report.metrics.items()]
        write_table([("metric", "value", "better"), *rows])
    resumed = f"; {report.resumed:,} of them from an interrupted run" * bool(report.resumed)
    note(f"the scores of {report.items:,} predictions are in {report.output}{resumed}")


def _read(files: list[Path], references: Path | None) -> list[Predictions]:
    """The predictions of each file; systems without a name of their own are named by the file."""
    from llamavae.evaluation.predictions import read_predictions, read_submission

    found: list[Predictions] = []
    for file in files:
        if file.suffix.lower() != ".json":
            found.append(read_predictions(file))
        elif references is None:
            raise UserError(
                f"{file}: expected --references with the complete file of CODWOE for a submission "
                "(.json), or a file of predictions with one JSON object per line (.jsonl)"
            )
        else:
            found.append(read_submission(file, references))
    if references is not None and not any(file.suffix.lower() == ".json" for file in files):
        raise UserError(
            "--references requires a submission (.json); files of predictions have them"
        )
    unique = len({each.system for each in found}) == len(found)
    return [
        each if unique and each.system else replace(each, system=str(file))
        for each, file in zip(found, files, strict=True)
    ]


def _save(
    folder: Path,
    files: list[Path],
    systems: list[Predictions],
    rows: Rows,
    settings: dict[str, Any],
) -> None:
    """Write the table `scores.csv`, and `scores.json` with all that the numbers depend on."""
    from dataclasses import asdict

    from llamavae.evaluation.scoring import METRICS
    from llamavae.provenance import provenance

    about = [
        {
            "file": str(file),
            "system": each.system,
            "task": each.task,
            "benchmark": each.benchmark,
            "split": each.split,
            "items": len(each.items),
        }
        for file, each in zip(files, systems, strict=True)
    ]
    used = dict.fromkeys(row["metric"] for row in rows)
    values = {
        "settings": settings,
        "made_by": provenance(),
        "systems": about,
        "metrics": [asdict(METRICS[name]) for name in used],
        "rows": rows,
    }
    with locked(folder, _KIND):
        write_csv(rows, folder / "scores.csv")
        write_json(folder / "scores.json", values)


def _table(rows: Rows, several: bool) -> list[tuple[str, ...]]:
    """The rows as a table; with several systems, also the differences from the first one."""
    from llamavae.evaluation.results import interval_text, number_text

    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        control = "" if row["control"] is None else number_text(row["control"])
        found = (row["metric"], number_text(row["value"]), control, interval_text(row))
        if not several:
            return (*found, row["direction"])
        difference = "" if row["difference"] is None else f"{row['difference']:+.4g}"
        p = "" if row["p"] is None else f"{row['p']:.3f}"
        return (found[0], row["system"], *found[1:], difference, p, row["verdict"])

    head = ("metric", "value", "control", "95 % interval")
    if several:
        head = (head[0], "system", *head[1:], "difference", "p", "verdict")
    else:
        head = (*head, "better")
    return [head, *map(cells, rows)]
