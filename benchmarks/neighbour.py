"""LangVAE 0.6.13, a neighbouring library, beside ours: see `langvae_worker.py`."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from benchmarks.bench import Bench, Settings
from benchmarks.cases import step
from benchmarks.measure import Ratio, compare, seconds

STEP_TARGET, EPOCH_TARGET = 2.4, 5.0  # times as fast
ABSENT = "not measured: set LANGVAE_PYTHON, see docs/benchmarks.md"


def python() -> str | None:
    """The interpreter of an environment with LangVAE."""
    return os.environ.get("LANGVAE_PYTHON")


class Worker:
    """A process that trains LangVAE step by step, with backbones of the same shape as ours.

    Args:
        bench: Makes the backbones.
        lines: Sentences of the batches in their order; the first batch only warms up.
    """

    def __init__(self, bench: Bench, lines: list[str]) -> None:
        settings = bench.settings
        self.folder = tempfile.TemporaryDirectory()
        place = Path(self.folder.name)
        self.log = (place / "log.txt").open("w+", encoding="utf-8", errors="replace")
        job = {
            "encoder": str(place / "encoder"),
            "decoder": str(place / "decoder"),
            "lines": lines,
            "latent": bench.latent_dim,
            "max_tokens": settings.tokens,
            "batch": settings.batch,
            "threads": settings.threads,
            "clock": settings.clock,
            "seed": settings.seed,
        }
        save_backbones(bench, place)
        (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
        interpreter = python()
        assert interpreter is not None
        self.process = subprocess.Popen(
            [interpreter, str(Path(__file__).with_name("langvae_worker.py")), place / "job.json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
        self.versions: dict[str, str] = self._reply()["versions"]
        self.step()

    def step(self) -> float:
        """Seconds of the next step."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the reply says why
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        return self._reply()["seconds"]

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return json.loads(line)
        status = self.process.wait()
        self.log.seek(0)
        last = self.log.read()[-2000:].strip()
        self.close()
        raise SystemExit(f"LangVAE ended with status {status}:\n{last}")

    def close(self) -> None:
        """End the process."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def save_backbones(bench: Bench, folder: Path) -> None:
    """Write the decoder and the encoder such that transformers 4.48 reads them."""
    for name in ("encoder", "decoder"):
        (folder / name).mkdir()
        bench.tokenizer.save_pretrained(folder / name)
        path = folder / name / "tokenizer_config.json"
        config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
        path.write_text(json.dumps(config))
    body: Any = bench.encoder()[0]
    body.auto_model.save_pretrained(folder / "encoder")
    bench.decoder().save_pretrained(folder / "decoder")
    path = folder / "decoder" / "config.json"
    config = json.loads(path.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))


def full_lines(bench: Bench, batches: int) -> list[str]:
    """Lines for batches of sentences that have as many tokens as a sentence may have."""
    words = [word for text in bench.texts for word in text.split()]
    count, size = batches * bench.settings.batch, bench.settings.tokens
    return [
        " ".join(words[(i + j) % len(words)] for j in range(size))  # a word is a token at least
        for i in range(0, count * size, size)
    ]


def sampled_lines(bench: Bench, batches: int) -> list[str]:
    """Batches spread evenly over an epoch that is sorted by length as in LangVAE's README.

    The longest batch comes first, once more, to warm up.
    """
    size = bench.settings.batch
    texts = sorted(bench.texts, key=lambda text: -len(bench.tokenizer.tokenize(text)))
    whole = max(1, len(texts) // size)
    chosen = [min(int((i + 0.5) * whole / batches), whole - 1) for i in range(batches)]
    return [texts[j % len(texts)] for i in (0, *chosen) for j in range(i * size, (i + 1) * size)]


def measure_step(settings: Settings, repeats: int) -> tuple[Ratio, dict[str, Any]]:
    """Steps of ours and of LangVAE in turn, on sentences of as many tokens; the first warms up."""
    bench = Bench(settings)
    ours = step(bench)
    with Worker(bench, full_lines(bench, 1 + repeats)) as langvae:
        seconds(bench, ours)
        pairs = [(1 / seconds(bench, ours), 1 / langvae.step()) for _ in range(repeats)]
    found = compare("langvae-step", "speed", "steps/s", pairs, STEP_TARGET)
    return found, {"versions": langvae.versions}
