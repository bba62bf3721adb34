"""Sentences that are read during training, from a corpus beyond memory.

The corpus is read in a fixed number of shards. Each optimiser step takes as many sentences from
each, and each process reads only the shards whose sentences it trains on. So a run is the same on
any number of processes. In a shard, blocks of sentences are shuffled and batched by length. A
position is a block's beginning in the corpus and a number of batches of the block, so a run resumes
at the exact sentence after reading one block.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from math import gcd
from typing import Any

import datasets
import numpy as np
from datasets.distributed import split_dataset_by_node
from torch.utils.data import IterableDataset

from llamavae.data.batches import Item, by_length, by_tokens
from llamavae.data.vector_cache import VectorCache
from llamavae.errors import UserError
from llamavae.modeling import TextDecoder

SHARDS = 8
"""Default number of shards, where the batch size and the corpus allow it."""

Position = dict[str, Any]
"""Where a shard is: `pass`, `block`, the `source` of the block in the corpus, and its `batches`
that are done."""


Slice = tuple[int, int, int]
"""A shard, and the first row and the end of what is taken of its batch."""


@dataclass(frozen=True)
class Layout:
    """How the sentences of an optimiser step are divided into shards, processes and micro-batches.

    Args:
        batch_size: Sentences of a step, over all processes.
        micro_batch_size: Sentences of a forward pass on one process.
        shards: Number of shards.
        processes: Number of processes.
        process: Number of this process.

    Raises:
        UserError: The shards do not divide the batch.
    """

    batch_size: int
    micro_batch_size: int
    shards: int
    processes: int = 1
    process: int = 0

    def __post_init__(self) -> None:
        if self.batch_size % self.shards:
            raise UserError(
                f"optimisation.batch_size {self.batch_size} is not a multiple of corpus.shards "
                f"{self.shards}, of which each gives as many sentences. Change one of them"
            )

    @property
    def rows(self) -> int:
        """Sentences of a step from one shard."""
        return self.batch_size // self.shards

    def micro_batches(self) -> list[list[Slice]]:
        """The slices of shards in each micro-batch of this process in a step."""
        size = self.micro_batch_size
        count = self.batch_size // (size * self.processes)
        firsts = [(i * self.processes + self.process) * size for i in range(count)]
        return [self._slices(first, first + size) for first in firsts]

    def _slices(self, first: int, end: int) -> list[Slice]:
        """The slices of shards that hold these sentences of a step."""
        rows = self.rows
        return [
            (shard, max(first - shard * rows, 0), min(end - shard * rows, rows))
            for shard in range(first // rows, -(-end // rows))
        ]


def stream_layout(
    corpus: datasets.IterableDataset,
    batch_size: int,
    micro_batch_size: int | None = None,
    shards: int | None = None,
    processes: int = 1,
    process: int = 0,
    limited: bool = False,
) -> Layout:
    """The layout of a run over a stream.

    Args:
        corpus: The corpus.
        batch_size: As for `Layout`.
        micro_batch_size: As for `Layout`; None for the whole share of a process.
        shards: As for `Layout`; None for at most 8 that divide the batch and the corpus.
        processes: As for `Layout`.
        process: As for `Layout`.
        limited: Whether the tokens of a micro-batch are limited, so that it is one shard.

    Raises:
        UserError: See `Layout`.
    """
    micro = micro_batch_size or max(1, batch_size // processes)
    if shards is None:
        shards = batch_size // micro if limited else gcd(SHARDS, batch_size, corpus.num_shards)
    return Layout(batch_size, micro, shards, processes, process)


@dataclass(eq=False, repr=False)
class SentenceStream(IterableDataset[list[Item]]):
    """An endless stream of micro-batches of a corpus, tokenised and batched by length on the fly.

    The first sentence of each micro-batch has `position`, the positions of the shards after its
    optimiser step, as JSON.

    Args:
        corpus: The sentences, in a column `text`.
        decoder: Tokenises the sentences.
        layout: Which sentences this process takes.
        seed: Seed of the order.
        buffer: Number of sentences that are shuffled together, over all shards.
        tokens: Maximum number of padded tokens of a micro-batch, which then has fewer sentences
            than the layout allows; None for no limit. Each shard must be one micro-batch.
        cache: Vectors of a frozen encoder, which are kept on disk; None if the encoder runs in the
            training step.
    """

    corpus: datasets.IterableDataset
    decoder: TextDecoder
    layout: Layout
    seed: int = 0
    buffer: int = 10_000
    tokens: int | None = None
    cache: VectorCache | None = None
    positions: dict[int, Position] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layout = self.layout
        if self.tokens is not None and layout.micro_batch_size != layout.rows:
            raise UserError(
                "optimisation.batch_tokens limits a micro-batch, which is a shard of its own. Set "
                f"corpus.shards to {layout.batch_size // layout.micro_batch_size}, or omit it"
            )

    @property
    def shards(self) -> list[int]:
        """The shards that this process reads."""
        return sorted({shard for micro in self.layout.micro_batches() for shard, *_ in micro})

    def load_positions(self, positions: Mapping[int, Position]) -> None:
        """Continue after these positions, instead of at the beginning.

        Args:
            positions: Maps the number of each shard of the run to its position.

        Raises:
            UserError: They are of another number of shards.
        """
        if positions and sorted(positions) != list(range(self.layout.shards)):
            micro = self.layout.batch_size // len(positions)
            raise UserError(
                f"the run read its corpus in {len(positions)} shards; now there would be "
                f"{self.layout.shards}. "
                + (
                    "The files of the corpus have changed: restore them, or start a new run"
                    if self.tokens is None
                    else f"Set optimisation.micro_batch_size to {micro}, as it was"
                )
            )
        self.positions = dict(positions)

    def sample(self, number: int) -> list[str]:
        """Some sentences of the corpus, chosen at random from its beginning."""
        shuffled = self.corpus.shuffle(seed=self.seed, buffer_size=self.buffer)
        return [str(row["text"]) for row in islice(shuffled, number)]

    def __iter__(self) -> Iterator[list[Item]]:
        shards = {shard: self._batches(shard, self.positions.get(shard)) for shard in self.shards}
        micro_batches = self.layout.micro_batches()
        while True:
            step = {shard: next(batches) for shard, batches in shards.items()}
            position = json.dumps({shard: after for shard, (_, after) in step.items()})
            for slices in micro_batches:
                items = [item for shard, a, b in slices for item in step[shard][0][a:b]]
                yield [{**items[0], "position": position}, *items[1:]]

    def _batches(self, shard: int, start: Position | None) -> Iterator[tuple[list[Item], Position]]:
        """The batches of a shard, each with the position after it."""
        for block, texts in self._blocks(shard, start):
            items, lengths = self._items(texts)
            random = np.random.default_rng([self.seed, block["block"]])
            order = self._order(lengths, random)
            skipped = (
                start["batches"] if start is not None and start["block"] == block["block"] else 0
            )
            for number, rows in enumerate(order[skipped:], skipped + 1):
                yield [items[int(row)] for row in rows], {**block, "batches": number}

    def _order(self, lengths: np.ndarray, random: np.random.Generator) -> Sequence[np.ndarray]:
        """The rows of each batch of a block; the last ones are completed with repeated rows."""
        rows = self.layout.rows
        order = random.permutation(len(lengths))
        if self.tokens is not None:
            return by_tokens(order, lengths[order], rows, self.tokens, random)
        order = np.resize(order, -(-len(order) // rows) * rows)
        return list(by_length(order, lengths[order], rows, random))

    def _items(self, texts: list[str]) -> tuple[list[Item], np.ndarray]:
        ids, _ = self.decoder.tokenize(texts)
        items = [{"text": text, "ids": row} for text, row in zip(texts, ids, strict=True)]
        if self.cache is not None:
            for item, vector in zip(items, self.cache.vectors(texts), strict=True):
                item["vector"] = vector
        return items, np.array([len(row) for row in ids])

    def _blocks(self, shard: int, start: Position | None) -> Iterator[tuple[Position, list[str]]]:
        """The blocks of a shard with the position of their beginning, in endless passes."""
        rows = self.layout.rows
        size = max(1, self.buffer // self.layout.shards // rows) * rows
        number = 0 if start is None else int(start["pass"])
        block = 0 if start is None else int(start["block"])
        source = None if start is None else start["source"]
        while True:
            corpus = self._part(shard, number)
            if source is not None:
                with _quiet():
                    corpus.load_state_dict(copy.deepcopy(source))
            texts = (str(row["text"]) for row in iter(corpus))
            empty = source is None
            while True:
                source = corpus.state_dict()
                if not (found := list(islice(texts, size))):
                    break
                empty = False
                yield {"pass": number, "block": block, "source": source}, found
                block += 1
            if empty:
                raise UserError(
                    f"expected a streamed corpus with sentences in each of {self.layout.shards} "
                    f"shards; got an empty one for shard {shard}. Set corpus.shards to 1, or set "
                    "corpus.streaming to false"
                )
            number, source = number + 1, None

    def _part(self, shard: int, number: int) -> datasets.IterableDataset:
        """The sentences of a shard in a pass.

        The files or row groups are in another order in each pass, except that a cache of vectors
        needs the same blocks each time.
        """
        corpus = self.corpus
        if corpus.num_shards > 1:
            corpus = corpus.shuffle(seed=self.seed, buffer_size=1)
            corpus.set_epoch(0 if self.cache is not None else number)
        return split_dataset_by_node(corpus, shard, self.layout.shards)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning of `datasets` about shuffle buffers; one of size 1 loses nothing."""
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
