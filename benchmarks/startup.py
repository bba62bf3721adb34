"""How long a command takes before it answers, in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

from benchmarks.bench import Settings
from benchmarks.measure import Ratio, compare

FLOOR = [
    "-c",
    "import torch\nfrom transformers import AutoTokenizer, LlamaForCausalLM, T5EncoderModel",
]
"""The packages of the models, and nothing else."""

COMMANDS = {
    "start-up": ("reconstruct", "--model", "mini", "a dog is a kind of animal"),
    "reverse-start-up": ("reverse", "--model", "mini-definitions", "a large animal"),
}
LIMITS = {  # seconds
    ("start-up", "wall"): 2.0,
    ("reverse-start-up", "wall"): 3.0,
    ("reverse-start-up", "cpu"): 2.0,
}


def measure_start_up(settings: Settings, repeats: int) -> list[Ratio]:
    """Wall and processor seconds of commands and of importing their packages, in turn.

    The first pair only warms up: it writes what the command keeps in its cache.
    """
    found = []
    for case, arguments in COMMANDS.items():
        pairs = [
            (run(settings, ["-m", "llamavae", *arguments]), run(settings, FLOOR))
            for _ in range(1 + repeats)
        ][1:]
        for clock in ("wall", "cpu"):
            each = [(ours[clock], floor[clock]) for ours, floor in pairs]
            ratio, limit = compare(case, clock, "s", each, None), LIMITS.get((case, clock))
            good = None if limit is None else ratio.ours <= limit
            found.append(replace(ratio, limit=limit, good=good))
    return found


def run(settings: Settings, arguments: list[str]) -> dict[str, float]:
    """Wall and processor seconds of a Python process."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    if settings.threads:
        environment["OMP_NUM_THREADS"] = str(settings.threads)
    before, start = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system
    return {"wall": wall, "cpu": cpu - before.children_user - before.children_system}
