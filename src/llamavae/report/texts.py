"""Report sections with generated sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from llamavae.metrics.metric import Rows
from llamavae.report.pieces import Html, Section, changes, escape, gallery, join, prose, table

_SHOWN_RECONSTRUCTIONS = 10
_SHOWN_SAMPLES = 24
_SHOWN_PATHS = 6


TEXTS = ("predictions", "interpolations", "traversals", "samples")
"""Tables of sentences that have their own sections."""


def text_sections(tables: Mapping[str, Rows]) -> list[Section]:
    """Sections for the available tables of generated sentences.

    Args:
        tables: Tables of the evaluators, by the names of `TEXTS`.
    """
    sections = []
    if reconstructed := tables.get("predictions"):
        sections.append(_show_reconstructions(reconstructed))
    if paths := tables.get("interpolations"):
        note = "Steps on the path from one sentence to another; changed words are highlighted."
        sections.append(_show_paths("Interpolation", note, paths, ("pair",)))
    if moved := tables.get("traversals"):
        span = "the latent codes of the sentences" if "start" in moved[0] else "the prior"
        note = (
            f"One coordinate of a sentence's latent code covers 95 % of {span}; changed words are "
            "highlighted."
        )
        first = [row for row in moved if row.get("start") == moved[0].get("start")]
        sections.append(_show_paths("Traversal", note, first, ("dimension", "start")))
    if drawn := tables.get("samples"):
        sections.append(_show_samples(drawn))
    return sections


def _show_reconstructions(rows: Rows) -> Section:
    """The first reconstructions, and the worst ones."""
    picked = rows[:_SHOWN_RECONSTRUCTIONS]
    inexact = sorted((r for r in rows if r["bleu"] < 100), key=lambda row: row["bleu"])
    worst = inexact[:_SHOWN_RECONSTRUCTIONS]

    def shown(chosen: Rows) -> Rows:
        return [
            {
                "sentence": row["reference"],
                "reconstruction": changes(row["reference"], row["prediction"]),
                "BLEU": row["bleu"],
                "from shuffled z": row["control"],
            }
            for row in chosen
        ]

    note = (
        "Highlighted words differ from the sentence; struck-through words are missing. BLEU is "
        "sentence BLEU."
    )
    first = table(shown(picked), f"The first {len(picked)} of {len(rows)}, not selected")
    if worst:
        last = table(shown(worst), f"The worst of the {len(inexact)} that are not exact")
    else:
        last = prose(f"All {len(rows)} are exact.")
    return Section("Reconstructions", join([prose(note), first, last]))


def _show_paths(title: str, note: str, rows: Rows, groups: Sequence[str]) -> Section:
    """Sentences along the first few paths, a table for each.

    Words that differ from the previous step are highlighted.

    Args:
        title: Title of the section.
        note: Description of the paths.
        rows: The steps of all paths, path by path.
        groups: Columns that identify the path; missing columns are ignored.
    """
    names = [name for name in groups if name in rows[0]]
    paths = [
        (", ".join(f"{name} {steps[0][name]}" for name in names), steps)
        for _, each in groupby(rows, key=lambda row: [row[name] for name in names])
        for steps in [list(each)]
    ]
    tables = []
    for name, steps in paths[:_SHOWN_PATHS]:
        previous, shown = None, []
        for row in steps:
            text = row["text"]
            marked = escape(text) if previous is None else _marked(previous, text)
            rest = {key: value for key, value in row.items() if key not in (*names, "text")}
            shown.append({**rest, "text": marked})
            previous = text
        tables.append(table(shown, name))
    if len(paths) > _SHOWN_PATHS:
        note += f" Here are the first {_SHOWN_PATHS} of {len(paths)} paths, not selected."
    return Section(title, join([prose(note), gallery(tables)]))


def _marked(before: str, after: str) -> Html:
    """`changes` without the missing words."""
    return Html(re.sub(r"<del>.*?</del> ?", "", changes(before, after)).strip())


def _show_samples(rows: Rows) -> Section:
    """The first sentences decoded from the prior, with their labels, if any."""
    prior = rows[0].get("prior", "N(0, I)")
    few = [
        {name: value for name, value in row.items() if name != "prior"}
        for row in rows[:_SHOWN_SAMPLES]
    ]
    note = f"Latent codes are drawn from the prior {prior} and decoded greedily."
    if "grammatical" in few[0]:
        note += " The labels are assigned by the parser of the corpus's grammar."
    caption = f"The first {len(few)} of {len(rows)}, not selected"
    return Section("Samples from the prior", join([prose(note), table(few, caption)]))
