"""Rows of planted measures."""

from __future__ import annotations


def rows_of(**measures):
    return [
        {"model": f"m{i}", "measure": name, "value": value}
        for name, values in measures.items()
        for i, value in enumerate(values)
        if value is not None
    ]
