"""Ratios to the floor: both sides in one process, in turn, and their memory in fresh processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

from benchmarks.bench import Bench, Mark, Run, Settings
from benchmarks.cases import CASES
from benchmarks.guidance import DEFAULT, FIT


@dataclass(frozen=True)
class Ratio:
    """One comparison with the floor.

    Attributes:
        case: What was done.
        measure: What was measured: time, memory or speed.
        unit: Of `ours` and `floor`.
        ours: Median of our side.
        floor: Median of the floor.
        ratio: Median of the ratios of neighbouring measurements, ours to floor.
        spread: Lower and upper quartile of those ratios.
        pairs: Number of those ratios.
        target: What is good enough: the largest ratio of time or memory, the smallest of speed;
            None where there is no target.
        good: Whether it is reached.
        limit: Most seconds of our side that are good enough, instead of a target; None without.
    """

    case: str
    measure: str
    unit: str
    ours: float
    floor: float
    ratio: float
    spread: tuple[float, float]
    pairs: int
    target: float | None
    good: bool | None
    limit: float | None = None


def compare(
    case: str, measure: str, unit: str, pairs: list[tuple[float, float]], target: float | None
) -> Ratio:
    """The ratio of paired measurements (ours, floor)."""
    ratios = [ours / floor for ours, floor in pairs]
    low = high = ratio = statistics.median(ratios)
    if len(ratios) > 1:
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(
        case,
        measure,
        unit,
        statistics.median(ours for ours, _ in pairs),
        statistics.median(floor for _, floor in pairs),
        ratio,
        (low, high),
        len(pairs),
        target,
        reached(measure, ratio, target),
    )


def reached(measure: str, ratio: float, target: float | None) -> bool | None:
    """Whether a ratio is good enough: speed is better when it is larger, the others are not."""
    if target is None:
        return None
    return ratio >= target if measure == "speed" else ratio <= target


# ----------------------------------------------------------------------------------------- time


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def nothing(part: str) -> None:
    pass


def now(bench: Bench) -> float:
    """Seconds on the run's clock, after all that was started on the device is done."""
    bench.synchronise()
    return CLOCKS[bench.settings.clock]()


def seconds(bench: Bench, run: Run, mark: Mark = nothing) -> float:
    """Seconds of one run."""
    start = now(bench)
    run(mark)
    return now(bench) - start


def parts(bench: Bench, run: Run) -> dict[str, float]:
    """The share of each part in one run, in percent."""
    taken: dict[str, float] = {}
    last = now(bench)

    def mark(part: str) -> None:
        nonlocal last
        time_now = now(bench)
        taken[part] = taken.get(part, 0.0) + time_now - last
        last = time_now

    run(mark)
    total = sum(taken.values())
    return {part: round(100 * value / total, 1) for part, value in taken.items()}


def measure_time(settings: Settings, name: str, repeats: int) -> tuple[Ratio, dict[str, Any]]:
    """Run both sides in turn, ours first; the first pair only warms up."""
    bench, case = Bench(settings), CASES[name]
    ours, floor = case.ours(bench), case.floor(bench)
    pairs = [(seconds(bench, ours), seconds(bench, floor)) for _ in range(1 + repeats)][1:]
    if case.speed is not None:
        count = len(bench.lines)
        rates = [(count / a, count / b) for a, b in pairs]
        return compare(name, "speed", "sentences/s", rates, case.speed), {"sentences": count}
    marked = name in ("step", "guided-generation")
    shares = {"ours": parts(bench, ours), "floor": parts(bench, floor)} if marked else {}
    return compare(name, "time", "s", pairs, case.time), shares


EPOCH_TARGET, STRETCHES = 1.7, 10


@dataclass(frozen=True)
class Beside:
    """What an epoch is compared with.

    Attributes:
        case: Name of the comparison.
        step: Makes a step and returns its seconds.
        target: How many times as fast the epoch should be.
        middle: Seconds of a step from those of several.
    """

    case: str
    step: Callable[[], float]
    target: float
    middle: Callable[[list[float]], float] = statistics.median


def plain_epoch(bench: Bench) -> Beside:
    """Padded steps of the plain decoder."""
    floor = CASES["epoch"].floor(bench)
    seconds(bench, floor)
    return Beside("epoch", lambda: seconds(bench, floor), EPOCH_TARGET)


