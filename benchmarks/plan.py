"""Compare the memory that `llamavae plan` predicts with measured peaks, and print both.

    llamavae models get small
    python -m benchmarks.plan

Each configuration trains a few steps on this CPU in a process of its own. The measured peak is what
the model, the optimiser and one step hold at most: sizes of their tensors before the step, plus the
highest sum of allocations during it, which torch's profiler counts in its CPU allocator. The
resident memory of the process is not compared: it also contains libraries, and memory that was
freed and not returned.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch._C._profiler import _EventType
from transformers import TrainerCallback

from llamavae.planning import setup_of, simulate
from llamavae.training.recipe import Recipe, load_recipe, parse_recipe

ROOT = Path(__file__).parents[1]
WORDS = ("dog", "owl", "moon", "tree", "river", "house")  # one token each
STEP = 2  # the step that is measured, from 0: then the optimiser has its state

SMALL = ("small", {"optimisation.batch_size": 8, "decoder.max_tokens": 32})
MINI = ("fine-tune", {"start_from": "mini", "optimisation.batch_size": 32})
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "mini, full": MINI,
    "mini, batch 8": (MINI[0], MINI[1] | {"optimisation.batch_size": 8}),
    "mini, bfloat16": (MINI[0], MINI[1] | {"optimisation.precision": "bfloat16"}),
    "mini, checkpointing": (MINI[0], MINI[1] | {"optimisation.gradient_checkpointing": True}),
    "small, frozen": SMALL,
    "small, 16 tokens": (SMALL[0], SMALL[1] | {"decoder.max_tokens": 16}),
    "small, checkpointing": (SMALL[0], SMALL[1] | {"optimisation.gradient_checkpointing": True}),
    "small, heads": (
        SMALL[0],
        SMALL[1] | {"decoder.training": "heads", "optimisation.precision": "bfloat16"},
    ),
    "small, LoRA": (
        SMALL[0],
        SMALL[1] | {"decoder.training": "lora", "decoder.dtype": "float32"},
    ),
    "small, full": (SMALL[0], SMALL[1] | {"decoder.training": "full", "decoder.dtype": "float32"}),
}


class Peak(TrainerCallback):
    """Measures one step of a trainer."""

    def __init__(self) -> None:
        self.optimiser: torch.optim.Optimizer | None = None
        self.bytes = 0

    def on_step_begin(self, args, state, control, model=None, optimizer=None, **_):
        if state.global_step != STEP:
            return
        gc.collect()
        held = [*model.parameters(), *model.buffers()]
        held += [x for values in optimizer.state.values() for x in values.values()]
        storages = [x.untyped_storage() for x in held if isinstance(x, torch.Tensor)]
        self.bytes = sum({s.data_ptr(): s.nbytes() for s in storages}.values())
        activities = [torch.profiler.ProfilerActivity.CPU]
        self.profile = torch.profiler.profile(activities=activities, profile_memory=True)
        self.profile.__enter__()

    def on_step_end(self, args, state, control, **_):
        if state.global_step == STEP + 1:
            self.profile.__exit__(None, None, None)
            self.bytes += highest(allocations(self.profile))


def allocations(profile: Any) -> list[int]:
    """Bytes that were allocated, or with a negative sign freed, in the order of time."""
    events = list(profile.profiler.kineto_results.experimental_event_tree())
    found = []
    while events:
        event = events.pop()
        if event.typed[0] == _EventType.Allocation:
            found.append((event.start_time_ns, event.extra_fields.alloc_size))
        events.extend(event.children)
    return [size for _, size in sorted(found)]


def highest(sizes: Iterable[int]) -> int:
    """The highest sum on the way."""
    now = top = 0
    for size in sizes:
        now += size
        top = max(top, now)
    return top


def measure(recipe: Recipe, folder: Path, tokens: int) -> int:
    """Bytes at the peak of a training step of `recipe`, on sentences of `tokens` tokens."""
    from llamavae.training.run import train
    from llamavae.training.trainer import VAETrainer

    peak = Peak()
    create = VAETrainer.__init__

    def created(self, *args, **options):
        create(self, *args, **options)
        self.add_callback(peak)

    lines = [
        " ".join(WORDS[(i // 6**k) % 6] for k in range(tokens - 1)) for i in range(2 * 6**2, 6**3)
    ]
    (folder / "sentences.txt").write_text("\n".join(lines))
    values = recipe.model_dump()
    values["corpus"] = {"name": str(folder / "sentences.txt")}
    values["evaluation"] = {"every": 1000, "sentences": 2, "decoded": 0}
    values["output"] = {"folder": str(folder / "run"), "save_every": 1000, "prior_sentences": 0}
    values["optimisation"] |= {"steps": STEP + 1, "epochs": None}
    VAETrainer.__init__ = created
    try:
        train(parse_recipe(values), progress=False)
    finally:
        VAETrainer.__init__ = create
    return peak.bytes


def compare(name: str) -> tuple[float, float]:
    """Predicted and measured bytes of a configuration."""
    recipe = load_recipe(CONFIGURATIONS[name][0], values=CONFIGURATIONS[name][1])
    setup = setup_of(recipe, cpu=True)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(recipe, Path(folder), setup.tokens)
    return simulate(setup).peak, float(measured)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.plan", description=__doc__)
    parser.add_argument("names", nargs="*", help="configurations; default: all", metavar="NAME")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(compare(options.one)))
        return
    print(f"{'configuration':22} {'predicted':>10} {'measured':>10} {'ratio':>7}   MiB")
    for name in options.names or CONFIGURATIONS:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.plan", "--one", name],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
        ours, real = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:22} {ours / 2**20:10.1f} {real / 2**20:10.1f} {ours / real:7.3f}", flush=True)


if __name__ == "__main__":
    main()
