"""Texts that the service is decoding, in the process of the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
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
_FEW = 8  # texts do not wait where at least one of so many joins


@dataclass(frozen=True)
class Generation:
    """Options of generation. Codes with the same options are decoded in one batch.

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


class Decoding:
    """Codes and texts that are being decoded: greedily in a continuous batch, sampled alone.

    Args:
        vae: The model. Where it does not support continuous batches, what comes together is
            decoded in one batch, to its end.
    """

    def __init__(self, vae: LlaMaVAE) -> None:
        self._vae = vae
        self._batch: ContinuousBatch[int] | None = None
        self._fresh: dict[int, tuple[Code | str, Generation]] = {}  # that have not joined yet
        self._arrived = 0.0  # the first of them
        self._running: dict[int, tuple[Code, Generation]] = {}

    def advance(
        self, new: Sequence[Numbered[tuple[Code | str, Generation]]], gone: Sequence[int]
    ) -> list[Result[str]]:
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
        end = time.perf_counter() + _SLICE
        while self._batch and time.perf_counter() < end:
            results += self._step()
        for number, _ in results:
            self._running.pop(number, None)
        return results

    def _stop(self, gone: Sequence[int]) -> None:
        for number in gone:
            self._fresh.pop(number, None)
            self._running.pop(number, None)
        if self._batch is not None:
            self._batch.remove(gone)

    def _should_join(self) -> bool:
        """Whether enough is there to encode and to join together, or has waited long enough."""
        enough = _FEW * len(self._fresh) >= len(self._running)
        return bool(self._fresh) and (enough or time.perf_counter() > self._arrived + _WAIT)

    def _join(self) -> list[Result[str]]:
        fresh, self._fresh = self._fresh, {}
        texts = [(n, place) for n, (place, _) in fresh.items() if isinstance(place, str)]
        means = dict(each(self._means, texts))
        results: list[Result[str]] = []
        codes: list[Numbered[tuple[Code, Generation]]] = []
        for number, (place, how) in fresh.items():
            z = means[number] if isinstance(place, str) else place
            if isinstance(z, Exception):
                results.append((number, z))
            else:
                codes.append((number, (z, how)))
        for how, group in _groups(codes):
            if how.sampled or not self._joined(how, group):
                results += self._at_once(how, group)
        return results

    def _means(self, texts: Sequence[str]) -> Sequence[Code]:
        import torch  # slow; the service starts this process before it needs torch itself

        with torch.inference_mode():
            return list(self._vae.encode(texts, batch_size=len(texts)).mean.float().cpu().numpy())

    def _joined(self, how: Generation, group: Sequence[Numbered[Code]]) -> bool:
        """Let codes join the continuous batch, if they can."""
        from llamavae.modeling.continuous import ContinuousBatch

        if self._batch is None:
            if not ContinuousBatch.supports(self._vae):
                return False
            self._batch = ContinuousBatch(self._vae)
        numbers = [number for number, _ in group]
        try:
            self._batch.add(numbers, _tensor(z for _, z in group), how.max_new_tokens)
        except Exception:  # of one of them
            return False
        self._running |= {number: (z, how) for number, z in group}
        return True

    def _step(self) -> Sequence[Result[str]]:
        assert self._batch is not None
        try:
            return self._batch.step()
        except Exception:  # as of memory: what was running is decoded again, one by one
            self._batch = None
            again = [self._at_once(how, [(n, z)]) for n, (z, how) in self._running.items()]
            return [result for results in again for result in results]

    def _at_once(self, how: Generation, group: Sequence[Numbered[Code]]) -> list[Result[str]]:
        import torch

        if how.sampled:  # without a seed, not what follows from the seed of another request
            torch.seed() if how.seed is None else torch.manual_seed(how.seed)
        return each(lambda codes: self._vae.decode(_tensor(codes), **how.arguments()), group)


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
        copy(error)  # as unpickling would make it
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _groups(
    items: Sequence[Numbered[tuple[Code, Generation]]],
) -> list[tuple[Generation, list[Numbered[Code]]]]:
    """Codes that can be decoded together: with the same options, and sampled ones alone."""
    groups: dict[tuple[Generation, int | None], list[Numbered[Code]]] = {}
    for number, (z, how) in items:
        groups.setdefault((how, number if how.sampled else None), []).append((number, z))
    return [(how, group) for (how, _), group in groups.items()]


def _tensor(codes: Iterable[Code]) -> Tensor:
    import torch

    return torch.from_numpy(np.stack(list(codes)))
