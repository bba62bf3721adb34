"""Continuous batching: rows join and leave a decoding between two of its steps."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llamavae.errors import UserError, memory_errors
from llamavae.modeling.injection import Steering, can_exchange_rows, exchange_rows, steered_inputs
from llamavae.modes import evaluating

if TYPE_CHECKING:
    from llamavae.modeling.base import SentenceVAE

K = TypeVar("K", bound=Hashable)
_MIN_ENDED = 0.25  # proportion of ended rows at which they leave, since that copies the cache
_MIN_FREE = 0.125  # proportion of free rows at which codes join, for the same reason
_TOP_K = 50  # of transformers' `generate`


class Sampler:
    """Draws the tokens of one text as `generate` does with `do_sample` for a batch of one.

    Args:
        temperature: Sampling temperature, above 0.
        top_p: Nucleus sampling.
        seed: Seed of the draws; None draws one.
    """

    def __init__(
        self, temperature: float = 1.0, top_p: float = 1.0, seed: int | None = None
    ) -> None:
        warpers = [TemperatureLogitsWarper(float(temperature)), TopKLogitsWarper(_TOP_K)]
        self._warp = LogitsProcessorList([*warpers, TopPLogitsWarper(float(top_p))])
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def __call__(self, logits: Tensor) -> int:
        """A token drawn from logits (V,)."""
        earlier = cast(torch.LongTensor, torch.empty(1, 0, dtype=torch.long))  # is not used
        scores = self._warp(earlier, cast(torch.FloatTensor, logits[None].float().cpu()))
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))


@dataclass
class _Row(Generic[K]):
    """A text that is being decoded.

    Attributes:
        key: Its key.
        limit: Maximum number of new tokens; 0 once it is removed.
        sampler: Draws its tokens; None takes the most probable ones.
        start: Position in the cache of its first token.
        tokens: The new tokens.
    """

    key: K
    limit: int
    sampler: Sampler | None = None
    start: int = 0
    tokens: list[int] = field(default_factory=list)


class ContinuousBatch(Generic[K]):
    """Decoding of a changing set of codes, one token of each per step.

    A batch of `LlaMaVAE.generate` runs until its longest text has ended. Here, a row leaves after
    its own last token, and a new one takes part from the next step on (iteration-level scheduling,
    Yu et al., OSDI 2022). The rows share one cache of keys and values. A row that joins later does
    not attend to the positions before it, and its own positions begin with 0. The texts are those
    of `LlaMaVAE.decode`, up to rounding.

    Args:
        vae: The model; see `supports`.
    """

    def __init__(self, vae: SentenceVAE) -> None:
        self._vae, self._decoder = vae, vae.decoder
        self._rows: list[_Row[K]] = []
        self._steering = Steering()
        self._new: list[tuple[list[_Row[K]], Steering]] = []
        self._cache = DynamicCache()
        self._length = 0  # positions of text in the cache

    @staticmethod
    def supports(vae: SentenceVAE) -> bool:
        """Whether z is injected as memory, into full attention with given positions, and greedily.

        A soft prompt needs a pass of its own before its row can join, and other caches (with a
        sliding window, of recurrent layers) have no position for each token of each row. Some
        decoders, such as BART's, count positions themselves.
        """
        steering = vae.steering(torch.zeros(1, vae.config.latent_dim))
        decoder, lm = vae.decoder, vae.decoder.lm
        # the positions of a row that joins later begin with 0
        positions = "position_ids" in inspect.signature(lm.forward).parameters
        exchange = steering.prompt is None and can_exchange_rows(lm, steering.memory)
        return exchange and positions and decoder.is_greedy

    def __len__(self) -> int:
        """Number of texts that are being decoded."""
        return sum(not self._ended(row) for row in self._rows) + sum(len(r) for r, _ in self._new)

    def add(
        self,
        keys: Sequence[K],
        z: Tensor,
        limit: int | None = None,
        samplers: Sequence[Sampler | None] | None = None,
    ) -> None:
        """Add codes, which take part from the next step on.

        Args:
            keys: A key for each text.
            z: Latent codes (B, D).
            limit: Maximum number of new tokens; by default the maximum length in training.
            samplers: For each code, what draws its tokens, or None for greedy decoding.

        Raises:
            UserError: The codes are not finite, or too large for the decoder. None is added.
        """
        limit = self._decoder.max_tokens if limit is None else limit
        each = zip(keys, samplers or [None] * len(keys), strict=True)
        self._new.append(([_Row(key, limit, one) for key, one in each], self._vae.steering(z)))

    def remove(self, keys: Sequence[K]) -> None:
        """Stop decoding texts; unknown keys are ignored."""
        gone = set(keys)
        for row in (*self._rows, *(row for rows, _ in self._new for row in rows)):
            if row.key in gone:
                row.limit = 0

    @torch.no_grad()
    def step(self) -> list[tuple[K, str]]:
        """Decode one token of each row; returns the keys and texts of those that have ended."""
        decoder = self._decoder
        self._exchange()
        if not self._rows:
            return []
        last = [row.tokens[-1] if row.tokens else decoder.tokens.bos for row in self._rows]
        starts = torch.tensor([[row.start] for row in self._rows])
        mask = (torch.arange(self._length + 1) >= starts).long()
        inputs = {
            "input_ids": torch.tensor(last)[:, None],
            "attention_mask": mask,
            "position_ids": self._length - starts,
        }
        inputs = {name: x.to(decoder.device) for name, x in inputs.items()}
        with evaluating(decoder), memory_errors("generation", "Use smaller batches"):
            steered = steered_inputs(
                decoder.lm, self._steering, **inputs, past_key_values=self._cache, use_cache=True
            )
            logits = decoder.lm(**steered).logits[:, -1]
        tokens = logits.argmax(-1).tolist()
        self._length += 1
        ended: list[_Row[K]] = []
        for i, row in enumerate(self._rows):
            if not self._ended(row):
                row.tokens.append(tokens[i] if row.sampler is None else row.sampler(logits[i]))
                if self._ended(row):
                    ended.append(row)
        if not len(self):
            self._rows, self._steering, self._cache = [], Steering(), DynamicCache()
        texts = decoder.texts([row.tokens for row in ended])
        return [(row.key, text) for row, text in zip(ended, texts, strict=True)]

    def _ended(self, row: _Row[K]) -> bool:
        return len(row.tokens) >= row.limit or row.tokens[-1:] == [self._decoder.tokens.eos]

    def _exchange(self) -> None:
        """Let rows that have ended leave, and new ones join."""
        kept = [i for i, row in enumerate(self._rows) if not self._ended(row)]
        new = [row for rows, _ in self._new for row in rows]
        ended = len(self._rows) - len(kept)
        if not new and (not ended or (kept and ended < _MIN_ENDED * len(self._rows))):
            return
        old = [self._rows[i] for i in kept]
        parts = [self._steering.select(kept)] if kept else []
        self._steering = Steering.cat([*parts, *(steering for _, steering in self._new)])
        # positions before the first token of every row are not needed any more
        lead = min((row.start for row in old), default=self._length)
        self._length -= lead
        if old:
            assert self._steering.memory is not None  # `supports`
            exchange_rows(self._cache, kept, lead, self._steering.memory)
        else:
            self._cache = DynamicCache(config=self._decoder.lm.config)
        for row in old:
            row.start -= lead
        for row in new:
            row.start = self._length
        self._rows, self._new = old + new, []


def decode_continuously(
    vae: SentenceVAE, z: Tensor, batch_size: int, limit: int | None = None
) -> Iterator[str]:
    """The greedy text of each code, in order; codes join as soon as texts have ended.

    Where texts differ in length, this is quicker than batches that run until their longest text has
    ended.

    Args:
        vae: The model; see `ContinuousBatch.supports`.
        z: Latent codes (B, D).
        batch_size: Maximum number of codes that are decoded at once.
        limit: Maximum number of new tokens; by default the maximum length in training.

    Raises:
        UserError: Codes are too large for the decoder; the texts of codes that joined before them
            are yielded first.
    """
    batch: ContinuousBatch[int] = ContinuousBatch(vae)
    texts: dict[int, str] = {}
    added = done = 0
    failed: Exception | None = None
    while done < len(z):
        free = batch_size - len(batch)
        if added < len(z) and free >= _MIN_FREE * batch_size and failed is None:
            part = z[added : added + free]
            try:
                batch.add(range(added, added + len(part)), part, limit)
                added += len(part)
            except UserError as error:
                failed = error
        if failed is not None and done == added:  # the texts before it are there
            raise failed
        texts |= dict(batch.step())
        while done in texts:
            yield texts.pop(done)
            done += 1
