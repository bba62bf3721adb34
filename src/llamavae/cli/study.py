"""Commands that run experiments: `study flows` and `study definitions`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llamavae.cli.fitting import FlowOptions, PairOptions
from llamavae.cli.options import ModelOptions, grouped
from llamavae.cli.output import note, resumable, write
from llamavae.errors import UserError
from llamavae.files import replacing, write_csv, write_json
from llamavae.folders import check_output, locked
from llamavae.parsing import damage_errors, read_json

if TYPE_CHECKING:
    from llamavae.experiments.study import DefinitionTask
    from llamavae.metrics.metric import Rows

study = typer.Typer(
    no_args_is_help=True, help="Compare systems on definition modelling, with controls."
)


@dataclass
class _TaskOptions(PairOptions):
    """Words and their definitions; `limit` applies to the training split."""

    texts: Annotated[int, typer.Option(min=2, help="Number of held-out words to define.")] = 500
    candidates: Annotated[
        int, typer.Option(min=2, help="Number of held-out words that the reverse dictionary ranks.")
    ] = 5000
    spread: Annotated[
        float, typer.Option(min=0, help="Spread of the latent codes of generated texts.")
    ] = 0.0
    draws: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of latent codes that flows draw per word; the best text is evaluated. "
            "Values above 1 require a --spread above 0, which then applies to the flows only.",
        ),
    ] = 1
    context: Annotated[
        str | None,
        typer.Option(
            help="Column with a sentence that contains the word; test words are defined in this "
            "context."
        ),
    ] = None
    mover: Annotated[
        str | None, typer.Option(help="Encoder for MoverScore (hub id or folder). Default: none.")
    ] = None
    bleurt: Annotated[
        str | None, typer.Option(help="BLEURT checkpoint (hub id or folder). Default: none.")
    ] = None

    def task(self, model: ModelOptions, **flows: Any) -> DefinitionTask:
        """The task, with the encoded corpus.

        Args:
            model: The model.
            **flows: Attributes of the task with settings of the flows.
        """
        vae = model.load()
        if vae.encoder is None:
            raise UserError("expected a model with a sentence encoder; this model has none")
        if self.draws > 1 and self.spread == 0:
            raise UserError("--draws above 1 requires a --spread above 0")
        if self.context is not None and self.word_vectors is not None:
            raise UserError("expected --context or --word-vectors, not both")
        from llamavae.experiments.study import definition_task
        from llamavae.guidance.conditions import read_column
        from llamavae.metrics.semantic import load_bleurt, load_encoder

        # loaded once, and before the first fit so that errors come early
        mover = None if self.mover is None else load_encoder(self.mover)
        bleurt = None if self.bleurt is None else load_bleurt(self.bleurt)
        splits = {
            split: self.rows(split, self.limit if split == "train" else None)
            for split in ("train", "validation", "test")
        }
        words = set()
        if self.word_vectors is not None:
            words = {str(w) for data in splits.values() for w in read_column(data, "word")}
        return definition_task(
            vae,
            self.word_condition(vae, words),
            splits,
            context=self.context,
            candidates=self.candidates,
            draws=self.draws,
            texts=self.texts,
            spread=self.spread,
            mover=mover,
            bleurt=bleurt,
            benchmark=self.corpus,
            **flows,
        )


Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")]
STUDY, KIND = "study.json", "a study"


@study.command()
@grouped
def flows(
    model: ModelOptions,
    options: _TaskOptions,
    fit: FlowOptions,
    flow: Annotated[
        list[str] | None,
        typer.Option(help="Architecture of the flow. Can be repeated. Default: all."),
    ] = None,
    form: Annotated[
        list[str] | None,
        typer.Option(help="reference or conditional. Can be repeated. Default: both."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of fits per flow, with seeds 0, 1, ...")
    ] = 1,
    output: Output = Path("runs/study-flows"),
) -> None:
    """Compare architectures of flows: fit each and evaluate it on held-out words.

    An interrupted study resumes when the command is repeated.
    """
    from llamavae.experiments.study import check_names, study_flows
    from llamavae.flows import flow_names

    config = fit.config()
    names, forms = flow or flow_names(), form or ("reference", "conditional")
    check_names(names, forms)  # before encoding the corpus
    networks = fit.networks(*forms)
    results = _Study(output, {"verb": "flows", "model": model.source, **vars(options), **vars(fit)})
    with locked(output, KIND):
        task = options.task(model, posterior_scale=fit.posterior_scale, networks=networks)
        with results.running():
            study_flows(
                task,
                names,
                forms,
                range(seeds),
                config,
                results.done,
                results.keep,
                results.models,
                results.predictions,
            )
        results.finish()


@study.command()
@grouped
def definitions(
    model: ModelOptions,
    options: _TaskOptions,
    fit: FlowOptions,
    form: Annotated[
        Literal["reference", "conditional"], typer.Option(help="Form of the invertible CVAE.")
    ] = "reference",
    cvae_steps: Annotated[
        int, typer.Option(min=1, help="Number of training steps of the CVAE baseline.")
    ] = 1500,
    tuned_steps: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of training steps of the decoder that is fine-tuned with LoRA. 0 skips "
            "this baseline.",
        ),
    ] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    output: Output = Path("runs/study-definitions"),
) -> None:
    """Compare the definitions of the invertible CVAE with those of all baselines.

    An interrupted study resumes when the command is repeated.
    """
    from llamavae.experiments.study import study_definitions

    config, networks = fit.config(seed), fit.networks(form)
    settings = {"verb": "definitions", "model": model.source, "form": form, "seed": seed}
    settings |= {"cvae_steps": cvae_steps, "tuned_steps": tuned_steps}
    settings |= {**vars(options), **vars(fit)}
    results = _Study(output, settings)
    with locked(output, KIND):
        task = options.task(model, posterior_scale=fit.posterior_scale, networks=networks)
        with results.running():
            study_definitions(
                task,
                config,
                form,
                cvae_steps,
                tuned_steps,
                seed,
                results.done,
                results.keep,
                results.models,
                results.predictions,
            )
        results.finish()


class _Study:
    """Folder of a study: `study.json` (settings and rows), fitted models, texts, tables, plot."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.path = folder, folder / STUDY
        self.models, self.predictions = folder / "models", folder / "predictions"
        self.settings = json.loads(json.dumps(settings, default=str))
        self.systems: dict[str, Rows] = {}
        self.made_by: dict[str, Any] = {}
        found = self.settings
        check_output(folder, KIND)
        if self.path.is_file():
            advice = "Remove it, or choose another --output"
            study = read_json(self.path, {"settings": dict, "systems": dict}, advice)
            found = study["settings"]
            with damage_errors(self.path, advice):
                self.systems = {
                    system: [_read_row(row) for row in rows]
                    for system, rows in study["systems"].items()
                }
        if found != self.settings:
            raise UserError(
                f"{folder} contains a study with other settings. Choose another --output"
            )
        self.done = list(self.systems)  # of an interrupted run

    @contextmanager
    def running(self) -> Iterator[None]:
        """Create the folder; an interruption inside tells how to resume."""
        from llamavae.provenance import provenance

        self.made_by = provenance()  # at the start of the study
        if not self.path.is_file():
            self._write()
        with resumable():
            yield

    def keep(self, system: str, rows: Rows) -> None:
        """Save the rows of a system."""
        self.systems[system] = rows
        self._write()
        note(f"{system} is done")

    def _write(self) -> None:
        systems = {
            system: [_saved_row(row) for row in rows] for system, rows in self.systems.items()
        }
        values = {"settings": self.settings, "made by": self.made_by, "systems": systems}
        write_json(self.path, values)

    def finish(self) -> None:
        """Write the tables and the plot, and show the tables."""
        from llamavae.experiments.study import differences
        from llamavae.report.plots import plot_scores

        found = [row for rows in self.systems.values() for row in rows]
        rows = [{key: row[key] for key in row if key != "items"} for row in found]
        write_csv(rows, self.folder / "scores.csv")
        several = len({row["seed"] for row in rows}) > 1
        named = [
            {**row, "system": f"{row['system']}, seed {row['seed']}"} if several else row
            for row in rows
        ]
        with replacing(self.folder / "scores.png") as new:
            plot_scores(named).savefig(new, dpi=150)
        for row in named:
            control = row["control"]
            cells = (row["system"], row["metric"], f"{row['value']:.4g}")
            write(False, *cells, "" if control is None else f"{control:.4g}")
        tests = differences(found)
        if tests:
            write_csv(tests, self.folder / "differences.csv")
            note("differences, 95 % interval, p (paired bootstrap):")
        for row in tests:
            names = f"{row['system']} minus {row['against']}, {row['metric']}"
            interval = f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
            note(f"  {names}: {interval}, p = {row['p']:.3g}")
        note(
            f"the results are in {self.folder}: scores.csv, scores.png, study.json, the fitted "
            "models in models/, and the texts of each system in predictions/"
        )


def _saved_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON."""
    if "items" not in row:
        return row
    parts = vars(row["items"]).items()
    return {**row, "items": {k: None if v is None else v.tolist() for k, v in parts}}


def _read_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `study.json`."""
    if "items" not in row:
        return row
    import numpy as np

    from llamavae.metrics.metric import Items

    values, control = row["items"]["values"], row["items"]["control"]
    items = Items(np.array(values), None if control is None else np.array(control))
    return {**row, "items": items}
