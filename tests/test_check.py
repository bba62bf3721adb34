from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from tests import tiny
from typer.testing import CliRunner

from llamavae import LlaMaVAE
from llamavae.check import CheckResult, accept, check_folder
from llamavae.cli.app import app
from llamavae.errors import UserError
from llamavae.files import DiskError, replacing_folder
from llamavae.manifest import MANIFEST


def flip(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)


def test_a_model(tmp_path: Path) -> None:
    model = tiny.vae(embed_backbones=True)
    model.card = "# A card"
    model.save_pretrained(tmp_path)
    found = check_folder(tmp_path)
    assert found.verified > 5
    assert (found.unchecked, found.damaged) == (2, {})  # the cards of the model and of its encoder
    weights = tmp_path / "decoder" / "model.safetensors"
    flip(weights)
    assert list(check_folder(tmp_path).damaged) == [weights]
    with pytest.raises(UserError, match=r"decoder/model\.safetensors has other contents"):
        LlaMaVAE.from_pretrained(tmp_path)
    assert (accept(tmp_path), accept(tmp_path)) == (1, 0)
    LlaMaVAE.from_pretrained(tmp_path)


def test_files_without_a_manifest(tmp_path: Path) -> None:
    table = pa.table({"mean": np.arange(1000.0)})
    pq.write_table(table, tmp_path / "a.parquet", write_page_checksum=True)
    np.save(tmp_path / "b.npy", np.zeros(3))
    for name, text in (("c.json", "{}"), ("d.jsonl", "{}\n{}"), ("e.yaml", "a: 1"), ("f.txt", "")):
        (tmp_path / name).write_text(text)
    assert vars(check_folder(tmp_path)) == {
        "verified": 0,
        "read": 5,
        "unchecked": 1,
        "damaged": {},
    }
    flip(tmp_path / "a.parquet", 0.3)
    for name in ("c.json", "d.jsonl", "e.yaml"):
        (tmp_path / name).write_text("{")
    flip(tmp_path / "b.npy", 0)
    assert len(check_folder(tmp_path).damaged) == 5
    assert len(check_folder(tmp_path / "a.parquet").damaged) == 1
    with pytest.raises(UserError, match="no folder"):
        check_folder(tmp_path / "nowhere")


def test_command(tmp_path: Path) -> None:
    tiny.vae().save_pretrained(tmp_path)
    result = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (0, "")
    flip(tmp_path / "config.json")
    result = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stdout.startswith(f"damaged\t{tmp_path / 'config.json'}\thas other contents")
    result = CliRunner().invoke(app, ["check", "--accept", str(tmp_path)])
    assert result.exit_code == 0


DEEP = "[" * 100_000


def test_deeply_nested_files(tmp_path: Path) -> None:
    for name in ("a.json", "b.jsonl", "c.yaml"):
        (tmp_path / name).write_text(DEEP[:3000] if name == "c.yaml" else DEEP)
    found = check_folder(tmp_path).damaged
    assert len(found) == 3
    assert all("nested too deeply" in what for what in found.values())
    (tmp_path / MANIFEST).write_text(DEEP)
    assert tmp_path / MANIFEST in check_folder(tmp_path).damaged


def test_a_part_of_a_folder_is_checked_by_the_manifest_above(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "model") as new:
        (new / "decoder").mkdir()
        save_file({"x": np.zeros(9)}, new / "decoder" / "a.safetensors")
        (new / "b.json").write_text("{}")
    folder = tmp_path / "model" / "decoder"
    weights = folder / "a.safetensors"
    assert vars(check_folder(weights)) == vars(CheckResult(verified=1))
    flip(weights, 0.99)
    for place in (weights, folder, tmp_path / "model"):
        assert list(check_folder(place).damaged) == [weights]
    assert check_folder(tmp_path / "model" / "b.json").damaged == {}
    (folder / "c.json").write_text("{}")  # in no manifest
    assert check_folder(folder / "c.json").read == 1
    assert (accept(weights), accept(folder), accept(tmp_path)) == (0, 0, 1)


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with replacing_folder(tmp_path / "model") as new:
        (new / "a.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for place in ("model", "model/a.json"):
        assert vars(check_folder(Path(place))) == vars(CheckResult(verified=1))
    Path("model/a.json").write_text("[]")
    assert list(check_folder(Path("model/a.json")).damaged) == [Path("model/a.json")]


def test_accept_on_a_full_disk_keeps_the_old_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with replacing_folder(tmp_path / "x") as new:
        (new / "a").write_text("old")
    before = (tmp_path / "x" / MANIFEST).read_bytes()
    (tmp_path / "x" / "a").write_text("new")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskError, match="No space left"):
        accept(tmp_path / "x")
    assert (tmp_path / "x" / MANIFEST).read_bytes() == before


def test_nothing_to_check(tmp_path: Path) -> None:
    (tmp_path / "my text.txt").write_text("text")
    for place in (str(tmp_path / "my text.txt"), "/dev/null", str(tmp_path)):
        result = CliRunner().invoke(app, ["check", place])
        assert result.exit_code == 2
        assert "nothing could be checked" in result.stderr


def test_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\u2028b\x85c"}\n\n{}\n', encoding="utf-8")
    found = check_folder(path)
    assert (found.read, found.damaged) == (1, {})
