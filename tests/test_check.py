from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import tiny
from typer.testing import CliRunner

from llamavae import LlaMaVAE
from llamavae.check import accept, check_folder
from llamavae.cli.app import app
from llamavae.errors import UserError


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
