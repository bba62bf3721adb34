"""The demo as a whole: fine-tuning, the comparison before and after, and the report."""

from __future__ import annotations

import random
import shlex
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
from llamavae.demo.tour import SEED, Example, interpolations, prior_of, tour
from llamavae.errors import UserError, counted
from llamavae.evaluation.evaluator import Evaluation, EvaluationData
from llamavae.evaluation.evaluators.reconstruction import Reconstruction
from llamavae.evaluation.results import number_text
from llamavae.files import write_csv, write_json, write_text
from llamavae.folders import locked
from llamavae.metrics.metric import Rows
from llamavae.metrics.ngrams import duplicates
from llamavae.modeling import LlaMaVAE
from llamavae.pretrained import MODELS, fetch, find, megabytes, needed, preferred
from llamavae.report import pieces
from llamavae.report.pieces import Section
from llamavae.report.run import Number, read_run, write_run_report
from llamavae.terminal import printable
from llamavae.training import Recipe, load_recipe, train
from llamavae.training.folder import RUN

_SETTINGS: dict[str, dict[str, Any]] = {
    "small": {
        "optimisation.steps": 60,  # so few steps need higher learning rates than the recipe's
        "optimisation.learning_rate": 2e-3,
        "optimisation.posterior_learning_rate": 3e-4,
        "optimisation.backbone_learning_rate": 1e-3,
        "optimisation.warmup_steps": 5,
        "evaluation.every": 30,
    },
    "mini": {
        "objective.beta": 0.3,  # the value of its training
        "optimisation.steps": 500,
        "optimisation.learning_rate": 1e-3,
        "optimisation.posterior_learning_rate": 1e-3,
        "optimisation.backbone_learning_rate": 1e-3,
        "evaluation.every": 250,
    },
}
_OWN = 2000  # sentences of the file that the demo writes
_OWN_FILE = "sentences.txt"
_HELD_OUT = 500  # at most
_SAMPLES = 100


@dataclass(frozen=True)
class DemoResult:
    """Result of the demo.

    Attributes:
        folder: Folder of the run.
        report: The report in it.
        metrics: Metrics on held-out sentences and on samples. A row has `metric`, `unit`, `before`,
            `after`, `shuffled` (that of the fine-tuned model with shuffled z, or None) and `how`.
    """

    folder: Path
    report: Path
    metrics: Rows


def run_demo(
    output: Path,
    sentences: Path | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    progress: bool = True,
    model: str | None = None,
) -> DemoResult:
    """Show examples of a model, fine-tune it, evaluate it before and after, and write a report.

    An interrupted run is continued; a finished one is not trained again, only measured.

    Args:
        output: Folder of the run.
        sentences: File that the model is fine-tuned on, as for `corpus.name`; by default the demo
            writes `sentences.txt` into `output`.
        overrides: Changes of the recipe `fine-tune`, as `section.key=value`.
        console: Console for sentences and metrics; the terminal by default.
        progress: Show progress bars on stderr.
        model: Name, folder or hub id of the model. None uses `small` and downloads its backbones
            if they are missing, or `mini` if they cannot be downloaded.

    Raises:
        UserError: The file cannot be read or is too short, the folder holds another run, or a
            setting is invalid.
    """
    console = console or Console()
    if sentences is not None:
        load_corpus(str(sentences), None, limit=2)  # errors come before a download
    name = _choose(console, progress) if model is None else model
    settings = _SETTINGS.get(name, _SETTINGS["small"])
    corpus = str(output / _OWN_FILE if sentences is None else sentences)
    settings = settings | {"evaluation.decoded": 0}  # the demo decodes more than a run would
    given = [text.partition("=")[0].strip() for text in overrides]
    for key in list(settings):  # `values` take precedence over overrides, of sections as well
        if any(f"{key}.".startswith(f"{changed}.") for changed in given):
            del settings[key]
    values = {
        "start_from": name,
        "output.folder": str(output),
        "corpus.name": corpus,
        "description": f"{name}, fine-tuned on {corpus}.",
    }
    recipe = load_recipe("fine-tune", overrides, values=settings | values)
    with locked(output, RUN):
        return _run(output, recipe, name, console, progress, sentences is None)


