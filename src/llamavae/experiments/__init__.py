"""Experiments that train or compare several models: sweeps and studies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamavae.lazy import lazy_names

if TYPE_CHECKING:
    from llamavae.experiments.correlation import relate
    from llamavae.experiments.study import definition_task, study_definitions, study_flows
    from llamavae.experiments.sweep import Sweep, SweepRun, parse_vary, run_sweep, sweep_runs

__all__ = [
    "Sweep",
    "SweepRun",
    "definition_task",
    "parse_vary",
    "relate",
    "run_sweep",
    "study_definitions",
    "study_flows",
    "sweep_runs",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "llamavae.experiments.correlation": ["relate"],
        "llamavae.experiments.study": ["definition_task", "study_definitions", "study_flows"],
        "llamavae.experiments.sweep": [
            "Sweep",
            "SweepRun",
            "parse_vary",
            "run_sweep",
            "sweep_runs",
        ],
    },
)
