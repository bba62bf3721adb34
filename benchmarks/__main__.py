"""Measure how far the library is from the floor, and print ratios. See docs/benchmarks.md."""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

from benchmarks.bench import SHAPES, Settings
from benchmarks.cases import CASES
from benchmarks.measure import (
    CLOCKS,
    Ratio,
    measure_epoch,
    measure_fit,
    measure_memory,
    measure_time,
    quiet,
)

ROOT = Path(__file__).parents[1]
COLUMNS = ("case", "measure", "ours", "floor", "unit", "ratio", "spread", "target", "")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--case", default=",".join([*CASES, "memory"]), help="cases, with commas between")
    add("--shape", default="smollm2-135m", choices=SHAPES, help="sizes of decoder and encoder")
    add("--batch", type=int, default=32, help="sentences at a time")
    add("--tokens", type=int, default=32, help="tokens of a sentence")
    add("--sentences", type=int, default=2000, help="real sentences of the epoch")
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
    options.case = options.case.split(",")
    for name in options.case:
        if name not in (*CASES, "memory"):
            parser.error(f"unknown case {name!r}; choose from {', '.join(CASES)}, memory")
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
    return [
        ratio.case,
        ratio.measure,
        f"{ratio.ours:.4g}",
        f"{ratio.floor:.4g}",
        ratio.unit,
        f"{ratio.ratio:.3f}",
        f"{low:.3f} .. {high:.3f}",
        "" if ratio.target is None else f"{sign} {ratio.target:.2f}",
        "missed" if ratio.good is False else "",
    ]


def show(cells: Sequence[str]) -> None:
    widths = (17, 8, 9, 9, 12, 7, 16, 8, 6)
    print(" ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip(), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    names = {field.name for field in fields(Settings)}
    settings = Settings(**{key: value for key, value in vars(options).items() if key in names})
    if settings.threads:
        torch.set_num_threads(settings.threads)
    quiet()
    report: dict[str, Any] = {
        "settings": {**asdict(settings), "repeats": options.repeats},
        "machine": machine(options.device),
        "ratios": [],
        "details": {},
    }
    print(" ".join(f"{key}={value}" for key, value in report["settings"].items()))
    print(" ".join(f"{key}={value}" for key, value in report["machine"].items()))
    show(COLUMNS)

    def record(ratio: Ratio, details: dict[str, Any]) -> None:
        show(row(ratio))
        report["ratios"].append(asdict(ratio))
        if details:
            report["details"][ratio.case] = details
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=2) + "\n")

    start = time.perf_counter()
    timed = [name for name in CASES if name in options.case]
    for name in timed:
        gc.collect()  # the models of the case before
        if name == "epoch":
            record(*measure_epoch(settings))
        elif name == "flow-fit":
            record(*measure_fit(settings))
        else:
            record(*measure_time(settings, name, options.repeats))
    if "memory" in options.case:
        for name in timed or CASES:
            record(measure_memory(settings, name), {})
    for name, details in report["details"].items():
        print(f"{name}: {json.dumps(details)}")
    print(f"{time.perf_counter() - start:.0f} s, written to {options.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
