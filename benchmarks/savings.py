"""What each way to save memory costs and gains: a table in Markdown.

    python -m benchmarks.savings --steps 6 --seed 0

Every option trains for the same number of steps from the same initial weights, in a process of its
own: the recipe `small` with 300 sentences of WordNet, a batch of 16 and a short warm-up, on one CPU
core. Peak memory is that of the steps, above a process that has only imported the library. Time is
processor time, and its ratio is to the first option of the table. NLL is that of held-out sentences
after the last step, in nats per sentence.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psutil
from transformers import TrainerCallback

from llamavae.markdown import markdown_table

HALF = ["decoder.dtype=bfloat16"]
OPTIONS: dict[str, list[str]] = {
    "float32": [],
    "bfloat16": HALF,
    "bfloat16, micro-batches of 4": [*HALF, "optimisation.micro_batch_size=4"],
    "bfloat16, gradient checkpointing": [*HALF, "optimisation.gradient_checkpointing=true"],
    "8 bits": [*HALF, "decoder.quantization=8bit"],
    "4 bits": [*HALF, "decoder.quantization=4bit"],
    "float32, LoRA": ["decoder.training=lora"],
    "4 bits, LoRA (QLoRA)": [
        *HALF,
        "decoder.training=lora",
        "decoder.quantization=4bit",
        "optimisation.precision=bfloat16",
    ],
}
"""Name -> changes of the recipe."""

COMMON = [
    "corpus.mix=[]",
    "corpus.limit=300",
    "optimisation.batch_size=16",
    "optimisation.warmup_steps=2",
    "decoder.dtype=float32",
    "evaluation.sentences=30",
    "evaluation.decoded=0",
    "output.prior_sentences=0",
]
_FIRST = 2  # steps before the time is taken


class Watch(TrainerCallback):
    """Peak memory and processor time of the steps.

    Attributes:
        peak: Largest resident memory in a step, in bytes.
        seconds: Processor time of the steps after the first two.
        steps: Their number.
    """

    def __init__(self) -> None:
        self.peak, self.seconds, self.steps = 0, 0.0, 0
        self._process, self._since = psutil.Process(), 0.0
        self._inside = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while self._inside.wait():
            self.peak = max(self.peak, self._process.memory_info().rss)
            time.sleep(0.005)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start both."""
        self._inside.set()
        self._since = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop both."""
        self._inside.clear()
        if state.global_step > _FIRST:
            self.seconds += time.process_time() - self._since
            self.steps += 1


def measure(changes: list[str], steps: int, seed: int) -> dict[str, float]:
    """Train in this process; peak memory above the present one in MB, seconds a step, NLL."""
    from llamavae.training import run
    from llamavae.training.recipe import load_recipe
    from llamavae.training.trainer import VAETrainer

    sizes = [
        f"optimisation.steps={steps}",
        f"evaluation.every={steps}",
        f"optimisation.seed={seed}",
    ]
    watch = Watch()

    class Watched(VAETrainer):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.add_callback(watch)

    run.VAETrainer = Watched
    gc.collect()
    before = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory() as folder:
        sizes.append(f"output.folder={folder}")
        recipe = load_recipe("small", [*COMMON, *sizes, *changes])
        result = run.train(recipe, progress=False)
    return {
        "memory": (watch.peak - before) / 2**20,
        "seconds": watch.seconds / watch.steps,
        "nll": result.metrics["nll"],
    }


def main() -> None:
    """Measure each option in a process of its own, and print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.savings", description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--option", choices=OPTIONS, action="append", help="default: all of them")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    context = multiprocessing.get_context("forkserver")  # imports once, then forks
    context.set_forkserver_preload(["llamavae.training.run", "peft"])
    rows: list[list[str]] = []
    first = 0.0
    for name in given.option or OPTIONS:
        with ProcessPoolExecutor(1, context) as process:
            found = process.submit(measure, OPTIONS[name], given.steps, given.seed).result()
        first = first or found["seconds"]
        memory, ratio = f"{found['memory']:,.0f} MB", f"{found['seconds'] / first:.2f}"
        rows.append([name, memory, f"{found['seconds']:.2f} s", ratio, f"{found['nll']:.2f}"])
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(markdown_table(["option", "peak memory", "time per step", "ratio", "NLL"], rows))


if __name__ == "__main__":
    main()
