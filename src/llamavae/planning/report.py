"""The plan of a training run: what it needs, whether it fits, and what to change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llamavae.errors import UserError, check_int, check_number
from llamavae.planning.facts import CPU, Device, devices, find_device
from llamavae.planning.setup import setup_of
from llamavae.planning.step import ADAM, Setup, Step, simulate
from llamavae.training.recipe import Recipe, parse_recipe

UTILISATION = 0.4
"""Assumed share of the peak FLOP/s of a device that a training step reaches."""
RESERVED = 2**30
"""Bytes that are kept free for Python and its libraries, or for the context of a GPU."""
FRAGMENTATION = 1.05
"""Assumed ratio of the memory that an allocator holds to the memory in use."""
_LARGEST = 2**16  # sentences of a micro-batch


@dataclass(frozen=True)
class Change:
    """Settings with which a run fits.

    Attributes:
        settings: Values by key, for `--set`.
        needed: Bytes of memory that the run then needs on each device.
    """

    settings: Mapping[str, Any]
    needed: float


@dataclass(frozen=True)
class Plan:
    """What a training run needs.

    Attributes:
        name: Name of the recipe.
        setup: What determines the memory of a step.
        step: Parameters, memory and operations of a step on one device.
        device: The device; None if none was given.
        memory: Bytes of memory of a device; None if none was given.
        needed: Bytes that are needed on each device, with a reserve.
        fits: Whether they fit; None without a device.
        fitting: Names of the known devices on which they fit.
        largest: Sentences of the largest micro-batch that fits on one device; 0 for none; None
            without a device.
        changes: If it does not fit, single changes with which it does.
        together: If no single change is enough, several changes with which it fits; None if they
            are not enough either.
        seconds: Estimated seconds of a step; None if the device's peak is unknown.
        steps: Number of optimiser steps; None if it depends on an unknown number of sentences.
        utilisation: Assumed share of the peak FLOP/s of the device.
    """

    name: str
    setup: Setup
    step: Step
    device: Device | None
    memory: float | None
    needed: float
    fits: bool | None
    fitting: tuple[str, ...]
    largest: int | None
    changes: tuple[Change, ...]
    together: Change | None
    seconds: float | None
    steps: int | None
    utilisation: float

    def parameters(self) -> dict[str, tuple[int, int]]:
        """Numbers of trained and of frozen parameters of each part.

        Statistics and scales, which are computed once, count as frozen.
        """
        return {
            name: (
                sum(w.numel for w in weights if w.trains),
                sum(w.numel for w in weights if not w.trains),
            )
            for name, weights in self.step.weights.items()
        }

    @property
    def trained(self) -> int:
        """Number of trained parameters."""
        return sum(trained for trained, _ in self.parameters().values())

    @property
    def model_bytes(self) -> float:
        """Bytes of the saved model: what trains, statistics, and embedded backbones."""
        s = self.setup
        embedded = {"encoder": s.embeds_encoder, "decoder": s.embeds_decoder}
        return sum(
            w.size
            for name, weights in self.step.weights.items()
            for w in weights
            if name != "further losses" and (w.trains or embedded.get(name, True))
        )

    @property
    def offloaded(self) -> float:
        """Bytes of weights in the memory of the CPU, for each device."""
        return sum(self.step.layers) / self.setup.devices if self.setup.offloaded else 0.0

    @property
    def checkpoint_bytes(self) -> float:
        """Bytes of a checkpoint to resume from: the model, further losses, and the optimiser."""
        further = sum(w.size for w in self.step.weights.get("further losses", ()))
        return self.model_bytes + further + ADAM * self.trained


def plan(
    recipe: Recipe,
    *,
    device: str | None = None,
    devices: int = 1,
    memory: float | str | None = None,
    tokens: int | None = None,
    sentences: int | None = None,
    utilisation: float = UTILISATION,
) -> Plan:
    """Plan a training run without its weights and its corpus.

    Memory is that of a training step and of an evaluation, from the operations that the model runs.
    `needed` adds 5 % for the fragmentation of the allocator, and 1 GiB for libraries.

    Args:
        recipe: The recipe.
        device: Name of a device in `llamavae.planning.facts.devices`; None for no verdict.
        devices: Number of devices, each with a copy of the model (data parallelism), or with
            `optimisation.shard_decoder` a part of it.
        memory: Memory of a device in bytes, or a text such as `24GB` (24 * 2**30 bytes), instead of
            that of `device`.
        tokens: Tokens per sentence, with the end of the sentence; None for `decoder.max_tokens`.
        sentences: Number of training sentences, for the length of a run of epochs.
        utilisation: Assumed share of the peak FLOP/s of the device.

    Raises:
        UserError: A backbone or the device is not known, or a number is out of range.

    Example:
        >>> from llamavae.training.recipe import load_recipe
        >>> found = plan(load_recipe("paper"), device="a100-40gb")
        >>> found.fits, found.parameters()["decoder"]
        (True, (262144000, 6476271616))
    """
    check_int("devices", devices)
    check_number("utilisation", utilisation, 0, 1, above=True)
    for name, number in (("tokens", tokens), ("sentences", sentences)):
        if number is not None:
            check_int(name, number)
    found = None if device is None else find_device(device)
    available = None if memory is None else _bytes(memory)
    if available is None and found is not None:
        available = found.memory
        if available is None:
            raise UserError(f"the memory of {found.name} is unknown here. Pass --memory")
    cpu = found is not None and found.name == CPU

    def of(changed: Recipe) -> Setup:
        return setup_of(changed, devices=devices, tokens=tokens, cpu=cpu)

    setup = of(recipe)
    step = simulate(setup)
    needed = _needed(step)
    fits = None if available is None else needed <= available
    changes: tuple[Change, ...] = ()
    together = None
    if available is not None and not fits:
        search = _Search(recipe, setup, available, of)
        settings = list(_settings(recipe, setup, cpu, shorten=tokens is None))
        changes = search.single(settings)
        together = None if changes else search.together(settings)
    peak = None if found is None else found.flops.get(_arithmetic(setup))
    o = recipe.optimisation
    steps = o.steps
    if steps is None and o.epochs and sentences is not None:
        steps = max(1, round(o.epochs * -(-sentences // o.batch_size)))
    return Plan(
        name=recipe.name,
        setup=setup,
        step=step,
        device=found,
        memory=available,
        needed=needed,
        fits=fits,
        fitting=tuple(d.name for d in _known() if d.memory and needed <= d.memory),
        largest=None if available is None else largest_micro_batch(setup, available),
        changes=changes,
        together=together,
        seconds=None if peak is None else step.flops / (peak * utilisation),
        steps=steps,
        utilisation=utilisation,
    )


def _known() -> list[Device]:
    return [device for device in devices().values() if device.name != CPU]


def _arithmetic(setup: Setup) -> str:
    """The type of most matrix products."""
    half = setup.precision == "bfloat16" or setup.decoder_dtype != "float32" or setup.quantisation
    return "bfloat16" if half else "float32"


def _needed(step: Step) -> float:
    return FRAGMENTATION * max(step.peak, step.evaluation) + RESERVED


def _bytes(memory: float | str) -> float:
    """Bytes of a number, or of a size such as `24GB`; a GB is 2**30 bytes, as GPU vendors count.

    Raises:
        UserError: It is not positive, or a text without a unit.
    """
    if not isinstance(memory, str):
        check_number("memory", memory, 0, above=True)
        return float(memory)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:i?b)?|b)", memory.lower().strip())
    if match is None or not float(match[1]):
        raise UserError(f"expected memory with its unit, such as 24GB; got {memory!r:.40}")
    return float(match[1]) * 1024 ** (" kmgt".index(match[2]) if match[2] else 0)


def largest_micro_batch(setup: Setup, memory: float) -> int:
    """Sentences of the largest micro-batch that fits on one device; 0 for none.

    If a step of `setup` has several micro-batches, their gradients stay in memory here as well.
    """
    count = min(2, setup.batch // (setup.micro * setup.devices))

    def fits(rows: int) -> bool:
        changed = replace(setup, micro=rows, batch=rows * setup.devices * count)
        return _needed(simulate(changed)) <= memory

    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= _LARGEST and fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 16):  # to about 6 %, since tokens differ more than that
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


# ------------------------------------------------------------------------------- what to change


_MICRO = "optimisation.micro_batch_size"
_SHARD = "optimisation.shard_decoder"


def _micro_batches(setup: Setup) -> list[int]:
    """Sizes of smaller micro-batches, in descending order."""
    share = setup.batch // setup.devices
    return sorted((n for n in range(1, setup.micro) if share % n == 0), reverse=True)


def _settings(recipe: Recipe, setup: Setup, cpu: bool, shorten: bool) -> Iterator[dict[str, Any]]:
    """Changes that need less memory, the ones that change least first; not micro-batches."""
    o, d = recipe.optimisation, setup
    if not o.gradient_checkpointing:
        yield {"optimisation.gradient_checkpointing": True}
    if d.devices > 1 and not d.offloaded:
        if not d.sharded:
            yield {_SHARD: True}
        if not cpu:
            yield {_SHARD: True, "optimisation.cpu_offload": True}
    half = {} if o.precision == "bfloat16" else {"optimisation.precision": "bfloat16"}
    if half:
        yield half
    if d.decoder_dtype == "float32" and d.decoder_training != "full" and not d.quantisation:
        yield {"decoder.dtype": "bfloat16", **({} if d.decoder_training == "frozen" else half)}
    if d.decoder_training != "full" and d.decoder.type != "llamavae_lstm":
        for kind in ("8bit", "4bit"):
            if d.quantisation not in ("4bit", kind):
                yield {"decoder.quantization": kind, **half}
    if recipe.evaluation.decoded:
        yield {"evaluation.decoded": 0}
    if recipe.start_from is None:  # these change the model or the corpus
        order = ["full", "lora", "heads", "frozen"]
        for training in order[order.index(d.decoder_training) + 1 :]:
            yield {"decoder.training": training}
        if recipe.encoder.training != "frozen" and recipe.encoder.model:
            yield {"encoder.training": "frozen"}
        if shorten:
            yield {"decoder.max_tokens": max(2, setup.tokens // 2)}


_OTHER_MODEL = {"decoder.training", "encoder.training", "decoder.max_tokens"}


def _changed(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    values = recipe.model_dump()
    for key, value in settings.items():
        section, _, name = key.partition(".")
        values[section][name] = value
    return parse_recipe(values)


class _Search:
    """Searches for changes of a recipe with which it fits.

    Args:
        recipe: The recipe.
        setup: Its setup.
        memory: Bytes of memory of a device.
        of: The setup of a changed recipe.
    """

    def __init__(
        self, recipe: Recipe, setup: Setup, memory: float, of: Callable[[Recipe], Setup]
    ) -> None:
        self.recipe, self.setup, self.memory, self.of = recipe, setup, memory, of

    def change(self, settings: Mapping[str, Any]) -> Change | None:
        """A change, if the recipe allows it and if it then fits."""
        setup = self.changed(settings)
        if setup is None:
            return None
        needed = _needed(simulate(setup))
        return Change(settings, needed) if needed <= self.memory else None

    def changed(self, settings: Mapping[str, Any]) -> Setup | None:
        """The setup of the changed recipe, if that is allowed."""
        try:
            return self.of(_changed(self.recipe, settings))
        except UserError:
            return None

    def micro_batch(self, settings: Mapping[str, Any]) -> Change | None:
        """The largest micro-batch that fits together with other settings."""
        sizes = _micro_batches(self.setup)
        if not sizes or self.change({**settings, _MICRO: sizes[-1]}) is None:
            return None
        return next(filter(None, (self.change({**settings, _MICRO: n}) for n in sizes)))

    def single(self, settings: Iterable[Mapping[str, Any]]) -> tuple[Change, ...]:
        """Single changes with which it fits."""
        found = [self.micro_batch({}), *map(self.change, settings)]
        return tuple(change for change in found if change is not None)

    def together(self, settings: Iterable[Mapping[str, Any]]) -> Change | None:
        """The first changes with which it fits, without those that change the model."""
        all_of_them: dict[str, Any] = {}
        for more in settings:
            if not _OTHER_MODEL & more.keys() and self.changed({**all_of_them, **more}):
                all_of_them |= more
                found = self.change(all_of_them) or self.micro_batch(all_of_them)
                if found is not None:
                    return found
        return None
