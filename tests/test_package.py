from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path

import grimp
import pytest
from typer.testing import CliRunner

import llamavae
from llamavae.cli.app import app

SOURCES = sorted(Path(llamavae.__file__).parent.rglob("*.py"))
MODULES = [
    "llamavae",
    *(m.name for m in pkgutil.walk_packages(llamavae.__path__, prefix="llamavae.")),
]


@pytest.mark.parametrize("name", MODULES)
def test_module_imports(name: str) -> None:
    importlib.import_module(name)


def test_version_is_that_of_the_installed_package() -> None:
    assert llamavae.__version__ == metadata.version("llamavae")


@pytest.mark.parametrize("name", llamavae.__all__)
def test_exported_name_exists(name: str) -> None:
    assert getattr(llamavae, name) is not None
    assert name in dir(llamavae)


def test_missing_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="LlamaVAE"):
        getattr(llamavae, "LlamaVAE")  # noqa: B009


def test_import_is_quick() -> None:
    heavy = {"torch", "transformers", "datasets"}
    code = f"import sys, llamavae; print({heavy} & set(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "set()"


def imported_packages(source: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_every_imported_package_is_declared() -> None:
    declared = {
        re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0].lower().replace("_", "-")
        for line in metadata.requires("llamavae") or []
        if 'extra == "dev"' not in line.replace("'", '"')
    }
    absent = {"mauve": ["mauve-text"], "umap": ["umap-learn"]}  # of extras that are not installed
    owners = absent | dict(metadata.packages_distributions())
    undeclared = {
        f"{source.name}: {package}"
        for source in SOURCES
        for package in imported_packages(source) - sys.stdlib_module_names - {"llamavae"}
        if declared.isdisjoint(o.lower().replace("_", "-") for o in owners.get(package, [package]))
    }
    assert undeclared == set()


def test_no_module_imports_itself_through_others() -> None:
    """Type-only imports count."""
    graph = grimp.build_graph("llamavae", exclude_type_checking_imports=False)
    sorter = TopologicalSorter(
        {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    )
    sorter.prepare()  # raises CycleError with the modules of a circle


def test_the_dockerfile_copies_what_there_is_and_starts_the_service() -> None:
    root = Path(__file__).parents[1]
    text = (root / "Dockerfile").read_text()
    steps = [(name, rest) for name, rest in re.findall(r"^([A-Z]+) (.+)$", text, re.MULTILINE)]
    copied = [path for name, rest in steps if name == "COPY" for path in rest.split()[:-1]]
    assert copied
    assert all((root / path).exists() for path in copied)
    given = dict(steps)
    command = json.loads(given["ENTRYPOINT"]) + json.loads(given["CMD"])
    assert command[0] == "llamavae"
    result = CliRunner().invoke(app, [*command[1:], "--port", "0"], env={"LLAMAVAE_API_KEY": ""})
    assert "--api-key" in result.output  # the only thing that is missing
