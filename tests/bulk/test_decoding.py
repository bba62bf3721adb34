from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.bulk import decode_file, decoding
from llamavae.errors import UserError


@pytest.fixture(scope="module")
def model() -> LlaMaVAE:
    return tiny.vae()


@pytest.fixture
def codes(tmp_path: Path, model: LlaMaVAE, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(decoding, "PART_SIZE", 4)
    path = tmp_path / "codes.npy"
    z = torch.randn(10, model.config.latent_dim, generator=torch.Generator().manual_seed(0))
    np.save(path, z.numpy())
    return path


@pytest.mark.parametrize("kind", ["npy", "parquet", "jsonl"])
def test_rows_are_the_texts_of_the_codes(
    model: LlaMaVAE, codes: Path, tmp_path: Path, kind: str
) -> None:
    z = np.load(codes)
    ids: list[int | str] = list(range(1, 11))
    source = codes.with_suffix(f".{kind}")
    if kind == "parquet":
        ids = [f"sentence {i}" for i in ids]
        pq.write_table(pa.table({"id": ids, "mean": list(z)}), source)
    elif kind == "jsonl":
        source.write_text("\n\n".join(str(row.tolist()) for row in z))
        ids = list(range(1, 20, 2))
    report = decode_file(model, source, tmp_path / "texts.parquet", batch_size=3, max_new_tokens=5)
    table = pq.read_table(tmp_path / "texts.parquet")
    assert table["id"].to_pylist() == ids
    expected = model.decode(torch.from_numpy(z), max_new_tokens=5)
    assert table["text"].to_pylist() == expected
    assert (report.texts, report.resumed) == (10, 0)


def test_samples_resume_to_the_same_bytes(
    model: LlaMaVAE, codes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = tmp_path / "whole.parquet", tmp_path / "resumed.parquet"
    options: dict[str, Any] = {
        "do_sample": True,
        "num_return_sequences": 2,
        "max_new_tokens": 5,
        "seed": 3,
    }
    decode_file(model, codes, whole, **options)
    decode_each, calls = model.decode_each, iter(range(1))

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return decode_each(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(model, "decode_each", interrupted)
        with pytest.raises(KeyboardInterrupt):
            decode_file(model, codes, resumed, **options)
    with pytest.raises(UserError, match="interrupted run with another seed"):
        decode_file(model, codes, resumed, **{**options, "seed": 4})
    assert decode_file(model, codes, resumed, **options).resumed == 8
    assert resumed.read_bytes() == whole.read_bytes()
    table = pq.read_table(whole)
    assert table["id"].to_pylist() == [i for i in range(1, 11) for _ in range(2)]
    assert len(set(table["text"].to_pylist())) > 10


def test_sampling_needs_a_seed(model: LlaMaVAE, codes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need a seed"):
        decode_file(model, codes, tmp_path / "a.parquet", temperature=1.0)
    assert list(tmp_path.iterdir()) == [codes]
