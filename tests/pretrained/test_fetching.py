"""Fetching backbones: sources in their order, SHA-256, resuming, nothing half in place."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub as hub
import pytest
from tests import tiny

from llamavae.errors import MissingData, UserError
from llamavae.pretrained import (
    CATALOGUE,
    Backbone,
    File,
    available,
    catalogue,
    fetch,
    fetching,
    find,
    models_folder,
    needed,
    preferred,
    resolve,
)

CONTENT = {"weights.bin": b"0123456789" * 1000, "sub/config.json": b"{}"}
WHEEL = "toy_model-1.0-py3-none-any.whl"


def toy() -> Backbone:
    files = tuple(
        File(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in CONTENT.items()
    )
    return Backbone(
        "toy", "a toy", 1, "MIT", "https://x.test", files, "org/toy", None, "toy-model==1.0", "in"
    )


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone `toy`, and no source that could be reached."""
    monkeypatch.setitem(CATALOGUE, "toy", toy())
    monkeypatch.delenv("LLAMAVAE_MODELS", raising=False)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: None)

    def no_pip(*_: Any) -> None:
        raise fetching._Unavailable("no index")

    monkeypatch.setattr(fetching, "_pip_download", no_pip)


def fill(folder: Path, content: dict[str, bytes] = CONTENT) -> Path:
    for path, data in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def wheel(folder: Path, content: dict[str, bytes] = CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for path, data in content.items():
            archive.writestr(f"in/{path}", data)
        archive.writestr("in/__init__.py", "code that is not needed")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


class Hub:
    """A hub in the place of the real one: counts, answers, and can break off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, content: dict[str, bytes]) -> None:
        self.content, self.asked, self.breaks = content, list[str](), False
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "get_session", lambda: self)
        monkeypatch.setattr(hub, "hf_hub_download", self.download)

    def head(self, url: str, timeout: float) -> None:
        assert url.startswith("https://")
        assert timeout <= 5

    def download(self, repo: str, path: str, revision: str | None, local_dir: Path) -> str:
        assert repo == "org/toy"
        self.asked.append(path)
        notes = local_dir / ".cache" / "huggingface"
        notes.mkdir(parents=True, exist_ok=True)
        (notes / "half.incomplete").write_bytes(b"01")
        if self.breaks:
            raise ConnectionError("the line went dead")
        fill(local_dir, {path: self.content[path]})
        return str(local_dir / path)


# -------------------------------------------------------------------------------- sources


@pytest.mark.parametrize(
    "place", [fill, lambda f: fill(f / "toy").parent, wheel], ids=["files", "subfolder", "wheel"]
)
def test_from_a_folder_of_the_user(place: Callable[[Path], Path], tmp_path: Path) -> None:
    assert find("toy") is None
    (found,) = fetch("toy", place(tmp_path / "mine"))
    assert (found.name, found.path, found.source) == (
        "toy",
        models_folder() / "toy",
        str(tmp_path / "mine"),
    )
    assert files_of(found.path) == CONTENT
    assert find("toy") == found.path
    assert [p.name for p in models_folder().iterdir() if not p.name.endswith(".lock")] == ["toy"]


def test_what_is_there_is_verified_and_not_fetched_again(tmp_path: Path) -> None:
    fetch("toy", fill(tmp_path / "mine"))
    shutil.rmtree(tmp_path / "mine")
    assert fetch("toy")[0].source is None
    (models_folder() / "toy" / "weights.bin").write_bytes(b"x" * 10_000)  # of the right size
    assert fetch("toy", fill(tmp_path / "mine"))[0].source == str(tmp_path / "mine")
    assert files_of(models_folder() / "toy") == CONTENT


def test_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Hub(monkeypatch, CONTENT)
    (found,) = fetch("toy")
    assert found.source == "the hub (org/toy)"
    assert server.asked == list(CONTENT)
    assert files_of(found.path) == CONTENT


def test_what_the_hub_has_cached_needs_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = fill(tmp_path / "hub")
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda _, path, **__: str(cache / path))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch("toy")[0].source == "the hub (org/toy)"
    assert files_of(cache) == CONTENT


@pytest.mark.parametrize("offline", [True, False])
def test_the_index_comes_after_the_hub(offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Hub(monkeypatch, CONTENT)
    server.breaks = True
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", offline)
    asked: list[str] = []

    def pip(requirement: str, folder: Path, progress: bool) -> None:
        asked.append(requirement)
        wheel(folder)

    monkeypatch.setattr(fetching, "_pip_download", pip)
    (found,) = fetch("toy")
    assert asked == ["toy-model==1.0"]
    assert bool(server.asked) != offline
    assert found.source == "the Python index (toy-model==1.0)"
    assert files_of(found.path) == CONTENT


def test_pip_is_called_for_the_pinned_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        text = "WARNING: x\nERROR: No matching distribution found for toy-model==1.0\n"
        return subprocess.CompletedProcess(command, 1, "", text)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(fetching._Unavailable, match="No matching distribution"):
        fetching._pip_download("toy-model==1.0", tmp_path, False)
    (command,) = calls
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", ":all:", "toy-model==1.0"} <= set(command)


# --------------------------------------------------------------------- damage and breaks


def test_a_wrong_hash_is_refused_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bad = {path: b"?" * len(data) for path, data in CONTENT.items()}
    Hub(monkeypatch, bad)
    monkeypatch.setattr(fetching, "_pip_download", lambda _, folder, __: wheel(folder, bad))
    right = toy().files[0].sha256
    for folder in (None, fill(tmp_path / "mine", bad), wheel(tmp_path / "wheels", bad)):
        with pytest.raises(MissingData, match=f"has the wrong hash: expected SHA-256 {right}"):
            fetch("toy", folder)
        assert find("toy") is None
        assert files_of(models_folder()).keys() <= {".toy.lock"}


def test_good_files_of_a_broken_download_are_not_fetched_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Hub(monkeypatch, {**CONTENT, "sub/config.json": b"[]"})
    with pytest.raises(MissingData, match=r"sub/config\.json has the wrong hash"):
        fetch("toy")
    assert find("toy") is None
    server.content = CONTENT
    fetch("toy")
    assert server.asked == ["weights.bin", "sub/config.json", "sub/config.json"]
    assert files_of(models_folder() / "toy") == CONTENT


def test_what_the_hub_needs_to_resume_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Hub(monkeypatch, CONTENT)
    server.breaks = True
    with pytest.raises(MissingData, match="the line went dead"):
        fetch("toy")
    half = models_folder() / ".partial-toy" / ".cache" / "huggingface" / "half.incomplete"
    assert half.read_bytes() == b"01"
    assert find("toy") is None
    server.breaks = False
    assert files_of(fetch("toy")[0].path) == CONTENT
    assert not half.exists()


def test_an_interrupted_copy_leaves_no_half_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Interrupted:
        def __init__(self) -> None:
            self.left = 2

        def read(self, size: int) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return b"0" * 10

    partial = tmp_path / "partial"
    with pytest.raises(KeyboardInterrupt):
        fetching._copy(Interrupted(), partial, toy().files[0], False)  # type: ignore[arg-type]
    assert files_of(partial) == {}


def test_a_wheel_that_was_downloaded_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = models_folder() / ".partial-toy" / ".wheels"
    wheel(wheels)
    assert fetch("toy")[0].source == "the Python index (toy-model==1.0)"  # without pip, see _toy
    (wheels / WHEEL).parent.mkdir(parents=True)
    shutil.rmtree(models_folder() / "toy")
    (wheels / WHEEL).write_bytes(b"half a wheel")
    with pytest.raises(MissingData, match="no index"):
        fetch("toy")


def test_without_pip_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "find_spec", lambda _: None)
    with pytest.raises(MissingData) as error:
        fetch("toy")
    text = str(error.value)
    assert "HF_HUB_OFFLINE is set" in text
    assert "no pip" in text
    assert "llamavae models get toy --from FOLDER" in text


def test_a_folder_that_is_wrong_is_said(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(MissingData, match=f"Did you mean {tmp_path / 'models'}"):
        fetch("toy", tmp_path / "modles")
    with pytest.raises(MissingData, match=r"neither weights\.bin nor a wheel of toy-model==1\.0"):
        fetch("toy", tmp_path / "models")


def test_a_cache_that_cannot_be_written_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("LLAMAVAE_CACHE", str(tmp_path / "a-file"))
    with pytest.raises(UserError, match="LLAMAVAE_CACHE"):
        fetch("toy", fill(tmp_path / "mine"))


# ---------------------------------------------------------------------------------- names


def test_an_unknown_name() -> None:
    with pytest.raises(UserError, match="Did you mean 'mini'"):
        fetch("minni")


def test_a_further_folder_is_read_and_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill(tmp_path / "shared" / "toy")
    monkeypatch.setenv("LLAMAVAE_MODELS", f"{tmp_path / 'none'}:{tmp_path / 'shared'}")
    place = tmp_path / "shared" / "toy"
    assert find("toy") == place
    assert fetch("toy")[0] == fetching.Fetched("toy", place, None)
    assert not models_folder().exists()


def test_names_resolve_to_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert resolve("org/model") == "org/model"
    with pytest.raises(MissingData, match="llamavae models get toy"):
        resolve("toy")
    with pytest.raises(MissingData, match=r"small needs toy, .* llamavae models get small"):
        resolve("toy", "small")
    fetch("toy", fill(tmp_path / "mine"))
    assert resolve("toy") == str(models_folder() / "toy")
    monkeypatch.setitem(CATALOGUE, "toy", replace(toy(), entry="weights.bin"))
    assert resolve("toy") == str(models_folder() / "toy" / "weights.bin")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").mkdir()
    assert resolve("toy") == "toy"  # a folder of that name comes first


def test_a_model_of_the_package_needs_what_its_config_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configs = {
        "small": {"encoder_name_or_path": "toy", "decoder_name_or_path": "all-minilm-l6-v2"},
        "small-definitions": {"vae": "small"},
        "whole": {"embed_backbones": True, "encoder_name_or_path": "toy"},
    }
    for name, config in configs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        card = f"---\nlicense: apache-2.0\n---\n# {name}: it writes\n"
        (tmp_path / name / "README.md").write_text(card)
    monkeypatch.setattr(catalogue, "_library", lambda: tmp_path)
    for name in ("small", "small-definitions"):
        assert [b.name for b in needed(name)] == ["toy", "all-minilm-l6-v2"]
    assert needed("whole") == []
    assert fetch("whole") == []
    (tmp_path / "mine").mkdir()
    fetch("toy", fill(tmp_path / "mine"))
    rows = {row.name: row for row in available()}
    assert rows["small"].missing == ["all-minilm-l6-v2"]
    assert rows["small"].path is None
    assert rows["small"].description == "it writes"
    assert rows["small"].size > CATALOGUE["all-minilm-l6-v2"].size
    assert rows["whole"].path == tmp_path / "whole"
    assert rows["toy"].path == models_folder() / "toy"


def test_entries_are_whole() -> None:
    for name, backbone in CATALOGUE.items():
        assert name == backbone.name
        assert "==" in backbone.package  # a wheel of one version
        assert backbone.licence
        assert not backbone.entry or backbone.entry in {file.path for file in backbone.files}
        for file in backbone.files:
            assert len(bytes.fromhex(file.sha256)) == 32
            assert file.size > 0


def test_the_preferred_model_is_the_first_that_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tiny.library(tmp_path / "library", complete=False)
    monkeypatch.setattr(catalogue, "_library", lambda: library)
    assert preferred("small", "mini") == ("mini", "small")
    assert preferred("large", "mini", "small") == ("mini", None)
    assert preferred("small") == ("small", None)  # there is no other
    monkeypatch.setattr(catalogue, "find", lambda _: tmp_path)
    assert preferred("small", "mini") == ("small", None)
    with pytest.raises(UserError, match="unknown model 'large'"):
        preferred("large")
