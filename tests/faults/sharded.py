"""Runs with a decoder distributed over processes, killed at random and resumed on another number.

    python -m tests.faults.sharded --kills 50 --processes 4 2 --seed 0

A run is killed again and again, one process with SIGKILL and then the others, as `torchrun` does
when one is lost. It is resumed until it ends, and compared with a run of one process that nothing
interrupts. The next run begins, until the number of kills is reached. The exit status is 1 if a run
ends otherwise.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from tests import tiny
from tests.training import runs

from llamavae.markdown import markdown_table

TOLERANCE = 1e-5
_WAIT = 240  # seconds for a group of processes to train or to end


def settings(folder: Path, name: str, shard: bool, steps: int = 12) -> dict[str, Any]:
    """Settings of a run with a frozen encoder and decoder, and a checkpoint at every other step."""
    frozen = {"model": str(tiny.encoder("bert-mean")), "scratch": None, "training": "frozen"}
    optimisation = {"steps": steps, "batch_size": 8, "warmup_steps": 2, "learning_rate": 0.01}
    return runs.settings(
        folder,
        name,
        encoder=frozen,
        decoder={"model": str(tiny.decoder("llama-grouped")), "scratch": None},
        optimisation={**optimisation, "shard_decoder": shard, "gradient_checkpointing": shard},
        evaluation={"every": 5, "sentences": 4, "decoded": 2},
        output={"folder": str(folder / name), "log_every": 1, "save_every": 2},
    )


def difference(one: Path, other: Path) -> float:
    """Largest difference of two runs in the numbers of their logs, relative where above 1, and in
    their weights."""
    worst = 0.0
    logs = runs.curve(one), runs.curve(other)
    if [line.keys() for line in logs[0]] != [line.keys() for line in logs[1]]:
        return float("inf")
    for a, b in zip(*logs, strict=True):
        for name, value in a.items():
            if not isinstance(value, str):
                x, y = np.atleast_1d(value), np.atleast_1d(b[name])
                worst = max(worst, float(np.max(np.abs(x - y) / np.maximum(1, np.abs(x)))))
    for path in sorted((one / "model").rglob("*.safetensors")):
        first, second = (load_file(x) for x in (path, other / path.relative_to(one)))
        assert first.keys() == second.keys()
        worst = max(worst, *((first[n].float() - second[n].float()).abs().max() for n in first))
    return float(worst)


def killed(
    values: dict[str, Any], cache: Path, most: int, processes: Sequence[int], draw: random.Random
) -> list[int]:
    """Train to the end, killed up to `most` times; returns the log line after which each kill came.

    The numbers of processes take turns.
    """
    log = Path(values["output"]["folder"], "log.jsonl")
    kills: list[int] = []
    attempt = 0
    while True:
        group = runs.start([(values, True)], cache, processes[attempt % len(processes)])
        attempt += 1
        if len(kills) == most:
            break
        goal, until = _lines(log) + draw.randint(0, 4), time.monotonic() + _WAIT
        while _lines(log) < goal and all(p.is_alive() for p in group):
            if time.monotonic() > until:
                raise TimeoutError(f"{log} has not grown in {_WAIT} s")
            time.sleep(0.02)
        time.sleep(draw.random())
        if not all(p.is_alive() for p in group):  # it has ended
            break
        for process in draw.sample(group, len(group)):
            process.kill()
            time.sleep(0.1 * draw.random())
        for process in group:
            process.join()
        kills.append(_lines(log))
    for process in group:
        process.join(_WAIT)
        process.kill()
    if any(process.exitcode for process in group):
        raise RuntimeError(f"exit status {[process.exitcode for process in group]}")
    return kills


def _lines(log: Path) -> int:
    return len(log.read_bytes().splitlines()) if log.is_file() else 0


def main() -> int:
    """Run the campaign; returns the exit status."""
    parser = argparse.ArgumentParser("python -m tests.faults.sharded", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--each", type=int, default=10, help="maximum number of kills of a run")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw, left, rows = random.Random(given.seed), given.kills, []
    with tempfile.TemporaryDirectory(prefix="llamavae-sharded-") as name:
        folder = Path(name)
        whole = runs.quick(settings(folder, "whole", shard=False)).folder
        while left > 0:
            values = settings(folder, f"run-{len(rows) + 1}", shard=True)
            kills = killed(values, folder / "cache", min(left, given.each), given.processes, draw)
            left -= len(kills)
            worst = difference(whole, Path(values["output"]["folder"]))
            outcome = "the same" if worst < TOLERANCE else "different"
            rows.append([str(len(kills)), " ".join(map(str, kills)), f"{worst:.1e}", outcome])
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(markdown_table(["kills", "after log line", "largest difference", "outcome"], rows))
    return int(any(row[-1] != "the same" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
