"""Rows of planted measures."""

from __future__ import annotations


def rows_of(**metrics):
    return [
        {"model": f"m{i}", "metric": name, "value": value}
        for name, values in metrics.items()
        for i, value in enumerate(values)
        if value is not None
    ]
