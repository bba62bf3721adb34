"""Imports that a command for one process does not need, and how it does without them.

About half of the time to import transformers is spent on packages that the commands with a loaded
model do not use: the compiler of torch (`torch._dynamo`) and its symbols (sympy), tensors
distributed over processes (`torch.distributed.tensor`), and `scipy.optimize`, for losses of object
detection. `shorten` leaves them out. What uses them nevertheless still works:

- Modules of the compiler are replaced by stand-ins with the few functions that are called although
  nothing is compiled. Any other attribute imports the real module, which replaces the stand-in.
- `torch.distributed` is reported as unavailable, as in builds of torch without it.
- `scipy` is reported as not installed to the losses of transformers only.

Only the command line does so, since its process is its own: the Python API changes no package.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")  # set for each of several processes

_owned = False


def own_process() -> None:
    """Declare that this process runs one command and nothing else."""
    global _owned
    _owned = True


def shorten() -> None:
    """Import transformers without what the command does not use; see above.

    Nothing happens in a process that is not the command's own or that a launcher started as one of
    several, or if one of the modules is imported already.
    """
    imported = {"transformers.modeling_utils", *_STAND_INS} & sys.modules.keys()
    if not _owned or imported or any(name in os.environ for name in _LAUNCHED):
        return
    import torch

    torch.distributed.is_available = _unavailable
    for name, attributes in _STAND_INS.items():
        sys.modules[name] = _StandIn(name, attributes)
    import transformers.utils

    utils: Any = transformers.utils
    available = utils.is_scipy_available
    utils.is_scipy_available = _unavailable
    import transformers.loss.loss_utils

    utils.is_scipy_available = available


def _unavailable() -> bool:
    return False


def _unmarked(fn: Callable[..., Any] | None = None, *args: Any, **options: Any) -> Any:
    """The function itself; without one, a decorator that returns the function it is given."""
    return _unmarked if fn is None else fn


def _later(module: str, name: str) -> Callable[..., Any]:
    """A function that imports its module when it is called."""
    return lambda *args, **options: getattr(_real(module), name)(*args, **options)


def _concrete(name: str, result: Callable[..., Any]) -> Callable[..., Any]:
    """A function of sizes and conditions, which are numbers where nothing is compiled."""

    def called(*args: Any, **options: Any) -> Any:
        if not options and all(map(_plain, args)):
            return result(*args)
        return getattr(_real(_SYMBOLS), name)(*args, **options)

    return called


def _plain(value: Any) -> bool:
    """Whether a value is a number or a tuple of numbers without symbols."""
    return isinstance(value, int) or (isinstance(value, tuple) and all(map(_plain, value)))


def _first(value: int, *_: int) -> int:
    return value


_OF_NUMBERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("expect_true", "guard_or_false", "guard_or_true"), _first),
    **dict.fromkeys(("guard_size_oblivious", "guarding_hint_or_throw"), _first),
    "has_guarding_hint": lambda value: True,
    "is_nested_int": lambda value: False,
    "statically_known_true": _first,
    "sym_and": lambda *values: all(values),
    "sym_eq": lambda a, b: a == b,
    "sym_or": lambda *values: any(values),
}


class _NoSymbol:
    """Class without instances."""


_COMPILER = "torch._dynamo"
_INDEXING = "torch._dynamo._trace_wrapped_higher_order_op"
_SYMBOLS = "torch.fx.experimental.symbolic_shapes"
_STAND_INS: dict[str, dict[str, Any]] = {
    _COMPILER: {
        "allow_in_graph": _unmarked,
        "assume_constant_result": _unmarked,
        "disable": _unmarked,
    },
    _INDEXING: {"TransformGetItemToIndex": _later(_INDEXING, "TransformGetItemToIndex")},
    _SYMBOLS: {name: _concrete(name, result) for name, result in _OF_NUMBERS.items()},
    "sympy": {"Basic": _NoSymbol},
}
_SYMBOLIC = _SYMBOLS, "sympy"  # do not need the compiler, which needs them
_PACKAGES = _COMPILER, "sympy"  # have submodules, whose import reads their path


class _StandIn(ModuleType):
    """Stands in for a module until an attribute other than the given ones is used.

    Args:
        name: Name of the module.
        attributes: What it has.
    """

    def __init__(self, name: str, attributes: dict[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(attributes)

    def __getattr__(self, name: str) -> Any:
        path = name == "__path__" and self.__name__ in _PACKAGES
        if name.startswith("__") and not path:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(_real(self.__name__), name)


def _real(name: str) -> ModuleType:
    """The module itself, imported; the stand-ins that it would meet are removed."""
    for each in _STAND_INS:
        together = (each in _SYMBOLIC) == (name in _SYMBOLIC) or name not in _SYMBOLIC
        if together and isinstance(sys.modules.get(each), _StandIn):
            del sys.modules[each]
    return importlib.import_module(name)
