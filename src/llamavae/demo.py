"""The demo: what the model `mini` does, a fine-tune on a file of sentences, and a page of both.

The fine-tune is `train` with the recipe `fine-tune`. Without a file the demo writes one, from the
grammar of `llamavae.corpora.factors`, whose parser can then tell sentences from other texts.
"""

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
from llamavae.evaluation import examples
from llamavae.evaluation.examples import Rows
from llamavae.evaluation.report import pieces
from llamavae.evaluation.report.pieces import Section
from llamavae.evaluation.report.run import Number, read_run, write_run_report
from llamavae.guidance import InvertibleCVAE
from llamavae.modeling import LlaMaVAE
from llamavae.pretrained import shipped_names
from llamavae.training import Recipe, load_recipe, train
from llamavae.training.diagnostics import exact_match, reconstruction_bleu

MINI, DEFINITIONS = "mini", "mini-definitions"
_SETTINGS = (
    "optimisation.steps=500",
    "optimisation.learning_rate=1e-3",
    "evaluation.every=250",
)
_OWN = 2000  # sentences of the file that the demo writes
_HELD_OUT = 500  # at most
_SAMPLES = 200
_SEED = 1

_SENTENCES = (
    "a dog is a kind of animal",
    "a person who plays the violin",
    "the act of making something more beautiful",
    "plants require sunlight to grow",
    "Anna paid 34 dollars for two tickets to Berlin",
)
_ENDS = ("a small bird that lives in trees", "a person who plays the violin")
_WORDS = ("violinist", "kindness", "lantern", "river", "whisper")


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves behind.

    Attributes:
        folder: The run's folder.
        report: The page in it.
        measures: What was measured before and after, on held-out sentences and on samples.
    """

    folder: Path
    report: Path
    measures: dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """Something that a model does: real output, and a line on how to read it."""

    name: str
    rows: Rows
    seen: str


def run_demo(
    output: Path,
    sentences: Path | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    progress: bool = True,
) -> DemoResult:
    """Show what `mini` does, fine-tune it, measure it before and after, and write a report.

    An interrupted run is continued; a finished one is not trained again, only measured.

    Args:
        output: Folder of the run.
        sentences: File that `mini` is fine-tuned on, as for `corpus.name`; by default the demo
            writes `sentences.txt` into `output`.
        overrides: Changes of the recipe `fine-tune`, as `section.key=value`.
        console: Where sentences and numbers are shown; the terminal by default.
        progress: Show progress bars on stderr.

    Raises:
        UserError: The file cannot be read or is too short, the folder holds another run, or a
            setting is not usable.
    """
    console = console or Console()
    recipe = load_recipe("fine-tune", [*_SETTINGS, *overrides])
    recipe.start_from, recipe.output.folder = MINI, str(output)
    recipe.corpus.name = str(_own_sentences(output) if sentences is None else sentences)
    recipe.description = f"The model {MINI}, fine-tuned on {recipe.corpus.name}."
    held_out = _held_out(recipe)

    mini = LlaMaVAE.from_pretrained(MINI)
    console.rule(f"What {MINI} does")
    tour = _tour(mini)
    for shown in tour:
        _show(console, shown)

    console.rule(f"{MINI}, fine-tuned on your sentences")
    _announce(console, recipe, output)
    tuned = train(recipe, resume=True, progress=progress).model
    tables = _tables(mini, tuned, held_out)
    measures = _measure(tables)
    numbers = _numbers(measures)
    for shown in _before_and_after(tables, numbers):
        _show(console, shown)

    for name, rows in tables.items():
        examples.write_csv(rows, output / f"{name}.csv")
    results, _ = read_run(output)
    _write_json(output / "results.json", results | {"demo": measures})
    path = write_run_report(output, tables, _headline(numbers), [_tour_section(tour)])
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
    return DemoResult(output, path, measures)


# ------------------------------------------------------------------------------- sentences


def _own_sentences(folder: Path) -> Path:
    """A file of the grammar's sentences, one a line; one that is there stays."""
    path = folder / "sentences.txt"
    if not path.is_file():
        numbers = random.Random(_SEED).sample(range(factors.SIZE), _OWN)
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"{factors.generate(n)[0].capitalize()}.\n" for n in numbers
        ]  # mini saw no capitals
        path.write_text("".join(lines), encoding="utf-8")
    return path


