"""A run as one self-contained HTML page: no scripts, nothing loaded from elsewhere.

The page is a list of sections, and a section is built from pieces: `table`, `figure`, `gallery`
and `prose` each return a piece of HTML in which all text is escaped. `write_report` puts the
usual sections together from a run's folder; `page` takes any.
"""

from __future__ import annotations

import difflib
import html
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeGuard

from matplotlib.figure import Figure

from llamavae.errors import UserError
from llamavae.evaluation import plots
from llamavae.evaluation.examples import Rows

_SHOWN_RECONSTRUCTIONS = 10
_SHOWN_SAMPLES = 24


class Html(str):
    """Text that is HTML already and must not be escaped again."""


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading and what stands under it."""

    title: str
    body: Html


@dataclass(frozen=True)
class Measure:
    """A number with what is needed to judge it.

    Attributes:
        name: What it is, with its unit.
        value: As it is shown.
        control: The same under shuffled z, or another control; empty where there is none.
        better: "higher", "lower", or empty where neither is better in itself.
        how: How it was obtained: definition, data, N.
    """

    name: str
    value: str
    control: str = ""
    better: str = ""
    how: str = ""


# ------------------------------------------------------------------------------- pieces


def escape(value: object) -> Html:
    """Text as HTML; `Html` stays as it is."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(pieces: Iterable[Html]) -> Html:
    """Pieces one after the other."""
    return Html("\n".join(pieces))


def prose(text: str) -> Html:
    """A paragraph."""
    return Html(f"<p>{escape(text)}</p>")


def table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> Html:
    """A table with the keys of the first row as header; it scrolls in a box of its own.

    Args:
        rows: Dictionaries with the same keys; numbers are set to the right.
        caption: What the table shows, also for screen readers.
    """
    if not rows:
        return prose("None.")
    head = "".join(
        f'<th scope="col"{_kind(value)}>{escape(key)}</th>' for key, value in rows[0].items()
    )
    body = "".join(
        f"<tr>{''.join(_cell(row.get(key, '')) for key in rows[0])}</tr>\n" for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    label = escape(caption or "table")
    return Html(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f"<table>{title}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    text = f"{value:g}" if _is_number(value) else escape(value)
    return f"<td{_kind(value)}>{text}</td>"


def _kind(value: object) -> str:
    """Numbers stand right, and long text gets room."""
    if _is_number(value):
        return ' class="number"'
    plain = re.sub(r"<.*?>", "", value) if isinstance(value, Html) else str(value)
    return ' class="long"' if len(plain) > 30 else ""


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def figure(plot: Figure, caption: str) -> Html:
    """A plot as inline SVG that follows the reader's light or dark theme.

    Args:
        plot: A figure of `llamavae.evaluation.plots`, in its colours.
        caption: What it shows; also its text alternative.
    """
    stream = io.StringIO()
    plot.savefig(stream, format="svg")
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:xmlns(?::\w+)?|width|height)="[^"]*"', "", svg, count=4)
    svg = svg.replace("xlink:href", "href")
    svg = _own_ids(svg, caption)
    for colour, name in _THEMED.items():
        svg = svg.replace(colour, f"var(--{name})")
    text = escape(caption)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{text}"', 1)
    return Html(f"<figure>{svg.strip()}<figcaption>{text}</figcaption></figure>")


def _own_ids(svg: str, caption: str) -> str:
    """Ids that are the same in each run and differ between the figures of a page."""
    prefix = re.sub(r"\W+", "-", caption.lower())[:60]
    own: dict[str, str] = {}

    def renamed(match: re.Match[str]) -> str:
        name = own.setdefault(match[2], f"{prefix}-{len(own)}")
        return f"{match[1]}{name}{match[3]}"

    return re.sub(r'(\bid="|"#|url\(#)([^")]+)("|\))', renamed, svg)


_THEMED = {
    plots.INK: "ink",
    plots.FAINT: "line",
    plots.PAPER: "paper",
    plots.BLUE: "blue",
    plots.SKY: "sky",
    plots.VERMILION: "vermilion",
    plots.GREEN: "green",
    plots.PURPLE: "purple",
    plots.ORANGE: "orange",
    plots.GREY: "grey",
}


