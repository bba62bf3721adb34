"""Texts that the service is decoding, in the process of the model."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from llamavae.modeling import LlaMaVAE
    from llamavae.modeling.continuous import ContinuousBatch

T = TypeVar("T")
R = TypeVar("R")

Code = NDArray[np.float32]
Numbered: TypeAlias = tuple[int, T]
Result: TypeAlias = tuple[int, R | Exception]

_SLICE = 0.015  # seconds after which decoding makes room for other work
_WAIT = 0.05  # seconds for which texts wait for others, to be encoded together
_MIN_JOINING = 1 / 4  # of the number of running texts; as many do not wait for others


@dataclass(frozen=True)
class Generation:
    """Options of generation.

    Attributes:
        temperature: Sampling temperature of tokens; 0 decodes greedily.
        top_p: Nucleus sampling.
        max_new_tokens: Maximum number of tokens; None is the maximum length in training.
        seed: Seed of the first code of the request; the i-th code after it has seed + i.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    seed: int | None = None

    @property
    def sampled(self) -> bool:
        """Whether tokens are sampled."""
        return self.temperature > 0

    def of(self, index: int) -> Generation:
        """The options of the code at an index of the request."""
        if self.sampled and self.seed is not None:
            return replace(self, seed=self.seed + index)
        return replace(self, seed=None)

    def arguments(self) -> dict[str, Any]:
        """Arguments of `LlaMaVAE.decode`."""
        sampling = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p}
        tokens = {"max_new_tokens": self.max_new_tokens}
        return (sampling if self.sampled else {}) | (tokens if self.max_new_tokens else {})


Item: TypeAlias = tuple[Code | str, Generation]