def _grammatical(text: str) -> bool:
    return factors.parse(text.removesuffix(".").lower()) is not None


def _held_out(recipe: Recipe) -> list[str]:
    """Sentences of the file that are not trained on."""
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


# ------------------------------------------------------------------------------- what mini does


def _tour(mini: LlaMaVAE) -> list[Shown]:
    """Each thing that the model does, once."""
    dims = mini.config.latent_dim
    rows = examples.reconstructions(mini, _SENTENCES)
    q = mini.encode(list(_SENTENCES))
    kl = (q.mean.square() + q.logvar.exp() - 1 - q.logvar).mean(0) / 2
    [dim] = examples.largest_dimensions(kl.tolist(), 1)
    tour = [
        Shown(
            "reconstruct",
            [{key: row[key] for key in ("text", "reconstruction", "shuffled")} for row in rows],
            f"Each sentence became {dims} numbers, and the decoder wrote it again from these "
            "alone. Shuffled: from the numbers of the next sentence. The text comes from the "
            "point. Names and numbers, as in the last one, do not fit through.",
        ),
        Shown(
            "interpolate",
            [
                {"position": row["position"], "text": row["text"]}
                for row in examples.interpolations(mini, [_ENDS], steps=7)
            ],
            "Points on the straight line from one sentence to another.",
        ),
        Shown(
            "traverse",
            examples.traversals(mini, _SENTENCES[1], [dim], steps=5),
            f"One number of a sentence changes, the other {dims - 1} stay. One number seldom has "
            "one meaning.",
        ),
        Shown(
            "sample",
            [{"text": text} for text in mini.sample(6, seed=_SEED)],
            "Points drawn from a mixture of Gaussians, fitted to the points of the sentences that "
            "mini was trained on. Unselected: nobody wrote these.",
        ),
    ]
    if DEFINITIONS in shipped_names():
        guided = InvertibleCVAE.from_pretrained(DEFINITIONS, mini)
        written = guided.generate(list(_WORDS), 1, 0.0)
        tour.append(
            Shown(
                "define",
                [{"word": w, "text": text} for w, text in zip(_WORDS, written, strict=True)],
                f"{DEFINITIONS}: a flow leads from a word to a point, and mini's decoder writes "
                "what stands there.",
            )
        )
    return tour


def _tour_section(tour: Sequence[Shown]) -> Section:
    parts = [piece for s in tour for piece in (pieces.prose(s.seen), pieces.table(s.rows, s.name))]
    return Section(f"What {MINI} does, before the fine-tune", pieces.join(parts))


# ------------------------------------------------------------------------------- before and after


def _announce(console: Console, recipe: Recipe, folder: Path) -> None:
    """Say whether the model is trained, goes on training, or is there already."""
    if (folder / "results.json").is_file():
        text = f"The model in {folder} is trained already."
    elif (folder / "recipe.yaml").is_file():
        text = f"Continuing the interrupted run in {folder}."
    else:
        text = f"Training on {recipe.corpus.name}, {recipe.optimisation.steps} steps."
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@torch.no_grad()
def _tables(mini: LlaMaVAE, tuned: LlaMaVAE, held_out: list[str]) -> dict[str, Rows]:
    """Texts of both models from held-out sentences, and from the same points of the prior."""
    before, after = (examples.reconstructions(model, held_out) for model in (mini, tuned))
    reconstructions = [
        new | {"before": old["reconstruction"], "before_shuffled": old["shuffled"]}
        for old, new in zip(before, after, strict=True)
    ]
    old, new = (examples.prior_samples(m, _SAMPLES, _SEED, "standard") for m in (mini, tuned))
    samples: Rows = [
        {"before": b["text"], "text": a["text"]} for b, a in zip(old, new, strict=True)
    ]
    if all(map(_grammatical, held_out)):
        for row in samples:
            row["grammatical"] = "yes" if _grammatical(row["text"]) else "no"
    pairs = list(zip(held_out[0:6:2], held_out[1:6:2], strict=False))
    return {
        "reconstructions": reconstructions,
        "interpolations": examples.interpolations(tuned, pairs),
        "samples": samples,
    }


