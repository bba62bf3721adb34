"""Invertible networks on plain vectors, with and without a condition; usable without a VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamavae.lazy import lazy_names

if TYPE_CHECKING:
    from llamavae.flows.architectures import build_flow, flow_names
    from llamavae.flows.fitting import Fitting, FlowFit, fit_flow
    from llamavae.flows.flow import Flow
    from llamavae.flows.rows import Rows
    from llamavae.flows.storage import load_flow, save_flow

__all__ = [
    "Fitting",
    "Flow",
    "FlowFit",
    "Rows",
    "build_flow",
    "fit_flow",
    "flow_names",
    "load_flow",
    "save_flow",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "llamavae.flows.architectures": ["build_flow", "flow_names"],
        "llamavae.flows.fitting": ["Fitting", "FlowFit", "fit_flow"],
        "llamavae.flows.flow": ["Flow"],
        "llamavae.flows.rows": ["Rows"],
        "llamavae.flows.storage": ["load_flow", "save_flow"],
    },
)
