"""Runs and evaluations as self-contained HTML pages: no scripts, nothing loaded from elsewhere.

A page is a list of sections, and a section is built from the pieces of `report.pieces`.
"""

from __future__ import annotations

from pathlib import Path

from llamavae.report.evaluation import write_evaluation_report
from llamavae.report.run import write_run_report


def write_report(folder: Path) -> Path:
    """Write `report.html` into the folder of an evaluation, or else into that of a run.

    Raises:
        UserError: The folder holds neither.
    """
    if (folder / "recipe.yaml").is_file():
        return write_run_report(folder)
    return write_evaluation_report(folder)
