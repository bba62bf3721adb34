"""Recall and time of an index of latent codes, beside exact search and a graph of neighbours.

    python -m benchmarks.index --codes 1000000

The codes are posterior samples of `mini` for definitions of WordNet, and the queries are posterior
means of other definitions. Times are seconds of the processor, which other work changes little.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from llamavae import LlaMaVAE
from llamavae.corpora import load_corpus
from llamavae.index import build_codes
from llamavae.provenance import provenance

_QUERIES, _K = 200, 10


def samples(n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Codes (n, D) and queries (Q, D), of length 1."""
    model = LlaMaVAE.from_pretrained("mini")
    texts = load_corpus("wordnet", "train", limit=20_000, seed=0)["text"][:]
    queries = load_corpus("wordnet", "test", limit=_QUERIES, seed=0)["text"][:]
    posterior = model.encode(list(texts), 256)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(texts), (n,), generator=generator)
    spread = (posterior.logvar / 2).exp()
    codes = torch.empty(n, posterior.mean.shape[1])
    for start in range(0, n, 100_000):
        part = rows[start : start + 100_000]
        noise = torch.randn(len(part), codes.shape[1], generator=generator)
        codes[start : start + 100_000] = posterior.mean[part] + spread[part] * noise
    unit = torch.nn.functional.normalize
    return unit(codes, dim=1).numpy(), unit(model.encode(list(queries)).mean, dim=1).numpy()


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a function, and its processor time in seconds."""
    begin = time.process_time()
    return work(), time.process_time() - begin


def measure(n: int, graph: bool) -> dict[str, Any]:
    """Build and search; the results as JSON values."""
    codes, queries = samples(n)
    exact = faiss.IndexFlatIP(codes.shape[1])
    exact.add(codes)
    (_, best), seconds = timed(lambda: exact.search(queries, _K))
    found: dict[str, Any] = {"exact": {"ms per query": 1000 * seconds / len(queries)}}

    def searched(index: Any) -> dict[str, float]:
        numbers, seconds = timed(
            lambda: np.concatenate([index.search(q[None], _K)[1] for q in queries])
        )
        hits = sum(len(set(a) & set(b)) for a, b in zip(best, numbers, strict=True))
        return {"recall@10": hits / best.size, "ms per query": 1000 * seconds / len(queries)}

    index, seconds = timed(lambda: build_codes(codes, 0))
    found["cells"] = {"number": index.nlist, "build seconds": seconds}
    for probes in (1, 8, 16, 32, 64, 128):
        index.nprobe = probes
        found["cells"][f"{probes} probes"] = searched(index)
    if graph:
        index = faiss.IndexHNSWFlat(codes.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
        _, seconds = timed(lambda: index.add(codes))
        found["graph"] = {"build seconds": seconds}
        for width in (16, 64, 256):
            index.hnsw.efSearch = width
            found["graph"][f"width {width}"] = searched(index)
    return {"codes": n, **found, "made by": provenance()}


def main() -> None:
    """Print the results."""
    parser = argparse.ArgumentParser(description="Recall and time of an index.")
    parser.add_argument("--codes", type=int, default=1_000_000)
    parser.add_argument("--graph", action="store_true", help="also a graph of neighbours (HNSW)")
    given = parser.parse_args()
    print(json.dumps(measure(given.codes, given.graph), indent=2))


if __name__ == "__main__":
    main()
