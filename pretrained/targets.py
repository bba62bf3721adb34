"""Are refined codes of training sentences good targets for the encoder?

    python -m pretrained.targets NAME --sentences 800 --epochs 4 --output FOLDER

Refines the codes of training definitions of WordNet, then trains the encoder and the posterior of
the model NAME on these sentences, the decoder frozen, in one of two ways: on the bound (the NLL of
the sentence at a draw, plus beta times the KL), or on the squared distance between the posterior
mean and the refined code, in the units of the posterior's own standard deviation. Prints what the
encoder's codes of held-out definitions are worth before and after, as JSON lines.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llamavae import LlaMaVAE
from llamavae.corpora import load_corpus
from llamavae.files import write_json
from llamavae.metrics.control import derangement
from llamavae.metrics.ngrams import corpus_bleu
from llamavae.modeling.likelihood import sentence_nll

WORDS, HELD_OUT, STEPS, BATCH, BETA, SEED = 16, 200, 10, 32, 0.01, 0
RATES = {"encoder": 1e-4, "posterior": 1e-4}


def main() -> None:
    """Refine, train in both ways, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("name")
    parser.add_argument("--sentences", type=int, default=800)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    texts = {
        split: list(load_corpus("wordnet", split, max_words=WORDS, limit=n, seed=SEED)["text"])
        for split, n in (("train", given.sentences), ("test", HELD_OUT))
    }
    targets = refined_codes(given.name, texts["train"], given.output)
    rows = [{"trained on": "nothing", **quality(LlaMaVAE.from_pretrained(given.name), texts)}]
    print(json.dumps(rows[-1]), flush=True)
    for way, codes in (("the bound", None), ("refined codes", targets)):
        vae = LlaMaVAE.from_pretrained(given.name)
        seconds = train(vae, texts["train"], codes, given.epochs)
        rows.append({"trained on": way, **quality(vae, texts), "processor seconds": seconds})
        print(json.dumps(rows[-1]), flush=True)
    write_json(given.output / "results.json", rows)


def refined_codes(name: str, texts: Sequence[str], folder: Path) -> Tensor:
    """Refined codes (N, D) of the texts, kept in the folder."""
    place = folder / "codes.npy"
    if not place.exists():
        vae = LlaMaVAE.from_pretrained(name)
        started = time.process_time()
        codes = vae.refine(texts, STEPS, variance=False, progress=lambda i, n: print(i, n)).mean
        print(
            f"refined {len(texts)} texts in {time.process_time() - started:.0f} processor seconds"
        )
        folder.mkdir(parents=True, exist_ok=True)
        np.save(place, codes.numpy())
    codes = torch.from_numpy(np.load(place))
    if len(codes) != len(texts):
        raise SystemExit(f"{place} has {len(codes)} codes for {len(texts)} texts; remove it")
    return codes


def train(vae: LlaMaVAE, texts: Sequence[str], codes: Tensor | None, epochs: int) -> float:
    """Train the encoder and the posterior on the bound, or on given codes; processor seconds."""
    assert vae.encoder is not None
    torch.manual_seed(SEED)
    vae.requires_grad_(False)
    parts = {"encoder": vae.encoder, "posterior": vae.posterior}
    groups = [{"params": [*parts[k].requires_grad_().parameters()], "lr": RATES[k]} for k in parts]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    total = epochs * -(-len(texts) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total)
    ids, _ = vae.decoder.tokenize(texts)
    started = time.process_time()
    for part in batches(len(texts), epochs):
        features = vae.encoder.tokenize([texts[i] for i in part])
        if codes is None:
            loss = vae(*vae.decoder.pad([ids[i] for i in part]), features, beta=BETA).loss
        else:
            posterior = vae.posterior(vae.encoder(features))
            error = (posterior.mean - codes[part]).square() / posterior.logvar.detach().exp()
            loss = error.sum(1).mean() / 2
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimiser.step()
        schedule.step()
    return time.process_time() - started


def batches(n: int, epochs: int) -> Iterator[list[int]]:
    """Numbers of the sentences of each batch, in a new order in each epoch."""
    generator = random.Random(SEED)
    for _ in range(epochs):
        order = generator.sample(range(n), n)
        yield from (order[i : i + BATCH] for i in range(0, n, BATCH))


def quality(vae: LlaMaVAE, texts: dict[str, list[str]]) -> dict[str, Any]:
    """BLEU, exact match and NLL of held-out texts at the encoder's means, with another's code."""
    test = texts["test"]
    z = vae.encode(test).mean
    other = z[derangement(len(test), torch.Generator().manual_seed(SEED))]
    ids, _ = vae.decoder.tokenize(test)
    written = vae.decode(z)
    return {
        "BLEU": corpus_bleu(written, test),
        "BLEU, another's code": corpus_bleu(vae.decode(other), test),
        "exact match": float(np.mean([a == b for a, b in zip(written, test, strict=True)])),
        "NLL": float(sentence_nll(vae, ids, z).mean()),
        "NLL, another's code": float(sentence_nll(vae, ids, other).mean()),
    }


if __name__ == "__main__":
    main()
