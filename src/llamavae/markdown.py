"""Markdown of model cards and of the documentation."""

from __future__ import annotations

from collections.abc import Iterable


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    r"""A table, without a line break at its end.

    Args:
        head: Headings of the columns.
        rows: Cells of each row; `|` in them is escaped, and line breaks become spaces.

    Example:
        >>> print(markdown_table(["word", "code"], [["a|b", "1"]]))
        | word | code |
        | --- | --- |
        | a\|b | 1 |
    """
    head = list(head)
    return "\n".join(map(_row, [head, ["---"] * len(head), *rows]))


def _row(cells: Iterable[str]) -> str:
    escaped = (" ".join(cell.splitlines()).replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
