"""The same steps on one process or two, at once or in parts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import tiny
from tests.training import runs

from llamavae.errors import UserError

pytestmark = pytest.mark.timeout(300)  # two processes on a busy machine
TOLERANCE = 1e-4
BATCH = {"steps": 6, "batch_size": 8, "warmup_steps": 2, "learning_rate": 0.01}
FREE_BITS = {
    "schedule": "linear",
    "beta": 0.5,
    "ramp": 0.5,
    "kl_rule": "free_bits",
    "kl_threshold": 0.3,
    "word_dropout": 0.3,
}
TARGET_RATE = {"schedule": "target_rate", "target_rate": 0.05, "word_dropout": 0.3}


def row_groups(folder: Path) -> Path:
    """The sentences as Parquet, of which each process reads its own row groups."""
    path = folder / "sentences.parquet"
    if not path.is_file():
        pq.write_table(pa.table({"text": runs.SENTENCES}), path, row_group_size=5)
    return path


def cases(folder: Path) -> dict[str, dict[str, Any]]:
    """Settings of the runs that are made twice, by name."""
    frozen = {"model": str(tiny.encoder("bert-mean")), "scratch": None, "training": "frozen"}
    lora = {"model": str(tiny.decoder("llama-grouped")), "scratch": None, "training": "lora"}
    scratch = runs.settings(folder, "x")["decoder"]["scratch"]
    warm = {"scratch": {**scratch, "warmup_steps": 4, "warmup_batch_size": 4}}
    passes = {**BATCH, "steps": None, "epochs": 1.5, "batch_size": 24}
    streamed = {"name": str(row_groups(folder)), "streaming": True}
    changes: dict[str, dict[str, Any]] = {
        "free-bits": {"objective": FREE_BITS, "decoder": warm, "optimisation": BATCH},
        "target-rate": {"objective": TARGET_RATE, "encoder": frozen, "optimisation": passes},
        "stream": {"corpus": streamed, "encoder": frozen, "decoder": lora, "optimisation": BATCH},
        "resumed": {"objective": TARGET_RATE, "optimisation": BATCH},
    }
    return {name: runs.settings(folder, name, **change) for name, change in changes.items()}


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of the same runs on one process and on two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAVAE_CACHE", str(one / "cache"))
        for values in cases(one).values():
            runs.quick(values)
    # the last of them goes on in two processes from the middle
    shutil.copytree(one / "resumed", two / "resumed")
    for part in ("results.json", "model", "checkpoint-6"):
        path = two / "resumed" / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copyfile(runs.corpus(one), two / "sentences.txt")
    moved = (two / "resumed" / "recipe.yaml").read_text().replace(str(one), str(two))
    (two / "resumed" / "recipe.yaml").write_text(moved)
    jobs = [(values, name == "resumed") for name, values in cases(two).items()]
    assert runs.together(jobs, two / "cache")
    return one, two


def difference(one: Path, other: Path) -> float:
    """Largest difference of any number on any line of two logs, relative where it is above 1."""
    worst = 0.0
    for a, b in zip(runs.curve(one), runs.curve(other), strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            if isinstance(value, str):
                assert value == b[name]
                continue
            x, y = np.atleast_1d(value), np.atleast_1d(b[name])
            worst = max(worst, float(np.max(np.abs(x - y) / np.maximum(1, np.abs(x)))))
    return worst


@pytest.mark.parametrize("name", ["free-bits", "target-rate", "stream", "resumed"])
def test_two_processes(both, name):
    one, two = both
    worst = difference(one / name, two / name)
    print(f"{name}: largest difference {worst:.1e}")
    assert worst < TOLERANCE
    assert any(line.get("beta") for line in runs.log(two / name))


@pytest.mark.parametrize("objective", [TARGET_RATE, {**FREE_BITS, "kl_rule": "dimension_mask"}])
def test_accumulation(tmp_path, objective):
    """Two micro-batches make the same step as the whole batch; so does beta of a controller."""
    at_once = runs.quick(runs.recipe(tmp_path, "at-once", objective=objective, optimisation=BATCH))
    parts = runs.quick(
        runs.recipe(
            tmp_path, "parts", objective=objective, optimisation={**BATCH, "micro_batch_size": 2}
        )
    )
    worst = difference(at_once.folder, parts.folder)
    print(f"largest difference {worst:.1e}")
    assert worst < TOLERANCE


def test_batch_that_processes_cannot_share(monkeypatch, tmp_path):
    three = type("Three", (), {"num_processes": 3})
    monkeypatch.setattr("llamavae.training.arguments.processes", three)
    with pytest.raises(UserError, match="batch_size 4 cannot be shared among 3 processes"):
        runs.quick(runs.settings(tmp_path, "run"))
