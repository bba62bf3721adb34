"""A command does not import what it does not use."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_CODE = """
import json, sys
from llamavae.cli.app import main
sys.argv = ["llamavae", *{arguments}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps([name for name in {names} if name in sys.modules]))
"""
_UNUSED = [
    "sentence_transformers",
    "sklearn",
    "matplotlib",
    "pandas",
    "datasets",
    "pyarrow",
    "nltk",
    "peft",
    "fastapi",
    "ray",
]


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
    code = _CODE.format(arguments=arguments, names=_UNUSED)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, imported = done.stdout.splitlines()
    assert json.loads(imported) == []
    assert all(lines)
