"""The inputs of the decoder that depend on z, and its steered forward pass."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llamavae.modeling.injection.attention import MEMORY_ARGUMENT, KeyValue, into_cache, mask_error


@dataclass(frozen=True)
class Steering:
    """Output of an injection: the inputs of the decoder that depend on z.

    Attributes:
        memory: Key (B, G, M, C) and value (B, G, M, C_v) of each layer, or None.
        prompt: Input embeddings before the text, shape (B, M, H), or None.
        offset: Vector added to each token's input embedding, shape (B, H), or None.
    """

    memory: tuple[KeyValue, ...] | None = None
    prompt: Tensor | None = None
    offset: Tensor | None = None

    def __or__(self, other: Steering) -> Steering:
        """Combine two steerings; if both set the same input, the right one is used."""
        return replace(self, **{name: x for name, x in vars(other).items() if x is not None})

    @property
    def slots(self) -> int:
        """Number M of embeddings in front of the text."""
        return 0 if self.prompt is None else self.prompt.shape[1]

    def is_finite(self) -> bool:
        """Whether there is neither NaN nor infinity in it."""
        found = [self.prompt, self.offset, *(x for layer in self.memory or () for x in layer)]
        return all(bool(x.isfinite().all()) for x in found if x is not None)

    def expand(self, rows: int) -> Steering:
        """The same steering for `rows` rows of a batch, in the row order of `generate`.

        Raises:
            ValueError: `rows` is not a multiple of the number of latent codes.
        """
        first = self.memory[0][0] if self.memory else self.offset
        batch = rows if first is None else len(first)
        if rows % batch:
            raise ValueError(f"{rows} rows cannot be shared among {batch} latent codes")
        if rows == batch:
            return self
        return _combine(lambda x: x.repeat_interleave(rows // batch, dim=0), self)

    def select(self, rows: Sequence[int]) -> Steering:
        """The steering of some rows."""
        index = list(rows)
        return _combine(lambda x: x[index], self)

    @staticmethod
    def cat(parts: Sequence[Steering]) -> Steering:
        """The steering of the rows of all parts, which are of one injection."""
        return _combine(lambda *x: torch.cat(x), *parts)


def _combine(function: Callable[..., Tensor], *parts: Steering) -> Steering:
    """Apply a function to the corresponding tensors of steerings of one injection."""
    if not parts:
        return Steering()

    def apply(name: str) -> Tensor | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else function(*found)

    memory = None
    if parts[0].memory is not None:
        layers = zip(*(part.memory or () for part in parts), strict=True)
        memory = tuple(
            (function(*(k for k, _ in layer)), function(*(v for _, v in layer))) for layer in layers
        )
    return Steering(memory=memory, prompt=apply("prompt"), offset=apply("offset"))


def first_inputs(
    decoder: PreTrainedModel, ids: Tensor, steering: Steering, keep: Tensor | None = None
) -> dict[str, Tensor]:
    """Inputs of the first pass over a text: its ids, or embeddings with the prompt in front.

    Args:
        decoder: The causal language model.
        ids: Token ids (B, T).
        steering: For B rows.
        keep: False blanks the embedding of that token, shape (B, T).

    Returns:
        `input_ids` (B, T), or `inputs_embeds` (B, M + T, H) where there is a prompt or `keep`.
    """
    if keep is None and steering.prompt is None:
        return {"input_ids": ids}
    embeds = decoder.get_input_embeddings()(ids)
    if keep is not None:
        embeds = embeds * keep[..., None]
    embeds = _add_offset(embeds, steering)
    if steering.prompt is not None:
        embeds = torch.cat([steering.prompt.to(embeds), embeds], dim=1)
    return {"inputs_embeds": embeds}


def steered_inputs(decoder: PreTrainedModel, steering: Steering, **inputs: Any) -> dict[str, Any]:
    """The keyword arguments of a forward pass, turned into those of a steered one.

    A pass over B * n rows uses each z for n neighbouring rows, which is how `generate` lays out
    beams and several samples per prompt. The offset is added to embedded `input_ids`;
    `inputs_embeds` have it already, and the prompt in front, see `first_inputs`. In eval mode, the
    memory is stored in an empty `DynamicCache`, and later passes read it from there.

    Args:
        decoder: The causal language model.
        steering: For B latent codes.
        **inputs: What its forward pass would get without z.

    Raises:
        ValueError: The rows cannot be shared among the codes, or the mask has a wrong length.
    """
    ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
    first = cast(Tensor, embeds if ids is None else ids)
    steering = steering.expand(len(first))
    if ids is not None and steering.offset is not None:
        embeds = _add_offset(decoder.get_input_embeddings()(ids), steering)
        inputs |= {"input_ids": None, "inputs_embeds": embeds}
    if steering.memory is not None:
        cache = inputs.get("past_key_values")
        _check_mask(inputs.get("attention_mask"), cache, first.shape[1])
        memory = steering.memory if decoder.training else into_cache(steering.memory, cache)
        inputs[MEMORY_ARGUMENT] = memory
    return inputs


def steered(decoder: PreTrainedModel, steering: Steering) -> PreTrainedModel:
    """A view of the decoder, each forward pass of which is steered, as in its `generate`.

    It shares all modules and weights with the decoder, and what generation writes to a model stays
    in the view. The prompt of the steering is not applied here: it belongs to `first_inputs`.

    Args:
        decoder: The causal language model.
        steering: For B latent codes.
    """
    expand = functools.cache(steering.expand)

    @functools.wraps(decoder.forward)
    def forward(input_ids: Tensor | None = None, **inputs: Any) -> Any:
        first: Tensor = inputs["inputs_embeds"] if input_ids is None else input_ids
        rows = expand(len(first))
        return decoder(**steered_inputs(decoder, rows, input_ids=input_ids, **inputs))

    view = copy.copy(decoder)
    view.__dict__.pop("_compiled_call", None)  # transformers' own, of the decoder itself
    view._forward_hooks, view._forward_pre_hooks = OrderedDict(), OrderedDict()  # run in `decoder`
    view.forward = forward
    return view


def _add_offset(embeds: Tensor, steering: Steering) -> Tensor:
    return embeds if steering.offset is None else embeds + steering.offset[:, None].to(embeds)


def _check_mask(mask: Any, cache: Any, new: int) -> None:
    """Raise an error for a mask of the wrong length, which transformers would cut silently."""
    if isinstance(mask, Tensor) and mask.ndim == 2:
        text = new + (0 if cache is None else int(cache.get_seq_length()))
        if mask.shape[1] != text:
            raise mask_error(mask.shape[1], text)
