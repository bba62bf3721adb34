"""Damaged files in the folder of a run."""

from __future__ import annotations

import json

import pytest

from llamavae.errors import UserError
from llamavae.files import replacing_folder
from llamavae.manifest import MANIFEST
from llamavae.training.folder import RunRecord, last_checkpoint, open_folder
from llamavae.training.recipe import load_recipe


@pytest.fixture
def run(tmp_path):
    """Log and two checkpoints of a run."""
    (tmp_path / "log.jsonl").write_text("{}\n")
    for name in ("checkpoint-1", "checkpoint-2"):
        with replacing_folder(tmp_path / name) as new:
            (new / "trainer_state.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"files": {"trainer_state.json": {"bytes": "a", "sha256": 1}}}', "[" * 9999],
)
def test_a_checkpoint_with_a_damaged_manifest_is_skipped(run, caplog, text):
    (run / "checkpoint-2" / MANIFEST).write_text(text)
    assert last_checkpoint(run, verified=True) == run / "checkpoint-1"
    assert "checkpoint-2 is skipped, since it is damaged: manifest.json" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 9999])
def test_a_checkpoint_with_a_damaged_state_does_not_count(run, text):
    (run / "checkpoint-2" / "trainer_state.json").write_text(text)
    assert last_checkpoint(run) == run / "checkpoint-1"


@pytest.mark.parametrize("data", [b"{", b"\xff", b"a: " + b"[" * 3000, b"- a", b"latent: 5"])
def test_a_damaged_recipe(run, data):
    (run / "recipe.yaml").write_bytes(data)
    with pytest.raises(UserError, match=r"recipe\.yaml is damaged: restore it"):
        open_folder(run, load_recipe("demo"), resume=True)


@pytest.mark.parametrize(
    "values",
    [
        [],
        {},
        {"seconds": "x", "start_fingerprint": None, "corpus": {}},
        {"seconds": 1.0, "start_fingerprint": 3, "corpus": {}},
        {"seconds": 1.0, "start_fingerprint": None, "corpus": {"training": {}}},
        {"seconds": 1.0, "start_fingerprint": None, "corpus": {"training": 5}},
        {"seconds": 1.0, "start_fingerprint": None, "corpus": {"training": {"sentences": "a"}}},
    ],
)
def test_a_damaged_record(tmp_path, values):
    (tmp_path / "run.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"run\.json is damaged: .*Delete it to resume"):
        RunRecord(tmp_path, resume=True)
