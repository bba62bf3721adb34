from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from threading import Thread

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


ROOT = Path(__file__).parents[1]


def dockerfile() -> list[tuple[str, str]]:
    return re.findall(r"^([A-Z]+) (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_the_dockerfile_copies_what_there_is_and_starts_the_service() -> None:
    steps = dockerfile()
    copied = [path for name, rest in steps if name == "COPY" for path in rest.split()[:-1]]
    assert copied
    assert all((ROOT / path).exists() for path in copied)
    given = dict(steps)
    command = json.loads(given["ENTRYPOINT"]) + json.loads(given["CMD"])
    assert command[0] == "llamavae"
    result = CliRunner().invoke(app, [*command[1:], "--port", "0"], env={"LLAMAVAE_API_KEY": ""})
    assert "--api-key" in result.output  # the only thing that is missing


def test_the_volume_of_the_image_belongs_to_its_user() -> None:
    steps = dockerfile()
    given = dict(steps)
    user, volume = given["USER"], given["VOLUME"]
    before = [rest for name, rest in steps[: steps.index(("USER", user))] if name == "RUN"]
    [made] = [i for i, rest in enumerate(before) if f"mkdir -p {volume}" in rest]
    assert f"chown -R {user}: {Path(volume).parent}" in before[made]


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_of_the_image_asks_the_service(status: int, healthy: bool) -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

    given = dict(dockerfile())
    check, port = given["HEALTHCHECK"].partition("CMD ")[2], f":{given['EXPOSE']}/"
    assert port in check
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        _, *options = json.loads(check.replace(port, f":{server.server_port}/"))
        done = subprocess.run([sys.executable, *options], capture_output=True, check=False)
        thread.join(30)
    assert (done.returncode == 0, asked) == (healthy, ["/health"])


def test_the_image_has_no_outputs_of_a_checkout() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "runs"} <= set(ignored)
    copied = [path for name, rest in dockerfile() if name == "COPY" for path in rest.split()[:-1]]
    assert not set(copied) & set(ignored)
