"""Encode many lines with both engines, kill workers of Ray meanwhile, and compare the files.

    python -m benchmarks.bulk --lines 1000000 --kills 10

What is finished is kept in the folder, and an interrupted encoding resumes: run the same command
again. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
_GROUP = 50_000  # rows of a row group of the source
_INTERVAL = 0.5  # seconds between two measurements
_YOUNG = 3.0  # seconds that a worker lives before it may be killed
_WORDS = """the a an old small large red quiet grey clever dog cat owl baker letter river house bird
violin tree robot moon sees paints sells writes lives plays finds is kind of animal in on under with
near and that who which two seven every no"""


def sentences(count: int, seed: int) -> Iterator[pa.Table]:
    """Tables of synthetic sentences of 3 to 24 words, one of a thousand blank."""
    draw, words = random.Random(seed), _WORDS.split()
    for first in range(0, count, _GROUP):
        lines = (
            " ".join(draw.choices(words, k=draw.randint(3, 24))) if draw.random() > 1e-3 else ""
            for _ in range(min(_GROUP, count - first))
        )
        yield pa.table({"text": list(lines)}, schema=pa.schema({"text": pa.string()}))


def make_source(path: Path, count: int, seed: int) -> None:
    """Write the sentences to Parquet, unless they are there."""
    if path.is_file():
        return
    new = path.with_suffix(".new")
    with pq.ParquetWriter(new, pa.schema({"text": pa.string()})) as writer:
        for table in sentences(count, seed):
            writer.write_table(table)
    new.rename(path)


class Watch:
    """Memory and processor time of a process and its children, and the workers of Ray among them.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.memory: list[int] = []  # of the largest process at each measurement, in bytes
        self.cpu: dict[int, float] = {}  # seconds of each process

    def measure(self) -> list[psutil.Process]:
        """Measure all processes; returns the workers that compute."""
        workers, sizes = [], [0]
        with suppress(psutil.NoSuchProcess):
            for each in (self.process, *self.process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    sizes.append(each.memory_full_info().uss)
                    times = each.cpu_times()
                    self.cpu[each.pid] = times.user + times.system
                    if "_Worker" in " ".join(each.cmdline()):
                        workers.append(each)
        self.memory.append(max(sizes))
        return workers

    def figures(self) -> dict[str, Any]:
        """Processor seconds, and the peak of memory in the second and in the last quarter."""
        quarter = max(1, len(self.memory) // 4)
        early, late = self.memory[quarter : 2 * quarter], self.memory[-quarter:]
        return {
            "cpu_seconds": round(sum(self.cpu.values()), 1),
            "memory_second_quarter_mb": round(max(early or self.memory) / 2**20),
            "memory_last_quarter_mb": round(max(late) / 2**20),
        }


def encode(
    options: argparse.Namespace, source: Path, output: Path, engine: Sequence[str], kills: int
) -> dict[str, Any]:
    """Run `llamavae encode` and kill workers of it on the way."""
    command = [sys.executable, "-m", "llamavae", "encode", "--model", options.model]
    command += ["--device", "cpu", "--file", str(source), "--output", str(output), *engine]
    rows = pq.read_metadata(source).num_rows
    parts = output.with_name(f"{output.name}.partial")
    before = len(list(parts.glob("part-*.parquet")))
    total = -(-rows // 4096)
    draw, killed, start = random.Random(options.seed), 0, time.perf_counter()
    with subprocess.Popen(command) as process:
        watch = Watch(process.pid)
        try:
            while process.poll() is None:
                workers = watch.measure()
                done = len(list(parts.glob("part-*.parquet"))) - before
                due = 1 + done * (kills + 1) // max(1, total - before)
                old = [w for w in workers if time.time() - w.create_time() > _YOUNG]
                if killed < min(kills, due) and old:
                    with suppress(psutil.NoSuchProcess):
                        draw.choice(old).kill()
                        killed += 1
                time.sleep(_INTERVAL)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if process.returncode:
        raise SystemExit(process.returncode)
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 1),
        "rows": rows,
        "resumed_parts": before,
        "killed": killed,
        **watch.figures(),
        "sha256": hashlib.sha256(output.read_bytes()).hexdigest(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not finished yet, and print the figures."""
    parser = argparse.ArgumentParser("python -m benchmarks.bulk", description=__doc__)
    add = parser.add_argument
    add("--lines", type=int, default=1_000_000, help="synthetic sentences")
    add("--model", default="mini")
    add("--kills", type=int, default=10, help="workers of Ray to kill")
    add("--workers", type=int, default=1, help="workers of Ray")
    add("--seed", type=int, default=0)
    add("--folder", type=Path, default=ROOT / "runs" / "bulk", help="where everything is kept")
    options = parser.parse_args(argv)
    folder = options.folder / f"{options.model}-{options.lines}-{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    source, results = folder / "sentences.parquet", folder / "results.json"
    make_source(source, options.lines, options.seed)
    found: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}
    ray = ["--engine", "ray", "--workers", str(options.workers)]
    for name, engine, kills in (("local", [], 0), ("ray", ray, options.kills)):
        if name not in found:
            found[name] = encode(options, source, folder / f"{name}.parquet", engine, kills)
            results.write_text(json.dumps(found, indent=2) + "\n")
    same = found["local"]["sha256"] == found["ray"]["sha256"]
    print(json.dumps(found, indent=2))
    print("the same file" if same else "the files differ")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
