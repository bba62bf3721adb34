"""The benchmarks run, on shapes so small that the numbers mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks import guidance, measure, savings
from benchmarks.__main__ import main
from benchmarks.cases import CASES
from torch import Tensor

from llamavae.flows import FitConfig
from llamavae.modeling import LlaMaVAE
from llamavae.training.recipe import load_recipe

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
    "--points",
    "50",
    "--repeats",
    "2",
]


def test_every_case_gives_its_ratio_to_the_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "peak_elsewhere", lambda *_: 1.0)  # no process for each side
    for module in (guidance, measure):
        monkeypatch.setattr(module, "FIT", FitConfig(steps=8, eval_every=2, patience=4))
    output = tmp_path / "folder" / "benchmark.json"
    cases = ",".join([*CASES, "memory"])
    main([*SMALL, "--case", cases, "--lines", "8", "--output", str(output)])
    report = json.loads(output.read_text())
    ratios = {(r["case"], r["measure"]): r for r in report["ratios"]}
    assert {ratio["shape"] for ratio in report["ratios"]} == {"tiny"}
    speeds = ("epoch", "encode")
    timed = {(name, "speed" if name in speeds else "time") for name in CASES}
    assert ratios.keys() == timed | {(name, "memory") for name in CASES}
    for ratio in ratios.values():
        low, high = ratio["spread"]
        assert ratio["ours"] > 0
        assert ratio["floor"] > 0
        assert 0 < low <= high
    for key in timed - {("epoch", "speed"), ("flow-fit", "time")}:
        assert ratios[key]["pairs"] == 2
    assert ratios["flow-fit", "time"]["pairs"] == 3
    assert ratios["flow-fit", "time"]["target"] is None
    details = report["details"]["tiny"]
    assert details["epoch"]["sentences"] == 40
    assert details["epoch"]["steps"] == 10
    assert details["encode"]["sentences"] == 8
    fit = details["flow-fit"]
    assert fit["points"] == 50
    assert fit["steps_measured"] == 6
    steps = 4000 * ratios["flow-fit", "time"]["ours"]
    expected = fit["seconds_to_begin"] + steps + 20 * fit["seconds_of_a_look"]
    assert fit["seconds_of_a_default_fit_extrapolated"] == pytest.approx(expected, abs=0.1)
    for case in ("step", "guided-generation"):
        for shares in details[case].values():
            assert sum(shares.values()) == pytest.approx(100, abs=0.5)
    assert details["guided-generation"]["ours"].keys() == {"points", "decode"}
    assert report["settings"]["seed"] == 0


def test_the_ratio_is_the_median_over_pairs() -> None:
    ratio = measure.compare("step", "time", "s", [(1.0, 2.0), (3.0, 3.0), (9.0, 3.0)], 1.05)
    assert ratio.ratio == 1.0
    assert ratio.spread == (0.75, 2.0)
    assert ratio.good
    assert not measure.compare("step", "time", "s", [(2.0, 1.0)], 1.05).good
    assert measure.compare("epoch", "speed", "sentences/s", [(2.0, 1.0)], 1.7).good


def test_several_shapes_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "benchmark.json"
    options = ["--case", "generate", "--output", str(output)]
    main([*SMALL, "--shape", "tiny,mini", *options])
    ratios = json.loads(output.read_text())["ratios"]
    assert [(ratio["shape"], ratio["target"]) for ratio in ratios] == [
        ("tiny", 1.02),
        ("mini", 1.02),
    ]
    assert "shape mini" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [("--case", "steps", "choose from step"), ("--shape", "tiny,small", "choose from tiny, mini")],
)
def test_an_unknown_name_is_refused(
    option: str, value: str, choices: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([option, value])
    assert choices in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
def test_peak_memory_is_that_of_the_run() -> None:
    bench = measure.Bench(measure.Settings(shape="tiny"))
    megabytes = 64

    def run(mark: measure.Mark) -> None:
        block = bytearray(megabytes * 2**20)
        block[::4096] = b"x" * len(block[::4096])

    assert megabytes * 0.9 < measure.peak(bench, run) < megabytes * 1.5


def test_a_fit_is_marked_where_it_turns_to_steps_and_to_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guidance, "FIT", FitConfig(steps=4, eval_every=2, batch_size=8))
    bench = measure.Bench(measure.Settings(shape="tiny", points=40))
    run = guidance.flow_fit(bench)
    for _ in range(2):
        marks: list[str] = []
        run(marks.append)
        assert marks == ["begin", "steps", "look", "steps", "look"]


def test_guided_generation_decodes_the_points_of_its_floor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = measure.Settings(shape="tiny", batch=3, tokens=4, sentences=10, corpus="factors")
    decoded = []
    decode = LlaMaVAE.decode

    def spy(model: LlaMaVAE, z: Tensor, **options: int) -> list[str]:
        decoded.append((z, decode(model, z, **options)))
        return decoded[-1][1]

    monkeypatch.setattr(LlaMaVAE, "decode", spy)
    for side in (guidance.guided_generation, guidance.decode):
        side(measure.Bench(settings))(measure.nothing)
    (ours, texts), (floor, others) = decoded
    assert ours.shape == (3, 128)
    assert torch.equal(ours, floor)
    assert texts == others


@pytest.mark.parametrize("option", savings.OPTIONS)
def test_ways_to_save_memory(option):
    recipe = load_recipe("small", [*savings.COMMON, *savings.OPTIONS[option]])
    assert recipe.optimisation.batch_size == 16
    assert (recipe.decoder.training == "lora") == ("LoRA" in option)
