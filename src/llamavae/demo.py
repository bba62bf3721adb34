"""The demo: train a small VAE on the factors grammar, try it, measure it, and write a report."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llamavae.corpora import factors, load_corpus
from llamavae.errors import UserError
from llamavae.evaluation import examples, plots
from llamavae.evaluation.examples import Rows
from llamavae.evaluation.report import pieces
from llamavae.evaluation.report.pieces import Html, Section
from llamavae.evaluation.report.run import Number, read_run, write_run_report
from llamavae.modeling import LlaMaVAE
from llamavae.training import Recipe, TrainResult, load_recipe, train
from llamavae.training.diagnostics import exact_match, reconstruction_bleu
from llamavae.training.schedules import TargetRate, build_schedule

_SENTENCES = 500  # held-out sentences, and as many samples from the prior
_MAPPED = ("verb", "tense", "number", "order")
_SEED = 0


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves behind.

    Attributes:
        folder: The run's folder.
        report: The page in it.
        measures: What was measured on held-out sentences and on samples from the prior.
    """

    folder: Path
    report: Path
    measures: dict[str, Any]


def run_demo(
    output: Path,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    progress: bool = True,
) -> DemoResult:
    """Train the recipe `demo`, show what the model does, measure it, and write a report.

    An interrupted run is continued; a finished one is not trained again, only measured.

    Args:
        output: Folder of the run.
        overrides: Changes of the recipe, as `section.key=value`.
        console: Where sentences and numbers are shown; the terminal by default.
        progress: Show progress bars on stderr.

    Raises:
        UserError: The folder holds another run, or a setting is not usable.
    """
    console = console or Console()
    recipe = load_recipe("demo", list(overrides))
    recipe.output.folder = str(output)
    if recipe.corpus.name != "factors":
        raise UserError(
            f"the demo measures with the grammar of factors, not on {recipe.corpus.name}: use "
            "llamavae train for another corpus"
        )
    _announce(console, recipe, output)
    trained = train(recipe, resume=True, progress=progress)
    console.print("Measuring on held-out sentences and on samples from the prior ...")
    held_out = load_corpus("factors", "test", limit=_SENTENCES, seed=_SEED)
    training = load_corpus("factors", "train", limit=recipe.corpus.limit)
    tables = _tables(trained, list(held_out["text"]))
    measures = _measure(tables, set(training["text"]))
    _show(console, tables, measures)

    for name, rows in tables.items():
        examples.write_csv(rows, output / f"{name}.csv")
    results, log = read_run(output)
    _write_json(output / "results.json", results | {"demo": measures})
    maps = _plots(trained.model, held_out, recipe, results, log, output)
    sections = [_factor_section(measures), maps]
    path = write_run_report(output, tables, _report_measures(measures), sections)
    console.print(
        f"Everything is in {output}:\n"
        f"  {path}  the report: open it in a browser\n"
        f"  {output / 'model'}  the model: LlaMaVAE.from_pretrained({str(output / 'model')!r})\n"
        f"  {output / 'results.json'}  all numbers; the sentences behind them are in *.csv",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return DemoResult(output, path, measures)


# ------------------------------------------------------------------------------- training


def _announce(console: Console, recipe: Recipe, folder: Path) -> None:
    """Say whether the model is trained, goes on training, or is there already."""
    if (folder / "results.json").is_file():
        console.print(f"The model in {folder} is trained already.", markup=False, highlight=False)
    elif (folder / "recipe.yaml").is_file():
        console.print(f"Continuing the interrupted run in {folder}.", markup=False, highlight=False)
    else:
        steps = recipe.optimisation.steps
        console.print(f"Training a small VAE from scratch, {steps} steps, on sentences like:")
        for index in random.Random(_SEED).sample(range(factors.SIZE), 3):
            console.print(f"  {factors.generate(index)[0]}", style="italic", highlight=False)


# ------------------------------------------------------------------------------- measuring


def _tables(trained: TrainResult, held_out: list[str]) -> dict[str, Rows]:
    """Reconstructions, interpolations, traversals, and labelled samples from the prior."""
    model, kl = trained.model, trained.metrics["kl_per_dimension"]
    samples = examples.prior_samples(model, _SENTENCES, _SEED)
    return {
        "reconstructions": examples.reconstructions(model, held_out),
        "interpolations": examples.interpolations(
            model, [(held_out[i], held_out[i + 1]) for i in (0, 2, 4)]
        ),
        "traversals": examples.traversals(model, held_out[0], examples.largest_dimensions(kl, 3)),
        "samples": [row | _labels(row["text"]) for row in samples],
    }


def _labels(text: str) -> dict[str, str]:
    """The factors that the grammar's parser reads in a text, all empty if it is no sentence."""
    found = factors.parse(text)
    blank = dict.fromkeys(factors.FACTORS, "")
    return {"grammatical": "yes" if found else "no", **(found or blank)}


def _measure(tables: Mapping[str, Rows], training: set[str]) -> dict[str, Any]:
    """Numbers of the tables; shares are 0 to 1."""
    rows, samples = tables["reconstructions"], [row["text"] for row in tables["samples"]]
    texts, written, shuffled = (
        [row[key] for row in rows] for key in ("text", "reconstruction", "shuffled")
    )
    return {
        "sentences": len(texts),
        "seed": _SEED,
        "bleu": reconstruction_bleu(written, texts),
        "bleu_shuffled": reconstruction_bleu(shuffled, texts),
        "exact_match": exact_match(written, texts),
        "exact_match_shuffled": exact_match(shuffled, texts),
        "grammatical_reconstructions": _grammatical(written),
        "factor_accuracy": _factor_accuracy(written, texts),
        "factor_accuracy_shuffled": _factor_accuracy(shuffled, texts),
        "samples": len(samples),
        "grammatical_samples": _grammatical(samples),
        "distinct_samples": len(set(samples)) / len(samples),
        "new_samples": sum(text not in training for text in samples) / len(samples),
        "grammatical_interpolations": _grammatical(
            [row["text"] for row in tables["interpolations"]]
        ),
    }


def _grammatical(texts: Sequence[str]) -> float:
    return sum(factors.parse(text) is not None for text in texts) / len(texts)


def _factor_accuracy(written: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """Share of sentences whose factor is kept; one that does not parse keeps none."""
    found = [factors.parse(text) or {} for text in written]
    wanted = [factors.parse(text) or {} for text in texts]
    return {
        name: sum(f.get(name) == w[name] for f, w in zip(found, wanted, strict=True)) / len(wanted)
        for name in factors.FACTORS
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(path)


# ------------------------------------------------------------------------------- showing


def _show(console: Console, tables: Mapping[str, Rows], measures: Mapping[str, Any]) -> None:
    """A few rows of each table, and the numbers."""
    shown = {
        "reconstructions": ("text", "reconstruction", "shuffled"),
        "interpolations": ("position", "text"),
        "traversals": ("dimension", "value", "text"),
        "samples": ("text", "grammatical"),
    }
    counts = {"reconstructions": 6, "interpolations": 9, "traversals": 7, "samples": 8}
    for name, columns in shown.items():
        grid = Table(title=name, title_justify="left", box=box.SIMPLE_HEAD)
        for column in columns:
            grid.add_column("with shuffled z" if column == "shuffled" else column)
        for row in tables[name][: counts[name]]:
            grid.add_row(*(escape(str(row[column])) for column in columns))
        console.print(grid)
    grid = Table(title="measures", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("measure", "value", "with shuffled z"):
        grid.add_column(column)
    for m in _report_measures(measures):
        grid.add_row(m.name, m.value, m.control)
    console.print(grid)


def _report_measures(m: Mapping[str, Any]) -> list[Number]:
    held = f"{m['sentences']} sentences of the test split, greedy from the posterior mean"
    drawn = f"{m['samples']} points of the prior, seed {m['seed']}, decoded greedily"
    return [
        Number(
            "test BLEU (0 to 100)",
            f"{m['bleu']:.1f}",
            f"{m['bleu_shuffled']:.1f}",
            "higher",
            f"sacrebleu corpus BLEU; {held}",
        ),
        Number(
            "test sentences that come back exactly",
            f"{m['exact_match']:.1%}",
            f"{m['exact_match_shuffled']:.1%}",
            "higher",
            held,
        ),
        Number(
            "grammatical samples from the prior",
            f"{m['grammatical_samples']:.1%}",
            "",
            "higher",
            "share that the grammar's parser accepts, with agreement and the objects and places "
            f"that each verb takes; {drawn}",
        ),
        Number(
            "different samples from the prior",
            f"{m['distinct_samples']:.1%}",
            "",
            "higher",
            f"different texts among {drawn}",
        ),
        Number(
            "samples that are no training sentence",
            f"{m['new_samples']:.1%}",
            "",
            "",
            drawn,
        ),
    ]


def _factor_section(measures: Mapping[str, Any]) -> Section:
    """How well each factor survives the way through z."""
    right, shuffled = measures["factor_accuracy"], measures["factor_accuracy_shuffled"]
    rows = [
        {
            "factor": name,
            "values": len(values),
            "kept": Html(f"<b>{right[name]:.1%}</b>"),
            "shuffled z": f"{shuffled[name]:.1%}",
        }
        for name, values in factors.FACTORS.items()
    ]
    note = (
        "Share of test sentences whose reconstruction, read by the grammar's parser, has the same "
        "value of the factor. A reconstruction that does not parse counts as wrong."
    )
    body = [pieces.prose(note), pieces.table(rows, f"{measures['sentences']} test sentences")]
    return Section("What survives the way through z", pieces.join(body))


def _plots(
    model: LlaMaVAE,
    held_out: Any,
    recipe: Recipe,
    results: Mapping[str, Any],
    log: list[dict[str, Any]],
    folder: Path,
) -> Section:
    """Save all plots as PNG; returns the maps of the latent space as a section."""
    with torch.no_grad():
        mean = model.encode(list(held_out["text"])).mean.cpu().numpy()
    maps = {name: plots.plot_latent_map(mean, held_out[name], name) for name in _MAPPED}
    metrics = results["metrics"]
    figures = {f"map-{name}": figure for name, figure in maps.items()} | {
        "training": plots.plot_training(log),
        "kl-per-dimension": plots.plot_kl_per_dimension(
            metrics["kl_per_dimension"], metrics["active_units"]
        ),
    }
    schedule, steps = build_schedule(recipe.objective), recipe.optimisation.steps
    if steps is not None and not isinstance(schedule, TargetRate):
        figures["schedule"] = plots.plot_schedule(schedule, steps)
    (folder / "plots").mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / "plots" / f"{name}.png", dpi=150)
    shown = pieces.gallery(
        pieces.figure(figure, f"Posterior means by {name}") for name, figure in maps.items()
    )
    note = (
        f"Posterior means of {len(mean)} test sentences on the first two of "
        f"{mean.shape[1]} principal components; a factor may well lie in the others."
    )
    return Section("Maps of the latent space", pieces.join([pieces.prose(note), shown]))
