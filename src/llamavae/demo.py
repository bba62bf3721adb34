"""The demo: examples of a pretrained model, fine-tuning on a file of sentences, and a report.

The model is `small`, whose backbones are fetched if they are missing, or `mini` if no source can be
reached. The fine-tune is `train` with the recipe `fine-tune`. Without a file the demo
writes one, from the grammar of `llamavae.corpora.factors`, whose parser can then tell sentences
from other texts.
"""

from __future__ import annotations

import random
import time
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
from llamavae.evaluation import generations
from llamavae.evaluation.evaluator import Evaluation, EvaluationData
from llamavae.evaluation.evaluators.reconstruction import Reconstruction
from llamavae.evaluation.results import number_text
from llamavae.files import write_json, write_text
from llamavae.metrics.metric import Rows
from llamavae.metrics.ngrams import duplicates
from llamavae.modeling import LlaMaVAE
from llamavae.pretrained import MODELS, fetch, find, megabytes, needed, preferred
from llamavae.report import pieces
from llamavae.report.pieces import Section
from llamavae.report.run import Number, read_run, write_run_report
from llamavae.training import Recipe, load_recipe, train

_SETTINGS = {
    "small": (
        "optimisation.steps=60",  # so few steps need higher learning rates than those of the recipe
        "optimisation.learning_rate=2e-3",
        "optimisation.posterior_learning_rate=3e-4",
        "optimisation.backbone_learning_rate=1e-3",
        "optimisation.warmup_steps=5",
        "evaluation.every=30",
    ),
    "mini": (
        "objective.beta=0.3",  # the value of its training
        "optimisation.steps=500",
        "optimisation.learning_rate=1e-3",
        "optimisation.posterior_learning_rate=1e-3",
        "optimisation.backbone_learning_rate=1e-3",
        "evaluation.every=250",
    ),
}
_MEASURED_HERE = ("evaluation.decoded=0",)  # the demo decodes more sentences than a run would
_OWN = 2000  # sentences of the file that the demo writes
_OWN_FILE = "sentences.txt"
_HELD_OUT = 500  # at most
_SAMPLES = 100
_REFINED = 20  # steps
_SEED = 1

_PLAIN = (
    "a dog is a kind of animal",
    "a person who plays the violin",
    "the act of making something more beautiful",
    "plants require sunlight to grow",
    "someone who repairs old clocks",
)
_HARD = (
    "Anna paid 34 dollars for two tickets to Berlin",
    "Marie Curie was born in Warsaw in 1867",
    "the meeting on Thursday was moved to room 217",
    "our neighbour's grey cat has been asleep on the garage roof since noon",
    "he bought three loaves of bread, a pound of butter and a dozen eggs",
)
_ENDS = ("a small bird that lives in trees", "a person who plays the violin")
_ANALOGIES = (
    ("a person who plays the violin", "a person who plays music", "a person who paints pictures"),
    ("a dog is a kind of animal", "a dog barks", "a cat sleeps"),
    ("the boy opened the door", "the boy opens the door", "the girl closes the window"),
)


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


