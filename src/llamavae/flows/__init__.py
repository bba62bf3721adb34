"""Normalizing flows on vectors, unconditional and conditional; usable without a VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamavae.lazy import lazy_names

if TYPE_CHECKING:
    from llamavae.flows.architectures import build_flow, flow_names
    from llamavae.flows.data import FlowData
    from llamavae.flows.fitting import FitConfig, FlowFit, fit_flow
    from llamavae.flows.flow import Flow
    from llamavae.flows.storage import load_flow, save_flow

__all__ = [
    "FitConfig",
    "Flow",
    "FlowData",
    "FlowFit",
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
        "llamavae.flows.fitting": ["FitConfig", "FlowFit", "fit_flow"],
        "llamavae.flows.flow": ["Flow"],
        "llamavae.flows.data": ["FlowData"],
        "llamavae.flows.storage": ["load_flow", "save_flow"],
    },
)
