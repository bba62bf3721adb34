"""The engine ray: the same file as the local engine, also when workers are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.bulk import (
    RayEngine,
    decode_file,
    decoding,
    encode_file,
    encoding,
    score_file,
    scoring,
)
from llamavae.bulk.encoding import Encoding
from llamavae.bulk.engine import find_engine
from llamavae.bulk.task import ModelSource
from llamavae.errors import UserError

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.timeout(400),  # several processes on a busy machine
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\."),  # of its own settings
    pytest.mark.filterwarnings(r"ignore::FutureWarning:ray\."),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # files of its processes stay open
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ENGINE = RayEngine(workers=1)
TEXTS = [f"{text} {number}" for number in range(5) for text in tiny.SENTENCES]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ENGINE.session():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    folder = tmp_path_factory.mktemp("model") / "model"
    tiny.vae().save_pretrained(folder)
    return ModelSource(str(folder), "cpu")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (encoding, decoding, scoring):
        monkeypatch.setattr(module, "PART_SIZE", 8)
    monkeypatch.setattr(encoding, "_SLICE", 4)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.parquet"
    texts = ["", *TEXTS[:20], None, *TEXTS[20:]]
    pq.write_table(pa.table({"text": texts, "reference": TEXTS[:1] * 42}), path, row_group_size=5)
    return path


class Dying(Encoding):
    """Kills its process at the third part, once."""

    def compute(self, part: int, rows: Any, tell: Any) -> Any:
        flag = self.source.with_suffix(".killed")
        if part == 2 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().compute(part, rows, tell)


def test_a_killed_worker_loses_nothing(
    model: ModelSource, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, remote = tmp_path / "local.parquet", tmp_path / "remote.parquet"
    report = encode_file(model, source, local)
    monkeypatch.setattr(encoding, "Encoding", Dying)
    seen: list[tuple[int, int | None]] = []
    found = encode_file(
        model, source, remote, engine=ENGINE, progress=lambda *done: seen.append(done)
    )
    assert source.with_suffix(".killed").exists()
    assert remote.read_bytes() == local.read_bytes()
    assert (found.sentences, found.blank) == (report.sentences, report.blank) == (40, 2)
    assert seen[-1] == (42, 42)


def test_the_engines_resume_one_another(
    model: ModelSource, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, codes = tmp_path / "whole.parquet", tmp_path / "codes.parquet"
    encode_file(model, source, codes)
    decode_file(model, codes, whole, batch_size=3, temperature=1.0, do_sample=True, seed=1)
    options: dict[str, Any] = {"batch_size": 3, "temperature": 1.0, "do_sample": True, "seed": 1}
    texts = tmp_path / "texts.parquet"
    decode_each, calls = LlaMaVAE.decode_each, iter(range(2))

    def interrupted(self: LlaMaVAE, *args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return decode_each(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LlaMaVAE, "decode_each", interrupted)
        with pytest.raises(KeyboardInterrupt):
            decode_file(model, codes, texts, **options)
    report = decode_file(model, codes, texts, engine=ENGINE, **options)
    assert (report.resumed, report.texts) == (16, 40)
    assert texts.read_bytes() == whole.read_bytes()


def test_scores(tmp_path: Path) -> None:
    source = tmp_path / "predictions.parquet"
    rows = {"id": range(20), "reference": TEXTS[:20], "prediction": TEXTS[1:21]}
    pq.write_table(pa.table({**rows, "id": list(map(str, rows["id"]))}), source)
    local, remote = (
        score_file(source, tmp_path / f"{name}.parquet", engine=engine)
        for name, engine in (("local", None), ("remote", ENGINE))
    )
    assert remote.metrics == local.metrics
    assert remote.output.read_bytes() == local.output.read_bytes()


def test_an_error_in_a_worker(tmp_path: Path, source: Path) -> None:
    with pytest.raises(UserError, match=r"sentences.parquet:1: expected a"):
        score_file(source, tmp_path / "a.parquet", engine=ENGINE)


def test_what_ray_cannot_do(model: ModelSource, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.parquet"
    with pytest.raises(UserError, match="Pass its folder, hub id or name"):
        encode_file(tiny.vae(), source, output, engine=ENGINE)
    lines = tmp_path / "lines.txt"
    lines.write_text("a dog\n")
    with pytest.raises(UserError, match=r"lines.txt: workers of Ray .* expected Parquet"):
        encode_file(model, lines, output, engine=ENGINE)
    with pytest.raises(UserError, match="workers requires the engine ray"):
        find_engine("local", workers=2, threads=None)
