"""The HTML page: sections under a title, in a light or dark theme, without external resources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llamavae.files import write_text
from llamavae.report.pieces import Html, Section, escape, join


def write_page(folder: Path, title: str, lead: str, sections: Sequence[Section]) -> Path:
    """Write a complete HTML document as `report.html` into a folder, and return its path."""
    path = folder / "report.html"
    parts = join(map(_section, sections))
    write_text(
        path,
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
""",
    )
    return path


def _section(section: Section) -> Html:
    mark = f' id="{escape(section.id)}"' if section.id else ""
    return Html(f"<section{mark}><h2>{escape(section.title)}</h2>\n{section.body}</section>")


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
a { color: var(--blue); }
summary { cursor: pointer; color: var(--faint); }
details { margin: 0.5rem 0; }
p { max-width: 46rem; margin: 0.5rem 0 0.75rem; }
.lead, figcaption, caption { color: var(--faint); }
.warning { border-left: 4px solid var(--warn); background: var(--box); padding: 0.5rem 0.75rem; }
.scroll { overflow-x: auto; margin: 0.75rem 0 1.25rem; }
table { border-collapse: collapse; font-size: 0.9rem; }
caption { text-align: left; padding: 0.25rem 0; white-space: nowrap; }
th, td { text-align: left; vertical-align: top; padding: 0.35rem 1.25rem 0.35rem 0;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--faint); font-weight: 600; }
td.long { min-width: min(18.5rem, 52vw); max-width: 32rem; white-space: normal;
  overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
small { display: block; color: var(--faint); }
mark { background: var(--mark); color: inherit; border-radius: 3px; padding: 0 0.15em; }
del { color: var(--faint); }
.gallery { display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
.gallery > * { min-width: 0; }
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