@dataclass(frozen=True)
class Shown:
    """An example of model output, with an explanation."""

    name: str
    rows: Rows
    seen: str


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
        model: Name, folder or hub id of the model. None uses `small` and fetches its backbones if
            they are missing, or `mini` if they cannot be fetched.

    Raises:
        UserError: The file cannot be read or is too short, the folder holds another run, or a
            setting is invalid.
    """
    console = console or Console()
    name = _choose(console, progress) if model is None else model
    settings = _SETTINGS.get(name, _SETTINGS["small"])
    corpus = str(output / _OWN_FILE if sentences is None else sentences)
    values = {
        "start_from": name,
        "output.folder": str(output),
        "corpus.name": corpus,
        "description": f"{name}, fine-tuned on {corpus}.",
    }
    recipe = load_recipe("fine-tune", [*settings, *_MEASURED_HERE, *overrides], values=values)
    if sentences is None:
        _write_sentences(output / _OWN_FILE)
    held_out = _held_out(recipe)

    start = LlaMaVAE.from_pretrained(name)
    console.rule(f"What {name} does")
    tour = []
    for show in (_reconstruct, _refine, _interpolate, _arithmetic, _sample):
        tour.append(show(start))
        _show(console, tour[-1])

    console.rule(f"{name}, fine-tuned on your sentences")
    _announce(console, recipe, output)
    tuned = train(recipe, resume=True, progress=progress).model
    tables, metrics = _before_and_after(start, tuned, held_out)
    for shown in _outcome(tables, metrics):
        _show(console, shown)

    for table, rows in tables.items():
        generations.write_csv(rows, output / f"{table}.csv")
    results, _ = read_run(output)
    write_json(output / "results.json", results | {"demo": metrics})
    parts = [p for s in tour for p in (pieces.prose(s.seen), pieces.table(s.rows, s.name))]
    section = Section(f"What {name} does, before the fine-tune", pieces.join(parts))
    path = write_run_report(output, tables, _headline(metrics), [section])
    console.print(
        f"Everything is in {output}:\n"
        f"  {path}  the report: open it in a browser\n"
        f"  {output / 'model'}  the fine-tuned model; try\n"
        f"      llamavae reconstruct --model {output / 'model'} 'a sentence'\n"
        f"  {output / 'results.json'}  all numbers; the sentences behind them are in *.csv",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return DemoResult(output, path, metrics)


def _choose(console: Console, progress: bool) -> str:
    """The preferred bundled model, fetched if necessary, or a complete one."""
    name, better = preferred(*MODELS)
    if better is None:
        return name
    missing = [backbone for backbone in needed(better) if find(backbone.name) is None]
    names = " and ".join(f"{backbone.name} ({backbone.licence})" for backbone in missing)
    size = megabytes(sum(backbone.size for backbone in missing))
    _say(console, f"Fetching what {better} is built on, once: {names}, {size}.")
    try:
        fetch(better, progress=progress)
    except UserError:
        _say(
            console,
            f"It could not be fetched, so the demo uses the bundled model {name}. "
            f"`llamavae models get {better}` shows the reason; {better} generates better text.",
        )
        return name
    return better


# ------------------------------------------------------------------------------- sentences


def _write_sentences(path: Path) -> None:
    """Write a file of the grammar's sentences, one per line; an existing one stays."""
    if not path.is_file():
        numbers = random.Random(_SEED).sample(range(factors.SIZE), _OWN)
        path.parent.mkdir(parents=True, exist_ok=True)
        # with capitals and full stops, which the models have not seen
        lines = [f"{factors.generate(n)[0].capitalize()}.\n" for n in numbers]
        write_text(path, "".join(lines))


def _grammatical(text: str) -> bool:
    return factors.parse(text.removesuffix(".").lower()) is not None


def _held_out(recipe: Recipe) -> list[str]:
    """Sentences of the file that are excluded from training."""
    c = recipe.corpus
    options = c.model_dump(
        include={"path", "column", "config", "revision", "min_words", "max_words"}
    )
    found = list(load_corpus(c.name, "test", limit=_HELD_OUT, **options)["text"])
    if len(found) < 2:
        raise UserError(
            f"{c.name} leaves {len(found)} sentence(s) to measure with: give a file of some "
            "hundreds"
        )
    return found


# ------------------------------------------------------------------------------- the tour


def _reconstruct(model: LlaMaVAE) -> Shown:
    rows = generations.reconstructions(model, _PLAIN)
    return Shown(
        "reconstruct",
        [{key: row[key] for key in ("text", "reconstruction", "shuffled")} for row in rows],
        f"Each sentence is encoded as a latent code z of {model.config.latent_dim} numbers and "
        "decoded from z alone. Shuffled is the control: the text decoded from the z of the next "
        "sentence.",
    )


def _refine(model: LlaMaVAE) -> Shown:
    texts = list(_HARD)
    begin = time.perf_counter()
    refined = model.refine(texts, steps=_REFINED, variance=False)
    seconds = time.perf_counter() - begin
    before, after = model.reconstruct(texts), model.decode(refined.mean)
    exact = [
        sum(a == b for a, b in zip(texts, written, strict=True)) for written in (before, after)
    ]
    return Shown(
        f"refine, {_REFINED} steps",
        [
            {"text": text, "encoder": guess, "refined": better}
            for text, guess, better in zip(texts, before, after, strict=True)
        ],
        "Names, numbers and long sentences. Refinement improves the z of the encoder for each "
        f"sentence by up to {_REFINED} gradient steps, with the model frozen. Exact: "
        f"{exact[0]} of {len(texts)} before, {exact[1]} after, in {seconds:.1f} seconds.",
    )


def _interpolate(model: LlaMaVAE) -> Shown:
    return Shown(
        "interpolate",
        [
            {"position": row["position"], "text": row["text"]}
            for row in generations.interpolations(model, [_ENDS], steps=7)
        ],
        "Latent codes on the straight line from one sentence to another.",
    )


def _arithmetic(model: LlaMaVAE) -> Shown:
    return Shown(
        "arithmetic",
        [
            {"a": a, "- b": b, "+ c": c, "text": model.arithmetic(a, b, c)[0]}
            for a, b, c in _ANALOGIES
        ],
        "The text decoded from a - b + c of the latent codes. Whether such a difference is "
        "meaningful depends on the sentences.",
    )


def _sample(model: LlaMaVAE) -> Shown:
    prior = "N(0, I)"
    if model.default_prior is not None:
        prior = f"the prior ({model.default_prior.kind}) that was fitted to training sentences"
    return Shown(
        "sample",
        [{"text": text} for text in model.sample(6, seed=_SEED)],
        f"Latent codes drawn from {prior}, decoded greedily; not selected.",
    )


