"""Load test of `llamavae serve`: latency, throughput, memory, and whether every text is right.

    python -m benchmarks.serving --model mini --clients 64 --seconds 60

Each client reconstructs one random sentence after the other. Every answer is compared with the text
of the same sentence reconstructed alone. The reference for the throughput is one call of
`LlaMaVAE.reconstruct` with as many sentences, in the same process before the service starts, so
with the same number of threads; the clients run on the same machine as the service.
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

import httpx2
import numpy as np

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
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    memory: list[float] = field(default_factory=list)


def start(model: str, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The service as a process whose log goes to a file, and its URL."""
    command = [sys.executable, "-m", "llamavae", "serve", "--model", model, "--port", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--definitions", "none"], stderr=file)
    while process.poll() is None:
        if found := re.search(r"http://\S+", log.read_text(encoding="utf-8")):
            return process, found[0]
        time.sleep(0.1)
    raise RuntimeError(f"the service did not start: {log.read_text(encoding='utf-8')}")


async def run_load(
    url: str, expected: dict[str, str], clients: int, seconds: float, pid: int
) -> Load:
    """Send requests for a time.

    Args:
        url: The service.
        expected: Maps sentences to their reconstructions.
        clients: Number of clients at once.
        seconds: Duration.
        pid: Process of the service.
    """
    load, sentences = Load(), list(expected)
    end = time.monotonic() + seconds

    async def client(number: int, session: httpx2.AsyncClient) -> None:
        choice = random.Random(number)
        while time.monotonic() < end:
            sentence = choice.choice(sentences)
            begin = time.perf_counter()
            answer = await session.post("/v1/reconstruct", json={"texts": sentence})
            load.seconds.append(time.perf_counter() - begin)
            load.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                load.wrong += answer.json()["texts"][0]["text"] != expected[sentence]
            else:
                await asyncio.sleep(_RETRY)

    async def watch() -> None:
        while time.monotonic() < end:
            load.memory.append(_resident(pid))
            await asyncio.sleep(1)

    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(base_url=url, timeout=120, limits=limits) as session:
        while (await session.get("/health")).status_code != 200:
            await asyncio.sleep(0.1)
        await asyncio.gather(watch(), *(client(n, session) for n in range(clients)))
    return load


def _resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def measure(model: str, clients: int, seconds: float, texts: int) -> dict[str, Any]:
    """Run the load test; the results as JSON values."""
    vae = LlaMaVAE.from_pretrained(model)
    sentences = list(load_corpus("factors", "test", limit=texts, seed=0)["text"])
    expected = {sentence: vae.reconstruct(sentence)[0] for sentence in sentences}
    vae.reconstruct(sentences)
    begin = time.perf_counter()
    vae.reconstruct(sentences)
    offline = len(sentences) / (time.perf_counter() - begin)
    with tempfile.TemporaryDirectory() as folder:
        process, url = start(model, Path(folder) / "log")
        try:
            load = asyncio.run(run_load(url, expected, clients, seconds, process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    answered = load.statuses[200]
    percentiles = np.percentile(load.seconds, (50, 95, 99)) if load.seconds else [0.0] * 3
    half = len(load.memory) // 2
    return {
        "clients": clients,
        "seconds": seconds,
        "statuses": dict(load.statuses),
        "wrong texts": load.wrong,
        **{f"p{p} seconds": float(v) for p, v in zip((50, 95, 99), percentiles, strict=True)},
        "texts per second": answered / seconds,
        "offline texts per second": offline,
        "ratio to offline": answered / seconds / offline,
        "memory MiB, first and second half": [
            float(np.max(part)) for part in (load.memory[:half], load.memory[half:]) if part
        ],
        "made by": provenance(),
    }


def main() -> None:
    """Print the results of the load test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--texts", type=int, default=500, help="number of different sentences")
    given = parser.parse_args()
    found = measure(given.model, given.clients, given.seconds, given.texts)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