def gallery(figures: Iterable[Html]) -> Html:
    """Figures side by side where there is room."""
    return Html(f'<div class="gallery">{join(figures)}</div>')


def changes(before: str, after: str) -> Html:
    """`after`, with the words that differ from `before` marked and missing ones struck through.

    Example:
        >>> print(changes("the old dog", "the young dog"))
        the <del>old</del> <mark>young</mark> dog
    """
    old, new = before.split(), after.split()
    parts = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind in ("delete", "replace"):
            parts.append(f"<del>{escape(' '.join(old[i:j]))}</del>")
        if kind == "equal":
            parts.append(escape(" ".join(new[k:m])))
        elif k < m:
            parts.append(f"<mark>{escape(' '.join(new[k:m]))}</mark>")
    return Html(" ".join(parts))


def chain(steps: Sequence[tuple[str, str]]) -> Html:
    """Boxes with a title and a line of text, joined by arrows."""
    boxes = [f"<li><b>{escape(name)}</b> {escape(text)}</li>" for name, text in steps]
    return Html(f'<ol class="chain">{"".join(boxes)}</ol>')


# ------------------------------------------------------------------------------- sections


def about(recipe: Mapping[str, Any], sentences: int | None) -> Section:
    """What the model is, from its recipe.

    Args:
        recipe: Contents of recipe.yaml.
        sentences: Number of training sentences; None where they were streamed.
    """
    encoder, decoder, latent = recipe["encoder"], recipe["decoder"], recipe["latent"]
    objective, corpus = recipe["objective"], recipe["corpus"]["name"]
    scratch, written = encoder["scratch"], decoder["scratch"]
    if encoder["vectors"]:
        reads = f"sentence vectors of the column {encoder['vectors']}"
    elif scratch:
        reads = f"T5 type, from scratch: {_layers(scratch)}"
    else:
        reads = f"{encoder['model']} ({encoder['training']})"
    if written:
        writes = (
            f"LLaMA type, from scratch: {_layers(written)}, {written['warmup_steps']} warm-up "
            "steps as a plain language model"
        )
    else:
        writes = str(decoder["model"])
    trains = {
        "heads": "hidden layers frozen, embeddings and head train",
        "lora": "LoRA in the hidden layers, embeddings and head train",
        "full": "all of it trains",
    }[decoder["training"]]
    amount = "a stream of" if sentences is None else f"{sentences:,}"
    return Section(
        "The model",
        join(
            [
                prose(
                    "A sentence variational autoencoder (LlaMaVAE, arXiv 2312.13208): a sentence "
                    "becomes a point z in a small continuous space, and every point becomes a "
                    "sentence again."
                ),
                chain(
                    [
                        ("sentence", f"corpus {corpus}, {amount} training sentences"),
                        ("encoder", reads),
                        (
                            "z",
                            f"{latent['dim']} numbers, drawn from a Gaussian; the prior is N(0, I)",
                        ),
                        ("injection", f"{latent['injection']}, {latent['slots']} slot(s)"),
                        ("decoder", f"{writes}; {trains}"),
                        ("sentence", "greedy, without the original in sight"),
                    ]
                ),
                prose(
                    "Training minimises -log p(sentence | z) + β · KL(q(z | sentence) ‖ N(0, I)), "
                    f"in nats per sentence, with the {objective['schedule']} schedule of β up to "
                    f"{objective['beta']:g}."
                ),
            ]
        ),
    )


def _layers(scratch: Mapping[str, Any]) -> str:
    count = scratch["layers"]
    return f"{count} layer{'' if count == 1 else 's'}, {scratch['hidden_size']} wide"


