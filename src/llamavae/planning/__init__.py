"""Planning a training run: parameters, memory, time and what fits, without weights.

torch is not loaded: a step is simulated on arrays without values, see `llamavae.planning.tape`.
"""

from llamavae.planning.facts import (
    Backbone,
    Device,
    devices,
    find_backbone,
    find_device,
    model_names,
)
from llamavae.planning.report import Change, Plan, plan
from llamavae.planning.setup import setup_of
from llamavae.planning.step import Setup, Step, simulate

__all__ = [
    "Backbone",
    "Change",
    "Device",
    "Plan",
    "Setup",
    "Step",
    "devices",
    "find_backbone",
    "find_device",
    "model_names",
    "plan",
    "setup_of",
    "simulate",
]