def _measure(tables: Mapping[str, Rows]) -> dict[str, Any]:
    """Numbers of the tables, before and after; shares are 0 to 1."""
    rows, samples = tables["reconstructions"], tables["samples"]
    texts = [row["text"] for row in rows]

    def measured(written: str, shuffled: str, drawn: str) -> dict[str, float]:
        right, wrong = ([row[key] for row in rows] for key in (written, shuffled))
        found = {
            "bleu": reconstruction_bleu(right, texts),
            "bleu_shuffled": reconstruction_bleu(wrong, texts),
            "exact_match": exact_match(right, texts),
            "exact_match_shuffled": exact_match(wrong, texts),
            "distinct_samples": len({row[drawn] for row in samples}) / len(samples),
        }
        if "grammatical" in samples[0]:
            parsed = sum(_grammatical(row[drawn]) for row in samples)
            found["grammatical_samples"] = parsed / len(samples)
        return found

    return {
        "sentences": len(rows),
        "samples": len(samples),
        "seed": _SEED,
        "before": measured("before", "before_shuffled", "before"),
        "after": measured("reconstruction", "shuffled", "text"),
    }


def _numbers(m: Mapping[str, Any]) -> Rows:
    """Each measure before and after, as text, with its control and how it was obtained."""
    held = f"{m['sentences']} held-out sentences of the file, greedy from the posterior mean"
    drawn = f"{m['samples']} points of N(0, I), seed {m['seed']}, decoded greedily"
    kinds = {
        "bleu": ("BLEU (0 to 100)", f"sacrebleu corpus BLEU; {held}"),
        "exact_match": ("come back exactly", held),
        "distinct_samples": ("different samples", drawn),
        "grammatical_samples": (
            "grammatical samples",
            f"what the grammar's parser accepts; {drawn}",
        ),
    }

    def text(when: str, key: str) -> str:
        value = m[when].get(key)
        return "" if value is None else f"{value:.1f}" if "bleu" in key else f"{value:.1%}"

    return [
        {
            "measure": name,
            "before": text("before", key),
            "fine-tuned": text("after", key),
            "shuffled z": text("after", f"{key}_shuffled"),
            "how": how,
        }
        for key, (name, how) in kinds.items()
        if key in m["after"]
    ]


def _headline(numbers: Rows) -> list[Number]:
    """The measures of the fine-tuned model for the page; those of mini stand in the note."""
    return [
        Number(
            row["measure"],
            row["fine-tuned"],
            row["shuffled z"],
            "higher",
            f"{row['before']} before; {row['how']}",
        )
        for row in numbers
    ]


def _before_and_after(tables: Mapping[str, Rows], numbers: Rows) -> list[Shown]:
    """The first rows of the tables, and the numbers."""
    return [
        Shown(
            "held-out sentences",
            [
                {"text": r["text"], "before": r["before"], "fine-tuned": r["reconstruction"]}
                for r in tables["reconstructions"][:5]
            ],
            "Sentences of the file that were not trained on.",
        ),
        Shown(
            "samples",
            [{"before": r["before"], "fine-tuned": r["text"]} for r in tables["samples"][:6]],
            "From the same points of N(0, I), unselected.",
        ),
        Shown(
            "measures",
            [
                {key: row[key] for key in ("measure", "before", "fine-tuned", "shuffled z")}
                for row in numbers
            ],
            "Shuffled z: each sentence is written from the point of another. A model whose text "
            "comes from z is then far worse.",
        ),
    ]


# ------------------------------------------------------------------------------- showing


def _show(console: Console, shown: Shown) -> None:
    grid = Table(title=shown.name, title_justify="left", box=box.SIMPLE_HEAD)
    for column in shown.rows[0]:
        grid.add_column(column)
    for row in shown.rows:
        grid.add_row(*(escape(str(value)) for value in row.values()))
    console.print(grid)
    console.print(shown.seen, markup=False, highlight=False, style="italic")
    console.print()


def _write_json(path: Path, values: dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(path)