def measure_epoch(
    bench: Bench, others: Sequence[Beside], stretches: int = STRETCHES
) -> tuple[list[Ratio], dict[str, Any]]:
    """Sentences per second of an epoch, against steps of others with batches of the same size.

    The epoch is cut into stretches of steps; after each one a step of each other is timed, while
    the epoch waits. The ratio is that of the whole epoch to the middle of the other's steps; its
    spread is over stretches.
    """
    ours = CASES["epoch"].ours(bench)
    rows = bench.settings.batch
    steps = -(-len(bench.texts) // rows)
    ends = {steps * (i + 1) // stretches for i in range(stretches)}
    done, since, preparing, started = 0, 0, 0.0, now(bench)
    rates: list[float] = []
    taken: list[list[float]] = []
    waited: list[float] = []

    def mark(part: str) -> None:
        nonlocal done, since, preparing, started
        if part == "prepare":
            preparing = now(bench) - started
        done += part == "step"
        since += part == "step"
        if done in ends and since:
            waited.append(now(bench) - started)
            rates.append(since * rows / waited[-1])
            taken.append([other.step() for other in others])
            since = 0
        if since == 0:
            started = now(bench)

    ours(mark)
    speed = done * rows / sum(waited)
    found = []
    for other, each in zip(others, zip(*taken, strict=True), strict=True):
        pairs = [(rate, rows / one) for rate, one in zip(rates, each, strict=True)]
        stretch = compare(other.case, "speed", "sentences/s", pairs, other.target)
        floor = rows / other.middle(list(each))
        whole = {"ours": speed, "floor": floor, "ratio": speed / floor}
        good = reached("speed", speed / floor, other.target)
        found.append(replace(stretch, **whole, good=good))
    details = {
        "sentences": len(bench.texts),
        "steps": done,
        "seconds": round(sum(waited), 2),
        "seconds_to_tokenise_and_encode_once": round(preparing, 2),
    }
    return found, details


FIT_TARGET = 600.0  # seconds


def measure_fit(settings: Settings) -> tuple[Ratio, dict[str, Any]]:
    """Seconds of a step of a flow's fit, against its matrix products; and of a default fit.

    After each stretch of steps the products of as many are timed, while the fit waits; the first
    stretch only warms up. The seconds of a default fit are extrapolated from medians: its
    beginning, all its steps, and all its looks at held-out data.
    """
    bench, case = Bench(settings), CASES["flow-fit"]
    ours, floor = case.ours(bench), case.floor(bench)
    taken: dict[str, list[float]] = {"begin": [], "steps": [], "look": []}
    floors: list[float] = []
    last = now(bench)

    def mark(part: str) -> None:
        nonlocal last
        taken[part].append(now(bench) - last)
        if part == "steps":
            floors.append(seconds(bench, floor))
        last = now(bench)

    ours(mark)
    pairs = [
        (a / FIT.eval_every, b / FIT.eval_every)
        for a, b in zip(taken["steps"], floors, strict=True)
    ]
    step = compare("flow-fit", "time", "s/step", pairs[1:], case.time)
    begin, look = taken["begin"][0], statistics.median(taken["look"])
    looks = -(-DEFAULT.steps // DEFAULT.eval_every)
    details = {
        "points": settings.points,
        "steps_measured": FIT.eval_every * step.pairs,
        "seconds_to_begin": round(begin, 2),
        "seconds_of_a_look": round(look, 3),
        "seconds_of_a_default_fit_extrapolated": round(
            begin + DEFAULT.steps * step.ours + looks * look, 1
        ),
        "target_seconds": FIT_TARGET,
    }
    return step, details


# --------------------------------------------------------------------------------------- memory


def measure_memory(settings: Settings, name: str) -> Ratio:
    """Peak memory above what models and optimiser hold, each side in a process of its own."""
    pair = (peak_elsewhere(settings, name, "ours"), peak_elsewhere(settings, name, "floor"))
    return compare(name, "memory", "MiB", [pair], CASES[name].memory)


def peak_elsewhere(settings: Settings, name: str, side: str) -> float:
    """`peak`, in a fresh process."""
    job = json.dumps({"settings": asdict(settings), "case": name, "side": side})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure", job],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def peak(bench: Bench, run: Run) -> float:
    """Most MiB that two runs hold above what is held before."""
    if bench.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            run(nothing)
        bench.synchronise()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        raise SystemExit("peak memory on the CPU is read from /proc, which only Linux has")
    before = psutil.Process().memory_info().rss
    reset.write_text("5")  # the kernel forgets the peak of the set-up
    for _ in range(2):
        run(nothing)
    status = Path("/proc/self/status").read_text()
    high = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return (int(high.split()[1]) * 1024 - before) / 2**20


def quiet() -> None:
    """No progress bars or notes of the libraries between the numbers."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def main() -> None:
    quiet()
    job = json.loads(sys.argv[1])
    bench, case = Bench(Settings(**job["settings"])), CASES[job["case"]]
    ours = case.peak or case.ours
    print(peak(bench, (ours if job["side"] == "ours" else case.floor)(bench)))


if __name__ == "__main__":
    main()