def measures_of(metrics: Mapping[str, Any], latent_dim: int, decoded: int) -> list[Measure]:
    """The held-out measures at the end of training, each with its control.

    Args:
        metrics: `metrics` of results.json.
        latent_dim: Size D of z.
        decoded: How many of the sentences were decoded, `evaluation.decoded` of the recipe.
    """
    n = metrics.get("sentences", 0)
    held = f"{n} validation sentences"
    decoded = min(decoded, n)
    texts = f"greedy text from the posterior mean, first {decoded} of the {held}"
    count = metrics.get("mutual_information_n", n)
    form = {"nll": ".2f", "nll_shuffled": ".2f", "bleu": ".1f", "bleu_shuffled": ".1f"}
    form |= {"kl": ".2f", "elbo": ".2f", "mutual_information": ".2f"}
    form |= {"posterior_variance": ".3f", "exact_match": ".1%"}
    shown = {key: format(metrics[key], f) for key, f in form.items() if key in metrics}
    if "active_units" in metrics:
        shown["active_units"] = f"{metrics['active_units']} of {latent_dim}"
    bound = f"at most ln N = {math.log(count):.2f}, N = {count}" if count else ""
    rows = [
        ("nll", "NLL, nats per sentence", "lower", f"-log p(x|z), z drawn from q(z|x), {held}"),
        ("bleu", "reconstruction BLEU (0 to 100)", "higher", f"sacrebleu corpus BLEU of {texts}"),
        ("exact_match", "exact reconstructions", "higher", texts),
        ("kl", "KL, nats per sentence", "", f"raw KL(q(z|x) ‖ N(0, I)), {held}"),
        ("elbo", "negative ELBO, nats per sentence", "lower", "NLL + KL, at β = 1"),
        ("active_units", "active units (AU)", "", f"Var(μ) > 0.01 over {held}"),
        ("mutual_information", "mutual information, nats", "", bound),
        ("posterior_variance", "mean posterior variance", "", "the prior's is 1"),
    ]
    return [
        Measure(name, shown[key], shown.get(f"{key}_shuffled", ""), better, how)
        for key, name, better, how in rows
        if key in shown
    ]


def headline(measures: Sequence[Measure], warnings: Sequence[str]) -> Section:
    """The measures as a table, under what the monitor says."""
    verdict = [Html(f'<p class="warning">{escape(warning)}</p>') for warning in warnings]
    rows = [
        {
            "measure, and how it was obtained": _with_note(m.name, m.how),
            "value": Html(f"<b>{escape(m.value)}</b>"),
            "shuffled z": m.control,
            "better": m.better,
        }
        for m in measures
    ]
    note = prose(
        "Shuffled z: each sentence is decoded from the point of another one. A model whose text "
        "comes from z is then much worse; a model that ignores z is not."
    )
    silent = prose("The monitor found no collapse, no autoencoder in disguise and no holes.")
    return Section("In numbers", join([*(verdict or [silent]), table(rows, "Measures"), note]))


def _with_note(text: str, note: str) -> Html:
    return Html(f"{escape(text)}<small>{escape(note)}</small>")


_PANEL_CAPTIONS = {
    "nll": "NLL of the sentence given z, and given another sentence's z",
    "kl": "KL of the posterior from the prior",
    "beta": "The weight β of the KL",
    "bleu": "BLEU of free-running reconstructions",
    "units": "Dimensions in use",
    "warmup": "Warm-up of the decoder, before z exists",
}


def training(log: Sequence[plots.Line], metrics: Mapping[str, Any]) -> Section:
    """The course of the run and the KL of each dimension at its end."""
    figures = [
        figure(plots.plot_training(log, [name]), _PANEL_CAPTIONS[name])
        for name in plots.training_panels(log)
    ]
    if kl := metrics.get("kl_per_dimension"):
        bars = plots.plot_kl_per_dimension(kl, metrics.get("active_units"))
        figures.append(figure(bars, "KL of each dimension at the end"))
    return Section("Training", gallery(figures))


