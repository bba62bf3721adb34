"""The notebook runs from top to bottom, and its outputs are those of `small`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")

NOTEBOOK = Path(__file__).parents[1] / "examples" / "small.ipynb"


def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def run(monkeypatch: pytest.MonkeyPatch, model: str) -> Any:
    """The notebook after it has run with a model."""
    monkeypatch.setenv("LLAMAVAE_MODEL", model)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")]))
    found = notebook()
    resources = {"metadata": {"path": str(NOTEBOOK.parents[1])}}
    nbclient.NotebookClient(found, timeout=100, resources=resources).execute()
    return found


def outputs(found: Any) -> list[str]:
    """What each cell of code shows, without messages on stderr."""

    def shown(each: Any) -> str:
        if each.output_type == "stream":
            return each.text if each.name == "stdout" else ""
        return each.data["text/plain"]

    code = (cell for cell in found.cells if cell.cell_type == "code")
    return ["".join(map(shown, cell.outputs)) for cell in code]


def test_it_is_valid_and_has_outputs():
    found = notebook()
    nbformat.validate(found)
    assert all(outputs(found)[1:])  # all but the one that loads the model
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"stderr|Error|/(?:home|root|work|tmp)/", text)


@pytest.mark.filterwarnings("ignore")  # of jupyter
def test_it_runs_on_mini(monkeypatch):
    assert all(outputs(run(monkeypatch, "mini"))[1:])


@pytest.mark.filterwarnings("ignore")  # of jupyter
@pytest.mark.timeout(600)
@pytest.mark.skipif("LLAMAVAE_SLOW" not in os.environ, reason="slow; set LLAMAVAE_SLOW=1")
def test_its_outputs_are_those_of_small(monkeypatch):
    assert outputs(run(monkeypatch, "small")) == outputs(notebook())
