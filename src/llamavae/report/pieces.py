"""Building blocks of a page: each function returns HTML in which all text is escaped."""

from __future__ import annotations

import difflib
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from matplotlib.figure import Figure

from llamavae.report._style import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PAPER,
    PURPLE,
    SKY,
    VERMILION,
)


class Html(str):
    """A string of HTML that must not be escaped again."""


@dataclass(frozen=True)
class Section:
    """A section of the page: its heading, its content, and its id if it is a link target."""

    title: str
    body: Html
    id: str = ""


def escape(value: object) -> Html:
    """Text as HTML; `Html` is returned unchanged."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(pieces: Iterable[Html]) -> Html:
    """Concatenate pieces."""
    return Html("\n".join(pieces))


def prose(text: str) -> Html:
    """A paragraph."""
    return Html(f"<p>{escape(text)}</p>")


def bold(text: str) -> Html:
    """Text in bold face."""
    return Html(f"<b>{escape(text)}</b>")


def warning(text: str, name: str = "") -> Html:
    """A highlighted paragraph that may begin with a name in bold face."""
    start = f"{bold(name)} " if name else ""
    return Html(f'<p class="warning">{start}{escape(text)}</p>')


def with_notes(text: str, *notes: str) -> Html:
    """Text with notes below it in small print."""
    return Html(escape(text) + "".join(f"<small>{escape(note)}</small>" for note in notes))


def table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> Html:
    """A scrollable table with the keys of the first row as its header.

    Args:
        rows: Dictionaries with the same keys; numbers are right-aligned.
        caption: Caption, also for screen readers.
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


def facts(pairs: Iterable[tuple[str, object]], caption: str) -> Html:
    """A table of two columns, names and values, without a header."""
    return table([{"": name, " ": str(value)} for name, value in pairs], caption)


def _cell(value: object) -> str:
    text = f"{value:g}" if _is_number(value) else escape(value)
    return f"<td{_kind(value)}>{text}</td>"


def _kind(value: object) -> str:
    """CSS class: numbers are right-aligned, and long text gets a wide column."""
    if _is_number(value):
        return ' class="number"'
    if not isinstance(value, Html):
        return ' class="long"' if len(str(value)) > 30 else ""
    lines = value.split("<small>")
    longest = max(len(re.sub(r"<.*?>", "", line)) for line in lines)
    return ' class="long"' if longest > 30 else ""


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def figure(plot: Figure, caption: str) -> Html:
    """A plot as inline SVG that follows the reader's light or dark theme.

    Args:
        plot: A figure of `llamavae.report.plots`, in its colours.
        caption: Caption, also used as the text alternative.
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
    """Replace ids by ones that are reproducible and unique among the figures of a page."""
    prefix = re.sub(r"\W+", "-", caption.lower())[:60]
    own: dict[str, str] = {}

    def renamed(match: re.Match[str]) -> str:
        name = own.setdefault(match[2], f"{prefix}-{len(own)}")
        return f"{match[1]}{name}{match[3]}"

    return re.sub(r'(\bid="|"#|url\(#)([^")]+)("|\))', renamed, svg)


_THEMED = {
    INK: "ink",
    FAINT: "line",
    PAPER: "paper",
    BLUE: "blue",
    SKY: "sky",
    VERMILION: "vermilion",
    GREEN: "green",
    PURPLE: "purple",
    ORANGE: "orange",
    GREY: "grey",
}


def details(summary: str, body: Html) -> Html:
    """A collapsible block."""
    return Html(f"<details><summary>{escape(summary)}</summary>{body}</details>")


def gallery(pieces: Iterable[Html]) -> Html:
    """Figures or small tables side by side if there is enough space."""
    return Html(f'<div class="gallery">{join(pieces)}</div>')


def changes(before: str, after: str) -> Html:
    """`after` with words that differ from `before` highlighted and missing words struck through.

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
    """Boxes with a title and a line of text, connected by arrows."""
    boxes = [f"<li><b>{escape(name)}</b> {escape(text)}</li>" for name, text in steps]
    return Html(f'<ol class="chain">{"".join(boxes)}</ol>')