def _run(
    output: Path, recipe: Recipe, name: str, console: Console, progress: bool, own_file: bool
) -> DemoResult:
    if own_file:
        _write_sentences(output / _OWN_FILE)
    held_out = _held_out(recipe)

    start = LlaMaVAE.from_pretrained(name)
    console.rule(f"What {name} does")
    examples = []
    for example in tour(start):
        examples.append(example)
        _show(console, example)

    console.rule(f"{name}, fine-tuned on your sentences")
    text = f"Training on {recipe.corpus.name}, {recipe.optimisation.steps} steps."
    if (output / "results.json").is_file():
        text = f"The model in {output} is already trained."
    elif (output / "recipe.yaml").is_file():
        text = f"Continuing the interrupted run in {output}."
    _say(console, text)
    tuned = train(recipe, resume=True, progress=progress).model
    tables, metrics = _before_and_after(start, tuned, held_out)
    for example in _outcome(tables, metrics):
        _show(console, example)

    for table, rows in tables.items():
        write_csv(rows, output / f"{table}.csv")
    results, _ = read_run(output)
    write_json(output / "results.json", results | {"demo": metrics})
    parts = [p for e in examples for p in (pieces.prose(e.seen), pieces.table(e.rows, e.name))]
    section = Section(f"What {name} does, before the fine-tune", pieces.join(parts))
    path = write_run_report(output, tables, list(map(_number, metrics)), [section])
    _say(
        console,
        f"Everything is in {output}:\n"
        f"  {path}  the report: open it in a browser\n"
        f"  {output / 'model'}  the fine-tuned model; try\n"
        f"      llamavae reconstruct --model {shlex.quote(str(output / 'model'))} 'a sentence'\n"
        f"  {output / 'results.json'}  all numbers; the sentences behind them are in *.csv",
    )
    return DemoResult(output, path, metrics)


def _choose(console: Console, progress: bool) -> str:
    """The preferred bundled model, downloaded if necessary, or a complete one."""
    name, better = preferred(*MODELS)
    if better is None:
        return name
    missing = [backbone for backbone in needed(better) if find(backbone.name) is None]
    names = " and ".join(f"{backbone.name} ({backbone.licence})" for backbone in missing)
    size = megabytes(sum(backbone.size for backbone in missing))
    _say(console, f"Downloading the backbones of {better} once: {names}, {size}.")
    try:
        fetch(better, progress=progress)
    except UserError:
        _say(
            console,
            f"The download failed, so the demo uses the bundled model {name}. "
            f"`llamavae models get {better}` shows the reason; {better} generates better text.",
        )
        return name
    return better


# ------------------------------------------------------------------------------- sentences


def _write_sentences(path: Path) -> None:
    """Write a file of the grammar's sentences, one per line; an existing one stays."""
    if not path.is_file():
        numbers = random.Random(SEED).sample(range(factors.SIZE), _OWN)
        path.parent.mkdir(parents=True, exist_ok=True)
        # with capitals and full stops, which the models have not seen
        lines = [f"{factors.generate(n)[0].capitalize()}.\n" for n in numbers]
        write_text(path, "".join(lines))


def _grammatical(text: str) -> bool:
    return factors.parse(text.removesuffix(".").lower()) is not None


def _held_out(recipe: Recipe) -> list[str]:
    """Sentences of the file that are excluded from training."""
    corpus = recipe.corpus
    names = {"path", "column", "config", "revision", "min_words", "max_words"}
    options = corpus.model_dump(include=names)
    found = list(load_corpus(corpus.name, "test", limit=_HELD_OUT, **options)["text"])
    if len(found) < 2:
        raise UserError(
            f"{corpus.name} leaves {counted(len(found), 'held-out sentence')}; expected at "
            "least 2. Pass a file with several hundred sentences"
        )
    return found


# ------------------------------------------------------------------------------- before and after


