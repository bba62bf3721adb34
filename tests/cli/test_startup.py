"""A command does not import what it does not use, and writes the same without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from llamavae import LlaMaVAE

# a stand-in is a module without a file
_CODE = """
import json, sys
from llamavae.cli.app import main
sys.argv = ["llamavae", *{arguments}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps([n for n in {names} if getattr(sys.modules.get(n), "__file__", None)]))
{further}
"""
_UNUSED = [
    "scipy",
    "sympy",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "torch.fx.experimental.symbolic_shapes",
    "sentence_transformers",
    "sklearn",
    "matplotlib",
    "pandas",
    "datasets",
    "pyarrow",
    "nltk",
    "peft",
]


def run(arguments: list[str], further: str = "", **environment: str) -> list[str]:
    code = _CODE.format(arguments=arguments, names=_UNUSED, further=further)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment or None
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "arguments",
    [
        ["reconstruct", "--model", "mini", "a dog is a kind of animal"],
        ["interpolate", "--model", "mini", "--steps", "3", "a dog", "a violin is an instrument"],
        ["sample", "--model", "mini", "--seed", "0", "2"],
        ["define", "--model", "mini-definitions", "--seed", "0", "dog"],
    ],
)
def test_a_command_does_not_import_what_it_does_not_use(arguments: list[str]) -> None:
    *lines, imported = run(arguments)
    assert json.loads(imported) == []
    assert all(lines)


def test_the_texts_are_those_of_the_python_api() -> None:
    texts = ["a dog is a kind of animal", "she plays the violin"]
    *lines, _ = run(["reconstruct", "--model", "mini", *texts])
    assert lines == LlaMaVAE.from_pretrained("mini").reconstruct(texts)


def test_what_is_used_afterwards_is_imported() -> None:
    further = """
import torch, sympy
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from transformers.masking_utils import TransformGetItemToIndex
with TransformGetItemToIndex():
    pass
assert sympy.Symbol("x") + 0 == sympy.Symbol("x")
assert ShapeEnv().__class__.__module__ == "torch.fx.experimental.symbolic_shapes"
assert torch._dynamo.__file__ and not torch._dynamo.is_compiling()
assert torch.compiler.disable(lambda: 1)() == 1
print("done")
"""
    *_, last = run(["reconstruct", "--model", "mini", "a dog"], further)
    assert last == "done"


def test_one_of_several_processes_imports_everything() -> None:
    environment = dict(os.environ) | {"WORLD_SIZE": "2"}
    *_, imported = run(["reconstruct", "--model", "mini", "a dog"], **environment)
    assert "torch.distributed.tensor" in json.loads(imported)


def test_a_process_that_is_not_its_own_is_left_alone() -> None:
    code = """
import sys, torch
from llamavae.cli.startup import shorten
available = torch.distributed.is_available
shorten()
print(torch.distributed.is_available is available, "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
