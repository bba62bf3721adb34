"""The benchmarks run, on shapes so small that the numbers mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import measure
from benchmarks.__main__ import main
from benchmarks.cases import CASES

SMALL = [
    "--shape",
    "tiny",
    "--batch",
    "4",
    "--tokens",
    "8",
    "--sentences",
    "40",
    "--corpus",
    "factors",
    "--repeats",
    "2",
]


def test_every_case_gives_its_ratio_to_the_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "peak_elsewhere", lambda *_: 1.0)  # no process for each side
    output = tmp_path / "folder" / "benchmark.json"
    main([*SMALL, "--output", str(output)])
    report = json.loads(output.read_text())
    ratios = {(r["case"], r["measure"]): r for r in report["ratios"]}
    timed = {(name, "speed" if name == "epoch" else "time") for name in CASES}
    assert ratios.keys() == timed | {(name, "memory") for name in CASES}
    for ratio in ratios.values():
        low, high = ratio["spread"]
        assert ratio["ours"] > 0
        assert ratio["floor"] > 0
        assert 0 < low <= high
    for key in timed - {("epoch", "speed")}:
        assert ratios[key]["pairs"] == 2
    assert report["details"]["epoch"]["sentences"] == 40
    assert report["details"]["epoch"]["steps"] == 10
    for shares in report["details"]["step"].values():
        assert sum(shares.values()) == pytest.approx(100, abs=0.5)
    assert report["settings"]["seed"] == 0


def test_the_ratio_is_the_median_over_pairs() -> None:
    ratio = measure.compare("step", "time", "s", [(1.0, 2.0), (3.0, 3.0), (9.0, 3.0)], 1.05)
    assert ratio.ratio == 1.0
    assert ratio.spread == (0.75, 2.0)
    assert ratio.good
    assert not measure.compare("step", "time", "s", [(2.0, 1.0)], 1.05).good
    assert measure.compare("epoch", "speed", "sentences/s", [(2.0, 1.0)], 1.7).good


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--case", "steps"])
    assert "choose from step" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
def test_peak_memory_is_that_of_the_run() -> None:
    bench = measure.Bench(measure.Settings(shape="tiny"))
    megabytes = 64

    def run(mark: measure.Mark) -> None:
        block = bytearray(megabytes * 2**20)
        block[::4096] = b"x" * len(block[::4096])

    assert megabytes * 0.9 < measure.peak(bench, run) < megabytes * 1.5