def show_reconstructions(rows: Rows) -> Section:
    """A few reconstructions as they come, and the worst ones."""
    picked = rows[:_SHOWN_RECONSTRUCTIONS]
    inexact = sorted((r for r in rows if r["bleu"] < 100), key=lambda row: row["bleu"])
    worst = inexact[:_SHOWN_RECONSTRUCTIONS]

    def shown(chosen: Rows) -> Rows:
        return [
            {
                "sentence": row["text"],
                "reconstruction": changes(row["text"], row["reconstruction"]),
                "BLEU": row["bleu"],
                "from shuffled z": row["shuffled"],
            }
            for row in chosen
        ]

    return Section(
        "Reconstructions",
        join(
            [
                prose(
                    "Marked words differ from the sentence, struck ones are missing. BLEU is that "
                    "of the one sentence."
                ),
                table(shown(picked), f"The first {len(picked)} of {len(rows)}, not selected"),
                table(shown(worst), f"The worst of the {len(inexact)} that are not exact")
                if worst
                else prose(f"All {len(rows)} are exact."),
            ]
        ),
    )


def show_path(title: str, note: str, rows: Rows, group: str) -> Section:
    """Sentences along paths, one table for each value of the column `group`.

    Words that differ from the step before are marked.
    """
    tables = []
    for name, steps in groupby(rows, key=lambda row: row[group]):
        previous, shown = None, []
        for row in steps:
            text = row["text"]
            marked = escape(text) if previous is None else _marked(previous, text)
            rest = {key: value for key, value in row.items() if key not in (group, "text")}
            shown.append({**rest, "text": marked})
            previous = text
        tables.append(table(shown, f"{group} {name}"))
    return Section(title, join([prose(note), *tables]))


def _marked(before: str, after: str) -> Html:
    """`changes` without what is missing."""
    return Html(re.sub(r"<del>.*?</del> ?", "", changes(before, after)).strip())


def show_samples(rows: Rows) -> Section:
    """The first sentences written from the prior, as they come, with their labels if they have."""
    few = rows[:_SHOWN_SAMPLES]
    note = "Points are drawn from the prior N(0, I) and decoded greedily."
    if len(few[0]) > 1:
        note += " The labels are what the parser of the corpus's grammar reads in the text."
    caption = f"The first {len(few)} of {len(rows)}, not selected"
    return Section("Samples from the prior", join([prose(note), table(few, caption)]))


def provenance(results: Mapping[str, Any]) -> Section:
    """Command, seed, machine and versions."""
    rows = [
        ("command", results.get("command")),
        ("seed", results.get("seed")),
        ("training time", _minutes(results.get("seconds"))),
        ("machine", results.get("machine")),
        ("llamavae", results.get("version")),
        ("commit", results.get("commit") or "installed package"),
        ("torch", results.get("torch")),
        ("transformers", results.get("transformers")),
    ]
    known = [{"": name, " ": str(value)} for name, value in rows if value is not None]
    return Section("How the numbers were obtained", table(known, "Run"))


def _minutes(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds / 60:.1f} minutes"


# ------------------------------------------------------------------------------- the page


