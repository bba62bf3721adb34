from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from llamavae.pretrained import CATALOGUE, Backbone, File, bundled_names, models_folder

DATA = b"weights" * 300_000
FILE = File("toy.gguf", len(DATA), hashlib.sha256(DATA).hexdigest())


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a backbone `toy`, which the catalogue knows."""
    toy = Backbone(
        "toy", "a toy", 1, "MIT", "https://x.test", (FILE,), "o/t", None, "t==1", "in", FILE.path
    )
    monkeypatch.setitem(CATALOGUE, "toy", toy)
    (tmp_path / FILE.path).write_bytes(DATA)
    return tmp_path


def test_the_list_says_what_is_here(run: Any, source: Path) -> None:
    line = next(x for x in run("models").stdout.splitlines() if x.startswith("toy"))
    assert line.split(maxsplit=4) == [
        "toy",
        "2",
        "MB",
        "MIT",
        "a toy; not downloaded: llamavae models get toy",
    ]
    run("models", "get", "toy", "--from", source)
    line = next(x for x in run("models").stdout.splitlines() if x.startswith("toy"))
    assert line.endswith(f"a toy; {models_folder() / 'toy' / FILE.path}")


def test_the_list_as_json(run: Any) -> None:
    rows = [json.loads(line) for line in run("models", "--json").stdout.splitlines()]
    names = [row["name"] for row in rows]
    assert {*bundled_names(), "toy", *CATALOGUE} == set(names)
    toy = rows[names.index("toy")]
    assert toy == {
        "name": "toy",
        "description": "a toy",
        "licence": "MIT",
        "size": len(DATA),
        "needs": ["toy"],
        "missing": ["toy"],
        "path": None,
    }
    mini = rows[names.index("mini")]
    assert mini["needs"] == mini["missing"] == []
    assert Path(mini["path"], "config.json").is_file()


def test_get_says_where_it_went_and_shows_the_licence(run: Any, source: Path) -> None:
    place = str(models_folder() / "toy" / FILE.path)
    first = run("models", "get", "toy", "--from", source)
    assert first.stdout.rstrip("\n").split("\t") == ["toy", place, f"from {source}"]
    assert "toy: 2 MB, licence MIT, https://x.test" in first.stderr
    second = run("models", "get", "toy", "--json")
    assert json.loads(second.stdout) == {
        "name": "toy",
        "path": place,
        "source": None,
        "licence": "MIT",
    }
    assert "already downloaded, verified" in run("models", "get", "toy").stdout


def test_get_of_what_needs_nothing(run: Any) -> None:
    result = run("models", "get", "mini")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "mini is part of the library" in result.stderr


def test_get_of_an_unknown_name(run: Any) -> None:
    result = run("models", "get", "mni")
    assert result.exit_code == 2
    assert "unknown model 'mni'. Did you mean 'mini'" in result.stderr


def test_a_backbone_is_no_model(run: Any) -> None:
    result = run("reconstruct", "--model", "toy", "a dog")
    assert result.exit_code == 2
    assert "toy is a backbone, not a LlaMaVAE" in result.stderr