class Decoding:
    """Codes and texts that are being decoded, in a continuous batch.

    Args:
        vae: The model. Where it does not support continuous batches, and after an error, codes are
            decoded in batches of their own, one batch per call of `advance`.
    """

    def __init__(self, vae: LlaMaVAE) -> None:
        self._vae = vae
        self._batch: ContinuousBatch[int] | None = None
        self._continuous: bool | None = None
        self._fresh: dict[int, Item] = {}  # that have not joined yet
        self._arrived = 0.0  # the first of them
        self._running: dict[int, tuple[Code, Generation]] = {}  # in the continuous batch
        self._apart: deque[tuple[Generation, dict[int, Code]]] = deque()  # in batches of their own

    def advance(self, new: Sequence[Numbered[Item]], gone: Sequence[int]) -> list[Result[str]]:
        """Decode for a while, with new codes and without those that are not needed any more.

        Args:
            new: Codes to start with, or texts, which are reconstructed.
            gone: Numbers of earlier ones.

        Returns:
            The texts that have ended, and errors.
        """
        if not self._fresh:
            self._arrived = time.perf_counter()
        self._fresh |= dict(new)
        self._stop(gone)
        results: list[Result[str]] = []
        if self._should_join():
            results += self._join()
        if self._apart:
            results += self._decode_apart()
        end = time.perf_counter() + _SLICE
        while self._batch and time.perf_counter() < end:
            results += self._step()
        for number, _ in results:
            self._running.pop(number, None)
        return results

    def _stop(self, gone: Sequence[int]) -> None:
        for codes in (self._fresh, self._running, *(codes for _, codes in self._apart)):
            for number in gone:
                codes.pop(number, None)
        self._apart = deque((how, codes) for how, codes in self._apart if codes)
        if self._batch is not None:
            self._batch.remove(gone)

    def _should_join(self) -> bool:
        """Whether enough is there to encode and to join together, or has waited long enough."""
        enough = len(self._fresh) >= _MIN_JOINING * len(self._running)
        return bool(self._fresh) and (enough or time.perf_counter() > self._arrived + _WAIT)

    def _join(self) -> list[Result[str]]:
        """Encode the texts that have not joined, and let them and the codes join."""
        from llamavae.modeling.continuous import ContinuousBatch  # slow, as torch

        if self._continuous is None:
            self._continuous = ContinuousBatch.supports(self._vae)
        fresh, self._fresh = self._fresh, {}
        texts = [(n, place) for n, (place, _) in fresh.items() if isinstance(place, str)]
        means = dict(each(self._means, texts))
        results: list[Result[str]] = []
        groups: dict[Any, list[Numbered[tuple[Code, Generation]]]] = {}
        for number, (place, how) in fresh.items():
            z = means[number] if isinstance(place, str) else place
            if isinstance(z, Exception):
                results.append((number, z))
            else:
                groups.setdefault(self._group(number, how), []).append((number, (z, how)))
        for group in groups.values():
            if self._continuous:
                results += self._add(group)
            else:
                self._apart.append((group[0][1][1], {number: z for number, (z, _) in group}))
        return results

    def _group(self, number: int, how: Generation) -> object:
        """What codes have in common that join together, or are decoded in one batch."""
        if self._continuous:
            return how.max_new_tokens
        return how, number if how.sampled else None

    def _means(self, texts: Sequence[str]) -> Sequence[Code]:
        import torch  # slow; the service starts this process before it needs torch itself

        with torch.inference_mode():
            return list(self._vae.encode(texts, batch_size=len(texts)).mean.float().cpu().numpy())

    def _add(self, group: Sequence[Numbered[tuple[Code, Generation]]]) -> list[Result[str]]:
        """Let codes join the continuous batch; returns the errors of those that cannot."""
        from llamavae.modeling.continuous import ContinuousBatch, Sampler

        if self._batch is None:
            self._batch = ContinuousBatch(self._vae)
        hows = [how for _, (_, how) in group]
        samplers = [
            Sampler(how.temperature, how.top_p, how.seed) if how.sampled else None for how in hows
        ]
        codes = _tensor(z for _, (z, _) in group)
        try:
            self._batch.add([n for n, _ in group], codes, hows[0].max_new_tokens, samplers)
        except Exception as error:
            if len(group) > 1:
                return [result for item in group for result in self._add([item])]
            return [(group[0][0], portable(error))]
        self._running |= dict(group)
        return []

    def _step(self) -> Sequence[Result[str]]:
        assert self._batch is not None
        try:
            return self._batch.step()
        except Exception:  # as of memory: what was running is decoded again, one by one
            self._batch = None
            self._apart += [(how, {number: z}) for number, (z, how) in self._running.items()]
            self._running = {}
            return []

    def _decode_apart(self) -> list[Result[str]]:
        """Decode the first batch that is not continuous, to its end."""
        import torch

        how, codes = self._apart.popleft()
        try:
            with torch.random.fork_rng():
                # without a seed, not what follows from the seed of another request
                torch.seed() if how.seed is None else torch.manual_seed(how.seed)
                texts = self._vae.decode(_tensor(codes.values()), **how.arguments())
        except Exception as error:
            if len(codes) == 1:
                return [(number, portable(error)) for number in codes]
            self._apart.extendleft((how, {number: z}) for number, z in codes.items())
            return []
        return list(zip(codes, texts, strict=True))


def each(
    function: Callable[[list[T]], Sequence[R]], items: Sequence[Numbered[T]]
) -> list[Result[R]]:
    """The results of a function of items; where it fails, of each item by itself.

    An item that fails by itself has the error as its result, so that only the cause fails.
    """
    if not items:
        return []
    try:
        found = function([item for _, item in items])
    except Exception as error:
        if len(items) > 1:
            return [result for item in items for result in each(function, [item])]
        return [(items[0][0], portable(error))]
    return [(number, result) for (number, _), result in zip(items, found, strict=True)]


def portable(error: Exception) -> Exception:
    """The error, or one with its message if it cannot be pickled for the way between processes."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))  # pyright: ignore[reportAttributeAccessIssue]
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _tensor(codes: Iterable[Code]) -> Tensor:
    import torch

    return torch.from_numpy(np.stack(list(codes)))
