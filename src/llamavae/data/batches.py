"""Batches of sentences of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from llamavae.modeling import SentenceEncoder, TextDecoder

GROUP = 50  # number of batches that are sorted by length together

Item = dict[str, Any]
"""A sentence: its text, token ids and, if known, its vectors."""


class Collator:
    """Collates sentences to the inputs of `LlaMaVAE.forward`, padded to the longest of the batch.

    What the model does not use is passed on: the vectors of a teacher as `teacher_vectors` (B, K),
    and the `position` of a stream.

    Args:
        decoder: Pads the ids.
        encoder: Tokenises the texts if there are no vectors; None for a plain language model.
    """

    def __init__(self, decoder: TextDecoder, encoder: SentenceEncoder | None = None) -> None:
        self.decoder, self.encoder = decoder, encoder

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        """Inputs of these sentences; without vectors, these include the inputs of the encoder."""
        ids, mask = self.decoder.pad([item["ids"] for item in items])
        batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if "vector" in items[0]:
            batch["sentence_vectors"] = torch.from_numpy(np.stack([i["vector"] for i in items]))
        elif self.encoder is not None:
            batch["encoder_inputs"] = self.encoder.tokenize([item["text"] for item in items])
        if "teacher" in items[0]:
            batch["teacher_vectors"] = torch.from_numpy(np.stack([i["teacher"] for i in items]))
        if "position" in items[0]:
            batch["position"] = items[0]["position"]
        return batch


class LengthGroupedSampler(Sampler[int]):
    """The order of the sentences in a run: each global batch holds sentences of similar length.

    The order depends only on the seed and not on the number of processes: the global batches, which
    are divided among processes, are the same everywhere. Each pass over the corpus contains every
    sentence at least once; its last batch is completed with repeated sentences. The sampler makes
    as many passes as the steps require.

    Args:
        lengths: Number of tokens of each sentence, shape (N,).
        batch_size: Number of sentences per optimiser step, over all processes and accumulation.
        steps: Number of optimiser steps of the run; None for one pass.
        seed: Seed of the order.
    """

    def __init__(
        self, lengths: np.ndarray, batch_size: int, steps: int | None = None, seed: int = 0
    ) -> None:
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.steps = steps_per_epoch(len(lengths), batch_size) if steps is None else steps

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[int]:
        passes = (self.epoch(number) for number in count())
        return islice(chain.from_iterable(p.ravel().tolist() for p in passes), len(self))

    def epoch(self, number: int) -> np.ndarray:
        """Indices of the sentences in each batch of a pass, shape (steps, batch size)."""
        random = np.random.default_rng([self.seed, number])
        rows = len(self.lengths)
        total = steps_per_epoch(rows, self.batch_size) * self.batch_size
        order = np.resize(random.permutation(rows), total)
        return by_length(order, self.lengths[order], self.batch_size, random)


def steps_per_epoch(sentences: int, batch_size: int) -> int:
    """Number of optimiser steps of one pass over all sentences."""
    return -(-sentences // batch_size)


def by_length(
    order: np.ndarray, lengths: np.ndarray, batch_size: int, random: np.random.Generator
) -> np.ndarray:
    """Batches of `order` (steps, batch size): sorted by length in groups, then shuffled."""
    batches = []
    for start in range(0, len(order), GROUP * batch_size):
        part = slice(start, start + GROUP * batch_size)
        by_length = order[part][np.argsort(lengths[part], kind="stable")]
        batches.append(by_length.reshape(-1, batch_size))
    return random.permutation(np.concatenate(batches))


def by_tokens(
    order: np.ndarray, lengths: np.ndarray, rows: int, tokens: int, random: np.random.Generator
) -> list[np.ndarray]:
    """Batches of `order` of at most so many rows and padded tokens, sorted as by `by_length`.

    A sentence that is longer than the limit is a batch of its own.
    """
    batches: list[np.ndarray] = []
    for start in range(0, len(order), GROUP * rows):
        part = slice(start, start + GROUP * rows)
        ranks = np.argsort(lengths[part], kind="stable")
        ordered, sizes = order[part][ranks], lengths[part][ranks]
        first = 0
        for end in range(1, len(ordered) + 1):
            full = end == len(ordered) or end - first == rows
            if full or (end + 1 - first) * sizes[end] > tokens:
                batches.append(ordered[first:end])
                first = end
    return [batches[int(i)] for i in random.permutation(len(batches))]