@torch.no_grad()
def _before_and_after(
    start: LlaMaVAE, tuned: LlaMaVAE, held_out: list[str]
) -> tuple[dict[str, Rows], Rows]:
    """Texts and metrics of both models."""
    evaluator, data = Reconstruction(), EvaluationData(held_out, seed=SEED)
    evaluations = evaluator(start, data), evaluator(tuned, data)
    texts = zip(*(found.tables["predictions"] for found in evaluations), strict=True)
    samples = [model.sample(_SAMPLES, seed=SEED) for model in (start, tuned)]
    prior = prior_of(tuned)
    if prior_of(start) != prior:
        prior = f"{prior_of(start)} (before) or {prior} (fine-tuned)"
    pairs = list(zip(held_out[0:6:2], held_out[1:6:2], strict=False))
    tables = {
        "predictions": [new | {"before": old["prediction"]} for old, new in texts],
        "interpolations": interpolations(tuned, pairs),
        "samples": [
            {"before": old, "text": new, "prior": prior} for old, new in zip(*samples, strict=True)
        ],
    }
    metrics = [_reconstructed(*evaluations, name) for name in ("BLEU", "exact match")]
    what, share = "do not equal an earlier text", lambda texts: 1 - duplicates(texts)
    metrics.append(_sampled("different samples", what, *map(share, samples)))
    if all(map(_grammatical, held_out)):
        what = "the parser of the file's grammar accepts"
        shares = (sum(map(_grammatical, texts)) / len(texts) for texts in samples)
        metrics.append(_sampled("grammatical samples", what, *shares))
    return tables, metrics


def _reconstructed(before: Evaluation, after: Evaluation, name: str) -> dict[str, Any]:
    """A reconstruction metric over all held-out sentences."""
    row = next(row for row in after.rows if row["metric"] == name and not row["group"])
    definition = next(m.definition for m in Reconstruction.metrics if m.name == name)
    return {
        "metric": name,
        "unit": row["unit"],
        "before": before.value(name),
        "after": row["value"],
        "shuffled": row["control"],
        "how": f"{definition} N = {row['n']} held-out sentences of the file.",
    }


def _sampled(name: str, what: str, before: float, after: float) -> dict[str, Any]:
    """The proportion of samples for which `what` is true."""
    return {
        "metric": name,
        "unit": "0 to 1",
        "before": before,
        "after": after,
        "shuffled": None,
        "how": f"Proportion of texts that {what}; {_SAMPLES} samples from each model's own prior, "
        f"seed {SEED}, greedy",
    }


def _number(row: Mapping[str, Any]) -> Number:
    """A metric of the fine-tuned model for the page, with the value before in the note."""
    return Number(
        f"{row['metric']} ({row['unit']})",
        number_text(row["after"]),
        "" if row["shuffled"] is None else number_text(row["shuffled"]),
        "higher",
        f"{number_text(row['before'])} before the fine-tune; {row['how']}",
    )


def _outcome(tables: Mapping[str, Rows], metrics: Rows) -> list[Example]:
    """The first rows of the tables, and the numbers."""
    return [
        Example(
            "held-out sentences",
            [
                {
                    "text": row["reference"],
                    "before": row["before"],
                    "fine-tuned": row["prediction"],
                }
                for row in tables["predictions"][:5]
            ],
            "Sentences of the file that were excluded from training.",
        ),
        Example(
            "samples",
            [{"before": row["before"], "fine-tuned": row["text"]} for row in tables["samples"][:6]],
            "Drawn from each model's own prior; not selected.",
        ),
        Example(
            "metrics",
            [
                {
                    "metric": number.name,
                    "before": number_text(row["before"]),
                    "fine-tuned": number.value,
                    "shuffled z": number.control,
                }
                for row, number in ((row, _number(row)) for row in metrics)
            ],
            "Shuffled z is the control: the text of each sentence is compared with another "
            "sentence. A model that uses z is much worse under the control.",
        ),
    ]


# ------------------------------------------------------------------------------- showing


def _say(console: Console, text: str) -> None:
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def _show(console: Console, example: Example) -> None:
    grid = Table(title=example.name, title_justify="left", box=box.SIMPLE_HEAD)
    for column in example.rows[0]:
        grid.add_column(column)
    for row in example.rows:
        grid.add_row(*(escape(printable(" ".join(str(value).split()))) for value in row.values()))
    console.print(grid)
    console.print(example.seen, markup=False, highlight=False, style="italic")
    console.print()
