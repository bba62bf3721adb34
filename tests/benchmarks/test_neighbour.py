"""LangVAE beside ours: the protocol with a substitute, and LangVAE itself where it is installed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from benchmarks import neighbour
from benchmarks.__main__ import main
from benchmarks.bench import Bench, Settings

SETTINGS = Settings(
    shape="tiny", batch=4, tokens=8, sentences=40, corpus="factors", threads=1, clock="cpu"
)
OPTIONS = ["--shape=tiny", "--batch=4", "--tokens=8", "--sentences=40", "--corpus=factors"]

_SUBSTITUTE = """#!{python}
import json, pathlib, sys
worker, job = sys.argv[1:]
assert worker.endswith("langvae_worker.py")
job = json.loads(pathlib.Path(job).read_text())
for name in ("encoder", "decoder"):
    assert (pathlib.Path(job[name]) / "model.safetensors").is_file()
assert "rope_theta" in json.loads((pathlib.Path(job["decoder"]) / "config.json").read_text())
print(json.dumps({{"versions": {{"langvae": "0"}}}}), flush=True)
for step, _ in enumerate(sys.stdin):
    if {fails}:
        sys.exit("no more memory")
    print(json.dumps({{"seconds": 1000.0 + step}}), flush=True)
"""


def substitute(folder: Path, fails: bool = False) -> str:
    path = folder / "python"
    path.write_text(_SUBSTITUTE.format(python=sys.executable, fails=fails))
    path.chmod(0o755)
    return str(path)


def test_steps_and_the_epoch_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANGVAE_PYTHON", substitute(tmp_path))
    output = tmp_path / "benchmark.json"
    case = "--case=epoch,langvae-step,langvae-epoch"
    main([*OPTIONS, case, "--repeats=3", "--output", str(output)])
    report = json.loads(output.read_text())
    ratios = {ratio["case"]: ratio for ratio in report["ratios"]}
    assert ratios.keys() == {"epoch", "langvae-step", "langvae-epoch"}
    # the first step, of 1000 seconds, only warms up
    assert ratios["langvae-step"]["floor"] == pytest.approx(1 / 1002)
    assert ratios["langvae-epoch"]["floor"] == pytest.approx(4 / (1000 + sum(range(1, 11)) / 10))
    for name, target in (("langvae-step", 2.4), ("langvae-epoch", 5.0)):
        assert ratios[name]["target"] == target
        assert ratios[name]["ratio"] > target
        assert ratios[name]["good"]
    assert ratios["epoch"]["ours"] == ratios["langvae-epoch"]["ours"]  # one epoch for both
    assert report["details"]["tiny"]["langvae-step"]["versions"] == {"langvae": "0"}
    assert "missed" not in capsys.readouterr().out.split("langvae-step")[1].splitlines()[0]


def test_without_langvae_the_rows_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LANGVAE_PYTHON", raising=False)
    output = tmp_path / "benchmark.json"
    main([*OPTIONS, "--case=langvae-step,langvae-epoch", "--output", str(output)])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("langvae")]
    assert [row.split(maxsplit=1)[1] for row in rows] == [neighbour.ABSENT] * 2


def test_the_error_of_langvae_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGVAE_PYTHON", substitute(tmp_path, fails=True))
    with pytest.raises(SystemExit, match="status 1:\nno more memory"):
        neighbour.Worker(Bench(SETTINGS), ["a"] * 4)


def test_batches_are_sampled_evenly_from_an_epoch_sorted_by_length() -> None:
    bench = Bench(SETTINGS)
    lines = neighbour.sampled_lines(bench, 5)
    lengths = [len(bench.tokenizer.tokenize(line)) for line in lines]
    assert len(lines) == 4 * 6
    assert lengths[4:] == sorted(lengths[4:], reverse=True)
    assert max(lengths[:4]) == max(len(bench.tokenizer.tokenize(text)) for text in bench.texts)
    assert len(set(lines[4:])) > 15


def test_full_lines_fill_a_batch() -> None:
    bench = Bench(SETTINGS)
    lines = neighbour.full_lines(bench, 2)
    assert len(lines) == 8
    assert all(len(bench.tokenizer.tokenize(line)) >= SETTINGS.tokens for line in lines)


@pytest.mark.skipif("LANGVAE_PYTHON" not in os.environ, reason="needs LANGVAE_PYTHON")
def test_langvae_trains() -> None:
    bench = Bench(SETTINGS)
    with neighbour.Worker(bench, neighbour.full_lines(bench, 3)) as langvae:
        assert langvae.versions["langvae"] == "0.6.13"
        assert all(0 < langvae.step() < 60 for _ in range(2))