# ------------------------------------------------------------------------------- before and after


def _announce(console: Console, recipe: Recipe, folder: Path) -> None:
    """Print whether the model is trained, resumed, or already finished."""
    if (folder / "results.json").is_file():
        text = f"The model in {folder} is already trained."
    elif (folder / "recipe.yaml").is_file():
        text = f"Continuing the interrupted run in {folder}."
    else:
        text = f"Training on {recipe.corpus.name}, {recipe.optimisation.steps} steps."
    _say(console, text)


@torch.no_grad()
def _before_and_after(
    start: LlaMaVAE, tuned: LlaMaVAE, held_out: list[str]
) -> tuple[dict[str, Rows], Rows]:
    """Texts and metrics of both models."""
    evaluator, data = Reconstruction(), EvaluationData(held_out, seed=_SEED)
    before, after = evaluator(start, data), evaluator(tuned, data)
    rows = [
        new | {"before": old["reconstruction"]}
        for old, new in zip(
            before.tables["reconstructions"], after.tables["reconstructions"], strict=True
        )
    ]
    models = {"before": start, "text": tuned}
    drawn = {name: model.sample(_SAMPLES, seed=_SEED) for name, model in models.items()}
    pairs = list(zip(held_out[0:6:2], held_out[1:6:2], strict=False))
    drawn["prior"] = [_priors(start, tuned)] * _SAMPLES
    tables = {
        "reconstructions": rows,
        "interpolations": generations.interpolations(tuned, pairs),
        "samples": [
            dict(zip(drawn, texts, strict=True)) for texts in zip(*drawn.values(), strict=True)
        ],
    }
    metrics = [_reconstructed(before, after, name) for name in ("BLEU", "exact match")]
    shares = {
        "different samples": (
            "Proportion of texts that do not equal an earlier text",
            lambda texts: 1 - duplicates(texts),
        )
    }
    if all(map(_grammatical, held_out)):
        shares["grammatical samples"] = (
            "Proportion of texts that the parser of the file's grammar accepts",
            lambda texts: sum(map(_grammatical, texts)) / len(texts),
        )
    how = f"{_SAMPLES} samples from each model's own prior, seed {_SEED}, greedy"
    for name, (what, share) in shares.items():
        values = {"before": share(drawn["before"]), "after": share(drawn["text"])}
        row = {"metric": name, "unit": "0 to 1", **values, "shuffled": None}
        metrics.append(row | {"how": f"{what}; {how}"})
    return tables, metrics


def _priors(start: LlaMaVAE, tuned: LlaMaVAE) -> str:
    """Description of the priors of the two models."""
    before, after = (
        "N(0, I)" if model.default_prior is None else model.default_prior.kind
        for model in (start, tuned)
    )
    return after if before == after else f"{before} (before) or {after} (fine-tuned)"


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


def _headline(metrics: Rows) -> list[Number]:
    """The metrics of the fine-tuned model for the page, with the values before in the note."""
    return [
        Number(
            f"{row['metric']} ({row['unit']})",
            number_text(row["after"]),
            "" if row["shuffled"] is None else number_text(row["shuffled"]),
            "higher",
            f"{number_text(row['before'])} before the fine-tune; {row['how']}",
        )
        for row in metrics
    ]


def _outcome(tables: Mapping[str, Rows], metrics: Rows) -> list[Shown]:
    """The first rows of the tables, and the numbers."""
    return [
        Shown(
            "held-out sentences",
            [
                {"text": r["text"], "before": r["before"], "fine-tuned": r["reconstruction"]}
                for r in tables["reconstructions"][:5]
            ],
            "Sentences of the file that were excluded from training.",
        ),
        Shown(
            "samples",
            [{"before": r["before"], "fine-tuned": r["text"]} for r in tables["samples"][:6]],
            "Drawn from each model's own prior; not selected.",
        ),
        Shown(
            "metrics",
            [
                {
                    "metric": f"{n.name}",
                    "before": number_text(row["before"]),
                    "fine-tuned": n.value,
                    "shuffled z": n.control,
                }
                for n, row in zip(_headline(metrics), metrics, strict=True)
            ],
            "Shuffled z is the control: the text of each sentence is compared with another "
            "sentence. A model that uses z is much worse under the control.",
        ),
    ]


# ------------------------------------------------------------------------------- showing


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _show(console: Console, shown: Shown) -> None:
    grid = Table(title=shown.name, title_justify="left", box=box.SIMPLE_HEAD)
    for column in shown.rows[0]:
        grid.add_column(column)
    for row in shown.rows:
        grid.add_row(*(escape(" ".join(str(value).split())) for value in row.values()))
    console.print(grid)
    console.print(shown.seen, markup=False, highlight=False, style="italic")
    console.print()
