"""Measure how far the library is from the floor, and print ratios. See docs/benchmarks.md."""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

from benchmarks import neighbour
from benchmarks.bench import SHAPES, Bench, Settings
from benchmarks.cases import CASES
from benchmarks.measure import (
    CLOCKS,
    STRETCHES,
    Beside,
    Ratio,
    measure_epoch,
    measure_fit,
    measure_memory,
    measure_time,
    plain_epoch,
    quiet,
)
from benchmarks.startup import measure_start_up

ROOT = Path(__file__).parents[1]
LANGVAE = ("langvae-step", "langvae-epoch")
NAMES = (*CASES, *LANGVAE, "start-up", "memory")
COLUMNS = ("case", "measure", "ours", "floor", "unit", "ratio", "spread", "target", "")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--case", default=",".join(NAMES), help="cases, with commas between")
    add("--shape", default="smollm2-135m", help="sizes of decoder and encoder, with commas between")
    add("--batch", type=int, default=32, help="sentences at a time")
    add("--tokens", type=int, default=32, help="tokens of a sentence")
    add("--sentences", type=int, default=2000, help="real sentences of the epoch")
    add("--lines", type=int, default=256, help="real sentences that are encoded")
    add("--corpus", default="wordnet", help="where they are from: anything load_corpus reads")
    add("--points", type=int, default=100_000, help="synthetic points that a flow is fitted to")
    add("--repeats", type=int, default=5, help="pairs of measurements")
    add("--device", default="cuda" if gpu else "cpu")
    add("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on a GPU")
    add("--threads", type=int, help="CPU threads; default: as many as torch takes")
    add("--clock", default="wall", choices=CLOCKS, help="cpu: processor time, for a busy machine")
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=ROOT / "runs" / "benchmark.json", help="JSON file")
    options = parser.parse_args(argv)
    for kind, names in (("case", NAMES), ("shape", tuple(SHAPES))):
        given = getattr(options, kind).split(",")
        setattr(options, kind, given)
        for name in given:
            if name not in names:
                parser.error(f"unknown {kind} {name!r}; choose from {', '.join(names)}")
    if options.clock == "cpu" and (options.device != "cpu" or options.threads != 1):
        parser.error("--clock cpu needs --device cpu and --threads 1")
    if options.dtype is None:
        options.dtype = "bfloat16" if options.device.startswith("cuda") else "float32"
    return options


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    name = platform.processor() or platform.machine()
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    elif (info := Path("/proc/cpuinfo")).exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return {
        "device": name,
        "cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": psutil.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def row(ratio: Ratio) -> list[str]:
    sign = ">=" if ratio.measure == "speed" else "<="
    low, high = ratio.spread
    target = "" if ratio.target is None else f"{sign} {ratio.target:.2f}"
    return [
        ratio.case,
        ratio.measure,
        f"{ratio.ours:.4g}",
        f"{ratio.floor:.4g}",
        ratio.unit,
        f"{ratio.ratio:.3f}",
        f"{low:.3f} .. {high:.3f}",
        target if ratio.limit is None else f"<= {ratio.limit:.0f} s",
        "missed" if ratio.good is False else "",
    ]


def show(cells: Sequence[str]) -> None:
    widths = (17, 8, 9, 9, 12, 7, 16, 8, 6)
    print(" ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip(), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    names = {field.name for field in fields(Settings)} - {"shape"}
    given = {key: value for key, value in vars(options).items() if key in names}
    if options.threads:
        torch.set_num_threads(options.threads)
    quiet()
    report: dict[str, Any] = {
        "settings": {**given, "shape": options.shape, "repeats": options.repeats},
        "machine": machine(options.device),
        "ratios": [],
        "details": {},
    }
    for part in ("settings", "machine"):
        print(" ".join(f"{key}={value}" for key, value in report[part].items()))

    def record(shape: str, ratio: Ratio, details: dict[str, Any] | None = None) -> None:
        show(row(ratio))
        report["ratios"].append({"shape": shape, **asdict(ratio)})
        if details:
            report["details"].setdefault(shape, {})[ratio.case] = details
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=2) + "\n")

    start = time.perf_counter()
    show(COLUMNS)
    for shape in options.shape if set(options.case) - {"start-up"} else ():
        print(f"shape {shape}", flush=True)
        measure(
            Settings(shape=shape, **given), options.case, options.repeats, partial(record, shape)
        )
    if "start-up" in options.case:
        print("commands", flush=True)
        for ratio in measure_start_up(Settings(**given), options.repeats):
            record("mini", ratio)
    for shape, cases in report["details"].items():
        for name, details in cases.items():
            print(f"{shape}, {name}: {json.dumps(details)}")
    print(f"{time.perf_counter() - start:.0f} s, written to {options.output}", file=sys.stderr)


def measure(
    settings: Settings, cases: Collection[str], repeats: int, record: Callable[..., None]
) -> None:
    """Measure the cases of one shape."""
    for name in (*CASES, *LANGVAE):
        if name not in cases:
            continue
        gc.collect()  # the models of the case before
        if name in LANGVAE and neighbour.python() is None:
            print(f"{name:17} {neighbour.ABSENT}", flush=True)
        elif name == "langvae-step":
            record(*neighbour.measure_step(settings, repeats))
        elif name == "epoch" or (name == "langvae-epoch" and "epoch" not in cases):
            epochs(settings, cases, record)
        elif name == "flow-fit":
            record(*measure_fit(settings))
        elif name != "langvae-epoch":  # which `epoch` has measured
            record(*measure_time(settings, name, repeats))
    if "memory" in cases:
        for name in [name for name in CASES if name in cases] or CASES:
            record(measure_memory(settings, name))


def epochs(settings: Settings, cases: Collection[str], record: Callable[..., None]) -> None:
    """One epoch of ours beside the plain decoder, LangVAE or both."""
    bench = Bench(settings)
    with ExitStack() as stack:
        others = [plain_epoch(bench)] if "epoch" in cases else []
        details: dict[str, Any] = {}
        if "langvae-epoch" in cases and neighbour.python() is not None:
            lines = neighbour.sampled_lines(bench, STRETCHES)
            worker = stack.enter_context(neighbour.Worker(bench, lines))
            target = neighbour.EPOCH_TARGET
            others.append(Beside("langvae-epoch", worker.step, target, statistics.mean))
            details["langvae"] = worker.versions
        found, about = measure_epoch(bench, others)
    for ratio in found:
        record(ratio, about | details)


if __name__ == "__main__":
    main()