def page(title: str, lead: str, sections: Sequence[Section]) -> Html:
    """A whole HTML document."""
    parts = join(Html(f"<section><h2>{escape(s.title)}</h2>\n{s.body}</section>") for s in sections)
    return Html(
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="lead">{escape(lead)}</p>
{parts}
</main>
</body>
</html>
"""
    )


def write_report(
    folder: Path,
    tables: Mapping[str, Rows] | None = None,
    measures: Sequence[Measure] = (),
    sections: Sequence[Section] = (),
) -> Path:
    """Write `report.html` into the folder of a finished run.

    Args:
        folder: The run's folder, with `results.json` and `log.jsonl`.
        tables: Rows of `llamavae.evaluation.examples` under the names `reconstructions`,
            `interpolations`, `traversals` and `samples`; those that are missing are left out.
        measures: Further measures; they head the table.
        sections: Further sections; they stand before the last one.

    Returns:
        Path of the page.

    Raises:
        UserError: The folder holds no finished run.
    """
    results, log = read_run(folder)
    recipe, metrics, rows = results["recipe"], results["metrics"], dict(tables or {})
    usual = measures_of(metrics, recipe["latent"]["dim"], recipe["evaluation"]["decoded"])
    parts = [
        about(recipe, results.get("sentences")),
        headline([*measures, *usual], results.get("warnings", [])),
    ]
    if reconstructed := rows.get("reconstructions"):
        parts.append(show_reconstructions(reconstructed))
    if paths := rows.get("interpolations"):
        note = "Steps on the straight line between two sentences; words that changed are marked."
        parts.append(show_path("Interpolation", note, paths, "pair"))
    if moved := rows.get("traversals"):
        note = (
            "One coordinate of one sentence's point runs over 95 % of the prior, in the dimensions "
            "with the largest KL; words that changed are marked."
        )
        parts.append(show_path("Traversal", note, moved, "dimension"))
    if drawn := rows.get("samples"):
        parts.append(show_samples(drawn))
    parts += [*sections, training(log, metrics), provenance(results)]
    path = folder / "report.html"
    lead = recipe["description"] or f"A run of the recipe {recipe['name']}."
    title = f"{recipe['name']}: report of a LlaMaVAE run"
    path.write_text(page(title, lead, parts), encoding="utf-8")
    return path


def read_run(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Contents of `results.json` and the lines of `log.jsonl` of a finished run."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        log = (folder / "log.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no finished run: {Path(error.filename).name} is missing. Train one "
            "with llamavae train, or finish it with --resume"
        ) from error
    return results, [json.loads(line) for line in log.splitlines() if line.strip()]


_STYLE = """
:root {
  --ink: #1f2328; --faint: #59636e; --line: #d1d5da; --paper: #ffffff; --box: #f6f8fa;
  --mark: #ffe8b3; --warn: #bc4c00;
  --blue: #0072b2; --sky: #56b4e9; --vermilion: #d55e00; --green: #009e73;
  --purple: #cc79a7; --orange: #e69f00; --grey: #8c959f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6edf3; --faint: #9da7b3; --line: #3d444d; --paper: #0d1117; --box: #161b22;
    --mark: #5a4200; --warn: #ff9b50;
    --blue: #3b9ae0; --sky: #9bd6f7; --vermilion: #ff7b39; --green: #2fc597;
    --purple: #e09ac4; --orange: #f0b429; --grey: #8c959f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 70rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1rem 0 0.25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; padding-bottom: 0.25rem;
  border-bottom: 1px solid var(--line); }
p { max-width: 46rem; margin: 0.5rem 0 0.75rem; }
.lead, figcaption, caption { color: var(--faint); }
.warning { border-left: 4px solid var(--warn); background: var(--box); padding: 0.5rem 0.75rem; }
.scroll { overflow-x: auto; margin: 0.75rem 0 1.25rem; }
table { border-collapse: collapse; font-size: 0.9rem; }
caption { text-align: left; padding: 0.25rem 0; white-space: nowrap; }
th, td { text-align: left; vertical-align: top; padding: 0.35rem 1.25rem 0.35rem 0;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--faint); font-weight: 600; }
td.long { min-width: min(18.5rem, 52vw); max-width: 32rem; white-space: normal; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
small { display: block; color: var(--faint); }
mark { background: var(--mark); color: inherit; border-radius: 3px; padding: 0 0.15em; }
del { color: var(--faint); }
.gallery { display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { font-size: 0.85rem; }
.chain { list-style: none; margin: 1rem 0; padding: 0; display: flex; flex-wrap: wrap;
  gap: 0.5rem 1.6rem; }
.chain li { flex: 1 1 9rem; background: var(--box); border: 1px solid var(--line);
  border-radius: 6px; padding: 0.5rem 0.65rem; font-size: 0.85rem; position: relative; }
.chain b { display: block; }
.chain li + li::before { content: "\\2192"; position: absolute; left: -1.35rem; top: 0.4rem;
  color: var(--faint); }
@media (max-width: 62rem) {
  .chain { flex-direction: column; gap: 1.4rem; }
  .chain li { flex: none; }
  .chain li + li::before { content: "\\2193"; left: 1rem; top: -1.5rem; }
}
"""
