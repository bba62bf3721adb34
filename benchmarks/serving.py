"""Load test of `llamavae serve`: latency, throughput, memory, and whether every text is right.

    python -m benchmarks.serving --model mini --workers 2 --clients 64 --seconds 60

Each client reconstructs one random sentence after the other. Every answer is compared with the text
of the same sentence reconstructed alone. The reference for the throughput is one call of
`LlaMaVAE.reconstruct` with as many sentences, with one thread or with PyTorch's number of threads,
whichever is faster. Both are measured in alternation, so that other work on the machine slows both,
and also by their processor time. The clients run on the same machine as the service, in the process
that measures the reference.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import numpy as np
import psutil
import torch

from llamavae import LlaMaVAE
from llamavae.corpora import load_corpus
from llamavae.provenance import provenance

_RETRY = 0.1  # seconds after an answer with status 429


@dataclass
class Load:
    """What the clients have seen.

    Attributes:
        seconds: Latency of each answered request.
        statuses: Number of answers by status.
        wrong: Number of texts that differ from those of the sentence alone.
        memory: Resident memory of the service in MiB, about once a second.
        processor: Seconds of processor time by kind of process: `http`, `models` and `clients`.
        batches: Numbers of batches and of the texts in them.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    memory: list[float] = field(default_factory=list)
    processor: Counter[str] = field(default_factory=Counter)
    batches: Counter[str] = field(default_factory=Counter)


def start(model: str, workers: int, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The service as a process whose log goes to a file, and its URL."""
    command = [sys.executable, "-m", "llamavae", "serve", "--model", model, "--port", "0"]
    command += ["--workers", str(workers), "--definitions", "none"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file)
    while process.poll() is None:
        if found := re.search(r"http://\S+", log.read_text(encoding="utf-8")):
            return process, found[0]
        time.sleep(0.1)
    raise RuntimeError(f"the service did not start: {log.read_text(encoding='utf-8')}")


async def run_load(
    load: Load, url: str, expected: dict[str, str], clients: int, seconds: float, pid: int
) -> None:
    """Send requests for a time.

    Args:
        load: Where the results are added.
        url: The service.
        expected: Maps sentences to their reconstructions.
        clients: Number of clients at once.
        seconds: Duration.
        pid: Process of the service.
    """
    sentences = list(expected)
    end = time.monotonic() + seconds

    async def client(number: int, session: aiohttp.ClientSession) -> None:
        choice = random.Random(number)
        while time.monotonic() < end:
            sentence = choice.choice(sentences)
            begin = time.perf_counter()
            async with session.post("/v1/reconstruct", json={"texts": sentence}) as answer:
                found = await answer.json()
            load.seconds.append(time.perf_counter() - begin)
            load.statuses[answer.status] += 1
            if answer.status == 200:
                load.wrong += found["texts"][0]["text"] != expected[sentence]
            else:
                await asyncio.sleep(_RETRY)

    async def watch() -> None:
        while time.monotonic() < end:
            load.memory.append(_resident(pid))
            await asyncio.sleep(1)

    connector = aiohttp.TCPConnector(limit=clients)
    timeout = aiohttp.ClientTimeout(120)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        before, batches = _processor(pid), await _batches(session)
        await asyncio.gather(watch(), *(client(n, session) for n in range(clients)))
        load.processor.update({k: v - before[k] for k, v in _processor(pid).items()})
        load.batches.update({k: int(v - batches[k]) for k, v in (await _batches(session)).items()})


async def _batches(session: aiohttp.ClientSession) -> dict[str, float]:
    async with session.get("/metrics") as answer:
        text = await answer.text()
    found = re.findall(r"^llamavae_batch_items_(count|sum) (\S+)", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def _processes(pid: int) -> dict[str, list[psutil.Process]]:
    service = psutil.Process(pid)
    models = [c for c in service.children() if "resource_tracker" not in " ".join(c.cmdline())]
    return {"http": [service], "models": models}


def _resident(pid: int) -> float:
    found = _processes(pid).values()
    return sum(each.memory_info().rss for kind in found for each in kind) / 2**20


def _processor(pid: int) -> dict[str, float]:
    found = {
        name: float(sum(sum(each.cpu_times()[:2]) for each in kind))
        for name, kind in _processes(pid).items()
    }
    return found | {"clients": time.process_time()}


def measure(
    model: str, workers: int, clients: int, seconds: float, texts: int, rounds: int
) -> dict[str, Any]:
    """Run the load test; the results as JSON values."""
    vae = LlaMaVAE.from_pretrained(model)
    sentences = list(load_corpus("factors", "test", limit=texts, seed=0)["text"])
    expected = {sentence: vae.reconstruct(sentence)[0] for sentence in sentences}
    load, rates = Load(), []
    offline: dict[int, list[tuple[float, float]]] = {
        threads: [] for threads in (1, torch.get_num_threads())
    }
    with tempfile.TemporaryDirectory() as folder:
        process, url = start(model, workers, Path(folder) / "log")
        try:
            while httpx2.get(f"{url}/health").json()["workers"] < workers:
                time.sleep(0.1)
            asyncio.run(run_load(Load(), url, expected, clients, 2, process.pid))  # warm-up
            vae.reconstruct(sentences)
            for _ in range(rounds):
                for threads, found in offline.items():
                    torch.set_num_threads(threads)
                    begin, used = time.perf_counter(), time.process_time()
                    vae.reconstruct(sentences)
                    found.append((time.perf_counter() - begin, time.process_time() - used))
                done, begin = load.statuses[200], time.perf_counter()
                asyncio.run(run_load(load, url, expected, clients, seconds / rounds, process.pid))
                rates.append((load.statuses[200] - done) / (time.perf_counter() - begin))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    answered = load.statuses[200]
    percentiles = np.percentile(load.seconds, (50, 95, 99)) if load.seconds else [0.0] * 3
    half = len(load.memory) // 2
    threads = min(offline, key=lambda n: float(np.median([wall for wall, _ in offline[n]])))
    alone = len(sentences) / np.array(offline[threads])
    return {
        "workers": workers,
        "clients": clients,
        "seconds": seconds,
        "statuses": dict(load.statuses),
        "wrong texts": load.wrong,
        **{f"p{p} seconds": float(v) for p, v in zip((50, 95, 99), percentiles, strict=True)},
        "texts per second": float(np.median(rates)),
        "offline threads": threads,
        "offline texts per second": float(np.median(alone[:, 0])),
        "texts per batch": load.batches["sum"] / load.batches["count"],
        "ratio to offline": float(np.median(np.array(rates) / alone[:, 0])),
        "processor ms per text": {
            "offline": float(1000 / np.median(alone[:, 1])),
            **{name: 1000 * used / answered for name, used in load.processor.items()},
        },
        "memory MiB, first and second half": [
            float(np.max(part)) for part in (load.memory[:half], load.memory[half:]) if part
        ],
        "made by": provenance(),
    }


def main() -> None:
    """Print the results of the load test."""
    parser = argparse.ArgumentParser(description="Load test of llamavae serve.")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--workers", type=int, default=2, help="processes with the model")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--texts", type=int, default=500, help="number of different sentences")
    parser.add_argument("--rounds", type=int, default=4, help="alternations with the reference")
    given = parser.parse_args()
    found = measure(
        given.model, given.workers, given.clients, given.seconds, given.texts, given.rounds
    )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
