"""Tiny training runs, in this process, in one that gets killed, and in two at once."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

from llamavae.training.recipe import Recipe, parse_recipe
from llamavae.training.run import TrainResult, train
from llamavae.training.sentence_trainer import SentenceTrainer
from llamavae.training.warmup import _LanguageModelTrainer

INTERRUPTED = 75
"""Exit status of a run that was asked to stop and saved a checkpoint."""

_CONTEXT = multiprocessing.get_context("forkserver")  # imports once, then forks for each run
_CONTEXT.set_forkserver_preload(["llamavae.training.run", "llamavae.training.scratch"])

Jobs = list[tuple[dict[str, Any], bool]]

SENTENCES = [
    " ".join(("the", *words)) + "."
    for words in itertools.product(
        ("dog", "old baker", "small grey robot", "owl"),
        ("sees", "does not sell", "paints"),
        ("a door", "bread", "the quiet blue river", "seven trains", "lemons at dawn"),
        ("today", "under the moon"),
    )
]
"""120 sentences of several lengths; the hash leaves 4 of them for validation."""


def corpus(folder: Path) -> Path:
    """`SENTENCES` as a file."""
    path = folder / "sentences.txt"
    if not path.is_file():
        path.write_text("\n".join(SENTENCES), encoding="utf-8")
    return path


def settings(folder: Path, name: str, **changes: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run of seconds in `folder/name`, with `changes` in its sections.

    Encoder and decoder are made from scratch, the decoder without warm-up; word dropout is on.
    """
    width = {"hidden_size": 16, "layers": 1, "heads": 2, "ffn": 16, "vocabulary": 300}
    sections: dict[str, dict[str, Any]] = {
        "corpus": {"name": str(corpus(folder))},
        "encoder": {"scratch": width, "training": "full"},
        "decoder": {"scratch": {**width, "warmup_steps": 0}, "max_tokens": 24},
        "latent": {"dim": 4, "slots": 2, "hidden": 8},
        "objective": {"schedule": "constant", "beta": 0.5, "word_dropout": 0.3},
        "optimisation": {"steps": 10, "batch_size": 4, "warmup_steps": 2, "learning_rate": 0.01},
        "evaluation": {"every": 10, "sentences": 4, "decoded": 2},
        "output": {"folder": str(folder / name), "log_every": 1, "save_every": 3},
    }
    for section, values in changes.items():
        sections[section] = {**sections[section], **values}
    return sections


def recipe(folder: Path, name: str, **changes: dict[str, Any]) -> Recipe:
    """`settings` as a recipe."""
    return parse_recipe(settings(folder, name, **changes))


def quick(values: Recipe | dict[str, Any], resume: bool = False) -> TrainResult:
    """Train without a word."""
    wanted = values if isinstance(values, Recipe) else parse_recipe(values)
    return train(wanted, resume=resume, progress=False)


def log(result: TrainResult | Path) -> list[dict[str, Any]]:
    """Lines of a run's log."""
    folder = result if isinstance(result, Path) else result.folder
    text = (folder / "log.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def curve(result: TrainResult | Path) -> list[dict[str, Any]]:
    """The log without what the speed of the machine decides."""
    return [{k: v for k, v in line.items() if k != "sentences_per_second"} for line in log(result)]


# ------------------------------------------------------------------------------- other processes


def interrupted(
    values: dict[str, Any], cache: Path, step: int, how: signal.Signals, warm_up: bool = False
) -> int | None:
    """Train in another process that gets a signal during a step; returns its exit status.

    Args:
        values: Settings of the run.
        cache: Its `LLAMAVAE_CACHE`.
        step: Optimiser step, counted from 0, in whose forward pass the signal comes.
        how: The signal.
        warm_up: It comes in the decoder's warm-up.
    """
    process = _CONTEXT.Process(target=_child, args=(values, str(cache), step, how, warm_up))
    process.start()
    process.join(100)
    return process.exitcode


def _child(values: dict[str, Any], cache: str, step: int, how: int, warm_up: bool) -> None:
    warnings.simplefilter("error")
    os.environ["LLAMAVAE_CACHE"] = os.environ["HF_DATASETS_CACHE"] = cache
    compute_loss = SentenceTrainer.compute_loss

    def with_signal(self: SentenceTrainer, *args: Any, **options: Any) -> Any:
        if self.state.global_step == step and isinstance(self, _LanguageModelTrainer) == warm_up:
            os.kill(os.getpid(), how)
        return compute_loss(self, *args, **options)

    SentenceTrainer.compute_loss = with_signal
    try:
        quick(values)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def together(jobs: Jobs, cache: Path, count: int = 2) -> bool:
    """Train in processes that find one another as those of `torchrun` do; returns whether they did.

    Args:
        jobs: Runs, one after the other: their settings, and whether to resume.
        cache: Their `LLAMAVAE_CACHE`.
        count: Number of processes.
    """
    group = start(jobs, cache, count)
    for process in group:
        process.join(250)
        process.kill()  # one that waits for another in vain
    return all(process.exitcode == 0 for process in group)


def start(jobs: Jobs, cache: Path, count: int) -> list[Any]:
    """The processes of `together`, which are not waited for."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    group = []
    for rank in range(count):
        where = {**common, "MASTER_ADDR": "localhost", "RANK": rank, "LOCAL_RANK": rank}
        environment = {**where, "LLAMAVAE_CACHE": cache, "HF_DATASETS_CACHE": cache}
        strings = {name: str(value) for name, value in environment.items()}
        group.append(_CONTEXT.Process(target=_member, args=(jobs, strings)))
        group[-1].start()
    return group


def _member(jobs: Jobs, environment: dict[str, str]) -> None:
    warnings.simplefilter("error")
    os.environ.update(environment)
    for values, resume in jobs:
        quick(values, resume)
