"""Draws the two pictures of `explanation/architecture.md`.

    python docs/pictures.py

The layers are those of the import contract in `pyproject.toml`. Text stands on filled boxes, and
lines are grey, so that a picture reads on a light and on a dark page.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "docs" / "assets"

TEAL, BLUE, PURPLE, GREY, LINE = "#00695c", "#1f5f99", "#6a3d9a", "#566270", "#7b8794"
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"

ABOUT = {
    "cli": "the command llamavae",
    "explorer": "a page that shows the latent space",
    "serving": "the model over HTTP",
    "bulk": "large files to codes",
    "check": "finds damage",
    "demo": "a first run",
    "index": "fast search",
    "planning": "needs of a run",
    "report": "HTML pages and plots of results",
    "experiments": "sweeps and studies over several models",
    "baselines": "what guided generation is compared with",
    "guidance": "from a condition to latent codes, and back",
    "training": "recipes, objective, trainer, fitting of priors",
    "evaluation": "evaluators, suites, results, comparison of models",
    "data": "tokenised, encoded, cached, batched sentences",
    "corpora": "texts and their readers",
    "modeling": "the model and its parts",
    "latent": "paths and arithmetic on z",
    "flows": "invertible networks on vectors",
    "metrics": "functions of arrays and texts",
    "pretrained": "models by name, and fetching them",
    "folders": "output folders and their locks",
    "files": "atomic writing",
    "state": "optimiser and random numbers",
    "manifest": "sizes and hashes of saved files",
    "parsing": "JSON and YAML, or an error",
}
COLOURS = {
    **dict.fromkeys(
        ("cli", "explorer", "serving", "bulk", "check", "demo", "index", "planning"), GREY
    ),
    **dict.fromkeys(("folders", "files", "state", "manifest", "parsing"), GREY),
    **dict.fromkeys(("report", "experiments", "baselines", "guidance", "training"), BLUE),
    **dict.fromkeys(("evaluation", "metrics"), PURPLE),
}


def layers() -> list[list[str]]:
    """Names of each layer of the import contract, the uppermost layer first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rows = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    names = [[name.strip(" ()") for name in row.split("|")] for row in rows]
    return [row for row in names if not row[0].startswith("_")]


# ---------------------------------------------------------------------------------------- pieces


def svg(width: int, height: int, title: str, pieces: Iterable[str]) -> str:
    """A picture of these pieces; `title` is read out in its place."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="{FONT}" font-size="15">\n<title>{escape(title)}</title>\n'
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        f'markerHeight="7" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{LINE}"/>'
        "</marker></defs>\n"
    )
    return head + "\n".join(pieces) + "\n</svg>\n"


def box(x: float, y: float, w: float, h: float, colour: str, *lines: str) -> str:
    """A filled box with centred lines of text, the first one bold."""
    first = y + h / 2 + 5 - 9.5 * (len(lines) - 1)
    text = (
        label(x + w / 2, first + 19 * i, line, "#fff", bold=not i) for i, line in enumerate(lines)
    )
    return "\n".join((_rectangle(x, y, w, h, colour), *text))


def label(x: float, y: float, text: str, colour: str = LINE, *, bold: bool = False) -> str:
    """A centred line of text."""
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x:g}" y="{y:g}" text-anchor="middle" fill="{colour}"{weight}'
    return f"<text {place}>{escape(text)}</text>"


def arrow(path: str, *, dashed: bool = False) -> str:
    """A line with a tip at its end, along an SVG path."""
    dash = ' stroke-dasharray="6 5"' if dashed else ""
    return (
        f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="2"{dash} '
        'marker-end="url(#tip)"/>'
    )


def _rectangle(x: float, y: float, w: float, h: float, colour: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="7" fill="{colour}"/>'


# -------------------------------------------------------------------------------------- pictures


def draw_layers() -> str:
    """The packages, upper ones above those that they import."""
    width, left, height, step = 880, 40, 34, 42
    pieces = []
    rows = layers()
    for i, row in enumerate(rows):
        y, gap = 8 + step * i, 8
        row = row if len(row) < 5 else [", ".join(row)]  # small modules share a box
        w = (width - left - 8 - gap * (len(row) - 1)) / len(row)
        for j, name in enumerate(row):
            x = left + j * (w + gap)
            about = escape(ABOUT.get(name, ""))
            pieces += [
                _rectangle(x, y, w, height, COLOURS.get(name, TEAL if about else GREY)),
                f'<text x="{x + 14:g}" y="{y + 22:g}" fill="#fff" font-weight="600">{name}'
                f'<tspan dx="12" font-weight="400">{about}</tspan></text>',
            ]
    bottom = 8 + step * len(rows) - (step - height)
    pieces.append(arrow(f"M20 10V{bottom - 2}"))
    title = "The packages of llamavae in layers: each imports only lower ones"
    return svg(width, bottom + 8, title, pieces)


def draw_text_to_text() -> str:
    """The way of z from a text to a text, and where prior, flow and refinement enter."""
    y, h = 96, 64
    middle = y + h / 2
    pieces = [
        label(28, middle + 5, "text"),
        arrow(f"M48 {middle}H72"),
        box(76, y, 148, h, TEAL, "encoder", "sentence vector"),
        arrow(f"M224 {middle}H254"),
        box(258, y, 150, h, TEAL, "posterior q(z|x)", "μ, σ"),
        arrow(f"M408 {middle}H438"),
        box(442, y, 56, h, PURPLE, "z"),
        arrow(f"M498 {middle}H528"),
        box(532, y, 120, h, TEAL, "injection", "memory, ..."),
        arrow(f"M652 {middle}H682"),
        box(686, y, 136, h, GREY, "decoder", "frozen"),
        arrow(f"M822 {middle}H848"),
        label(870, middle + 5, "text"),
        arrow(f"M754 {y}V46H333V{y - 4}", dashed=True),
        box(458, 18, 170, 56, BLUE, "refine", "gradient steps on q"),
        arrow(f"M396 232H462V{y + h + 4}"),
        box(258, 210, 138, 44, BLUE, "prior p(z)"),
        arrow("M684 232H656"),
        box(514, 210, 138, 44, BLUE, "flow p(z|c)"),
        arrow(f"M514 232H478V{y + h + 4}"),
        box(688, 210, 134, 44, GREY, "condition c"),
    ]
    return svg(900, 270, "The way of the latent code z from text to text", pieces)


PICTURES = {"layers.svg": draw_layers, "text-to-text.svg": draw_text_to_text}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (ASSETS / name).write_text(draw(), encoding="utf-8")
