"""Injection: how a latent code z steers a frozen causal language model.

    z (B, D) --MLP--> key and value memory of every layer   `memory`       (Optimus, LlaMaVAE)
             --MLP--> M embeddings before the text          `soft_prompt`
             --W----> one vector added to each embedding    `add`          (Optimus)

An injection maps z to a `Steering`; a `Steering` acts on the decoder in the same way in
training and in generation. Memory is prepended to the keys and values inside attention, through
transformers' `AttentionInterface`. It has no position, so the text keeps the positions 0, 1, ...
of pretraining, and the cache and the mask of the caller do not include it. Gradient checkpointing,
beam search, sampling and all cache types therefore work unchanged.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llamavae.errors import UserError, unknown

KeyValue = tuple[Tensor, Tensor]

MEMORY_ARGUMENT = "latent_memory"  # forward keyword that carries the memory down to each layer


# --------------------------------------------------------------------------- what z turns into


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
        return Steering(
            memory=other.memory if other.memory is not None else self.memory,
            prompt=other.prompt if other.prompt is not None else self.prompt,
            offset=other.offset if other.offset is not None else self.offset,
        )

    @property
    def batch(self) -> int:
        """Number B of latent codes."""
        parts = (self.memory and self.memory[0][0], self.prompt, self.offset)
        return next(len(part) for part in parts if part is not None)

    def inputs(
        self,
        decoder: PreTrainedModel,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """Arguments of a forward pass of `decoder`, steered by memory and offset.

        Args:
            decoder: The decoder.
            input_ids: Token ids (B, T), or None with `inputs_embeds`.
            inputs_embeds: Input embeddings (B, T, H), or None.
            **others: Further arguments of the pass.
        """
        if self.memory is not None:
            others[MEMORY_ARGUMENT] = self.memory
        if self.offset is not None:
            if inputs_embeds is None:
                inputs_embeds = cast(nn.Module, decoder.get_input_embeddings())(input_ids)
            inputs_embeds = _some(inputs_embeds)
            inputs_embeds = inputs_embeds + self.offset[:, None].to(inputs_embeds)
        if inputs_embeds is None:
            return {"input_ids": input_ids, **others}
        return {"inputs_embeds": inputs_embeds, **others}

    def prepend(self, embeds: Tensor) -> Tensor:
        """Prepend the prompt to the input embeddings (B, T, H), shape (B, M + T, H)."""
        return embeds if self.prompt is None else torch.cat([self.prompt.to(embeds), embeds], 1)

    def repeat_interleave(self, n: int) -> Steering:
        """The same steering for `n` rows per z, in the row order of `generate`."""
        if n == 1:
            return self

        def rows(x: Tensor) -> Tensor:
            return x.repeat_interleave(n, dim=0)

        return Steering(
            memory=self.memory and tuple((rows(k), rows(v)) for k, v in self.memory),
            prompt=None if self.prompt is None else rows(self.prompt),
            offset=None if self.offset is None else rows(self.offset),
        )


class MemoryInjection(nn.Module):
    """z -> one key and one value per layer, head and slot (Optimus, arXiv 2004.04092, "memory").

    Args:
        latent_dim: Size D of z.
        shapes: (G, C, C_v) of each decoder layer, as `attention_shapes` reads them.
        slots: Number M of memory slots.
        hidden: Width of the MLP's hidden layer; 0 makes the map linear.
        tied: Use one vector as both key and value, as Optimus does; needs C == C_v.
        scaled: Multiply the output of the map by the scales of the decoder, see `calibrate`.
    """

    scales: Tensor  # of each layer, head and feature: the sum over layers of G (C + C_v) numbers

    def __init__(
        self,
        latent_dim: int,
        shapes: Sequence[Sequence[int]],
        slots: int = 1,
        hidden: int = 0,
        tied: bool = False,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        if tied and any(key != value for _, key, value in shapes):
            raise UserError(
                "tied_kv needs keys and values of equal size; those of this decoder differ"
            )
        self.shapes = [tuple(shape) for shape in shapes]
        self.slots = slots
        self.tied = tied
        self.sizes = [g * slots * (k if tied else k + v) for g, k, v in self.shapes]
        self.net = _mlp(latent_dim, hidden, sum(self.sizes))
        self.scaled = scaled
        if scaled:
            self.register_buffer("scales", torch.ones(sum(self.sizes) // slots))

    @torch.no_grad()
    def calibrate(self, decoder: PreTrainedModel) -> None:
        """Set the scales to the standard deviations of the decoder's own keys and values.

        The magnitudes differ much between layers, so without scales one learning rate is too small
        for some layers and too large for others. The scales are estimated on random tokens.
        """
        seen = _watch(decoder, _random_tokens(decoder))
        parts = []
        for layer in range(len(self.shapes)):
            # for each head and feature, (G, C); the first position is excluded, since it is an
            # attention sink with keys and values of a different magnitude
            key, value = (x[:, :, 1:].float().std((0, 2)) for x in seen[layer])
            parts.append((key if self.tied else torch.cat([key, value], dim=-1)).flatten())
        scales = torch.cat(parts)
        self.scales.copy_(torch.where(scales > 1e-6, scales, torch.ones_like(scales)))

    def forward(self, z: Tensor) -> Steering:
        """Memory of every layer, keys (B, G, M, C) and values (B, G, M, C_v), of z (B, D)."""
        memory = []
        flats = self.net(z).split(self.sizes, dim=-1)
        sizes = [size // self.slots for size in self.sizes]
        scales = self.scales.split(sizes) if self.scaled else ()
        for layer, (flat, (heads, key, value)) in enumerate(zip(flats, self.shapes, strict=True)):
            pair = flat.view(len(z), heads, self.slots, -1)  # (B, G, M, C [+ C_v])
            if self.scaled:
                pair = pair * scales[layer].view(heads, 1, -1)
            memory.append((pair, pair) if self.tied else pair.split([key, value], dim=-1))
        return Steering(memory=tuple((k, v) for k, v in memory))


class SoftPromptInjection(nn.Module):
    """z -> M input embeddings before the text, which every serving engine supports.

    Args:
        latent_dim: Size D of z.
        hidden_size: Size H of the decoder's embeddings.
        slots: Number M of embeddings.
        hidden: Width of the MLP's hidden layer; 0 makes the map linear.
    """

    def __init__(self, latent_dim: int, hidden_size: int, slots: int = 1, hidden: int = 0) -> None:
        super().__init__()
        self.slots = slots
        self.net = _mlp(latent_dim, hidden, slots * hidden_size)

    def forward(self, z: Tensor) -> Steering:
        """Prompt embeddings (B, M, H) of z (B, D)."""
        return Steering(prompt=self.net(z).view(len(z), self.slots, -1))


class AddInjection(nn.Module):
    """z -> one vector added to each token's input embedding (Optimus, "embedding").

    Args:
        latent_dim: Size D of z.
        hidden_size: Size H of the decoder's embeddings.
    """

    def __init__(self, latent_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.net = nn.Linear(latent_dim, hidden_size, bias=False)

    def forward(self, z: Tensor) -> Steering:
        """Offset (B, H) of z (B, D)."""
        return Steering(offset=self.net(z))


class Injection(nn.Module):
    """One injection, or a combination of several, by name.

    Args:
        name: `memory`, `soft_prompt`, `add`, `memory+add` or `memory+soft_prompt`.
        latent_dim: Size D of z.
        hidden_size: Size H of the decoder's embeddings.
        shapes: (G, C, C_v) of each layer; used only for `memory`.
        slots: Number M of memory slots or prompt embeddings.
        hidden: Width of the MLP's hidden layer; 0 makes the map linear.
        tied_kv: Use one vector as both key and value (Optimus).
        scaled: See `MemoryInjection`.
    """

    NAMES = ("memory", "soft_prompt", "add", "memory+add", "memory+soft_prompt")

    def __init__(
        self,
        name: str,
        latent_dim: int,
        hidden_size: int,
        shapes: Sequence[Sequence[int]],
        slots: int = 1,
        hidden: int = 0,
        tied_kv: bool = False,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        if name not in self.NAMES:
            raise unknown("injection", name, self.NAMES)
        if slots < 1:
            raise UserError(f"slots must be at least 1; got {slots}")
        self.parts = nn.ModuleDict()
        for part in name.split("+"):
            if part == "memory":
                self.parts[part] = MemoryInjection(
                    latent_dim, shapes, slots, hidden, tied_kv, scaled
                )
            elif part == "soft_prompt":
                self.parts[part] = SoftPromptInjection(latent_dim, hidden_size, slots, hidden)
            else:
                self.parts[part] = AddInjection(latent_dim, hidden_size)

    def forward(self, z: Tensor) -> Steering:
        """Steering for a batch of latent codes z (B, D)."""
        steering = Steering()
        for part in self.parts.values():
            steering = steering | part(z)
        return steering


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Module:
    if hidden == 0:
        return nn.Linear(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


# ------------------------------------------------------------- how the decoder's attention sees it

_PREFIX = "llamavae_"


def _eager(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The eager attention of the module's architecture."""
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **kwargs)


def _attend(base: Callable[..., Any]) -> Callable[..., Any]:
    """Attention over [memory; text]: `base` with the memory of this layer prepended."""

    def attention(
        module: Any,
        query: Tensor,  # (B, heads, Tq, C)
        key: Tensor,  # (B, G, Tk, C)
        value: Tensor,  # (B, G, Tk, C_v)
        attention_mask: Tensor | None,
        latent_memory: Sequence[KeyValue] | None = None,
        **kwargs: Any,
    ) -> Any:
        if latent_memory is not None:
            k, v = latent_memory[module.layer_idx]
            attention_mask = _extend_mask(attention_mask, query, key, slots=k.shape[2])
            key = torch.cat([k.to(key), key], dim=2)
            value = torch.cat([v.to(value), value], dim=2)
        return base(module, query, key, value, attention_mask, **kwargs)

    return attention


def _extend_mask(mask: Tensor | None, query: Tensor, key: Tensor, slots: int) -> Tensor | None:
    """Extend the mask over text (.., Tq, Tk) to (.., Tq, M + Tk): all memory is visible."""
    queries, keys = query.shape[2], key.shape[2]
    if mask is None:
        if queries == 1:
            return None  # one token that attends to everything
        # transformers omits the mask only at the start of the text, where a static cache has
        # further, empty keys
        mask = torch.ones(queries, keys, dtype=torch.bool, device=key.device).tril()[None, None]
    elif mask.shape[-1] != keys:
        raise ValueError(
            f"the attention mask covers {mask.shape[-1]} positions but the text has {keys}; "
            "the mask is over the text alone, latent memory is always visible"
        )
    visible = 1 if mask.dtype == torch.bool else 0  # boolean or additive
    return torch.nn.functional.pad(mask, (slots, 0), value=visible)


AttentionInterface.register(f"{_PREFIX}sdpa", _attend(ALL_ATTENTION_FUNCTIONS["sdpa"]))
AttentionInterface.register(f"{_PREFIX}eager", _attend(_eager))
AttentionMaskInterface.register(f"{_PREFIX}sdpa", sdpa_mask)
AttentionMaskInterface.register(f"{_PREFIX}eager", eager_mask)


def enable_memory(decoder: PreTrainedModel) -> None:
    """Enable memory in the decoder's attention. Without memory its results are unchanged.

    Raises:
        UserError: The decoder does not use transformers' attention interface, or uses an
            attention kernel other than `sdpa` and `eager`.
    """
    base = decoder.config._attn_implementation or "eager"
    if base.startswith(_PREFIX):
        return
    if base not in ("sdpa", "eager"):
        raise UserError(
            f"memory injection works with attn_implementation 'sdpa' or 'eager'; this decoder was "
            f"loaded with {base!r}. Load it with attn_implementation='sdpa', or use "
            "injection='soft_prompt'"
        )
    if not decoder._can_set_attn_implementation():
        raise _unsupported(decoder)
    decoder.set_attn_implementation(_PREFIX + base)


def attention_shapes(decoder: PreTrainedModel) -> list[tuple[int, int, int]]:
    """Key/value heads G and head sizes (C, C_v) of each layer, from a forward pass of the decoder.

    The shapes are not taken from the config, since the head size is not always the hidden size
    divided by the number of heads (Qwen3), and layers of one model may differ (Gemma). The decoder
    processes two tokens with a marker in place of the memory; a layer counts only if the marker
    reaches it.

    Raises:
        UserError: Memory does not reach some layer, since its attention does not use transformers'
            attention interface.
    """
    seen = _watch(decoder, torch.zeros(1, 2, dtype=torch.long, device=decoder.device))
    pairs = [seen[layer] for layer in range(len(seen))]
    return [(key.shape[1], key.shape[3], value.shape[3]) for key, value in pairs]


def _random_tokens(decoder: PreTrainedModel, rows: int = 32, length: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = cast(nn.Embedding, decoder.get_input_embeddings()).num_embeddings
    ids = torch.randint(size, (rows, length), generator=generator)
    return ids.to(decoder.device)


@torch.no_grad()
def _watch(decoder: PreTrainedModel, ids: Tensor) -> dict[int, KeyValue]:
    """Keys (B, G, T, C) and values (B, G, T, C_v) of each layer for ids (B, T).

    Raises:
        UserError: Memory does not reach some layer.
    """
    seen: dict[int, KeyValue] = {}
    marker = object()

    def watch(module: Any, query: Tensor, key: Tensor, value: Tensor, *a: Any, **kw: Any) -> Any:
        if kw.pop(MEMORY_ARGUMENT, None) is marker:
            seen[module.layer_idx] = key, value
        return _eager(module, query, key, value, *a, **kw)

    name = f"{_PREFIX}watch"
    AttentionInterface.register(name, watch)
    AttentionMaskInterface.register(name, eager_mask)
    before = decoder.config._attn_implementation or "eager"
    if not decoder._can_set_attn_implementation():
        raise _unsupported(decoder)
    decoder.set_attn_implementation(name)
    try:
        decoder(input_ids=ids, use_cache=False, **{MEMORY_ARGUMENT: marker})
    except TypeError as error:  # its forward does not pass the keyword to the layers
        raise _unsupported(decoder) from error
    finally:
        decoder.set_attn_implementation(before)
    layers = decoder.config.get_text_config().num_hidden_layers
    if set(seen) != set(range(layers)):
        raise _unsupported(decoder, f" ({len(seen)} of its {layers} layers could take memory)")
    return seen


def _unsupported(decoder: PreTrainedModel, detail: str = "") -> UserError:
    return UserError(
        f"memory injection does not support {type(decoder).__name__}{detail}: its attention does "
        "not use transformers' attention interface. Use injection='soft_prompt' or 'add'"
    )


def steered(decoder: PreTrainedModel, steering: Steering) -> PreTrainedModel:
    """A view of `decoder` that is steered in every forward pass, as in `generate`.

    It shares all weights with `decoder`, which is not changed. Several views of one decoder can be
    used at the same time, also by several threads. A pass over B * n rows uses each z for n
    adjacent rows, which is the row order of `generate` for beams and several samples per prompt.
    The prompt of `steering` is not applied, since it belongs only to the first pass; see
    `Steering.prepend`.

    Args:
        decoder: The decoder, with memory enabled if `steering` has memory.
        steering: Effect of z on the decoder.
    """
    view = copy.copy(decoder)
    expanded: dict[int, Steering] = {}

    def rows(n: int) -> Steering:
        if n % steering.batch:
            raise ValueError(
                f"expected a multiple of {steering.batch} rows, one per latent code; got {n}"
            )
        return expanded.setdefault(n, steering.repeat_interleave(n // steering.batch))

    @functools.wraps(decoder.forward)
    def forward(input_ids: Tensor | None = None, **inputs: Any) -> Any:
        first = _some(inputs.get("inputs_embeds") if input_ids is None else input_ids)
        _check_mask(inputs, first.shape[1])
        inputs["input_ids"] = input_ids
        return decoder(**rows(len(first)).inputs(decoder, **inputs))

    if steering.memory is not None or steering.offset is not None:
        view.forward = forward
    return view


def _check_mask(inputs: dict[str, Any], new: int) -> None:
    """Raise an error for a mask of the wrong length, which transformers would silently truncate."""
    mask, cache = inputs.get("attention_mask"), inputs.get("past_key_values")
    if isinstance(mask, Tensor) and mask.ndim == 2:
        text = new + (0 if cache is None else int(cache.get_seq_length()))
        if mask.shape[1] != text:
            raise ValueError(
                f"the attention mask covers {mask.shape[1]} positions but the text has {text}; "
                "the mask is over the text alone, latent memory is always visible"
            )


def _some(x: Tensor | None) -> Tensor:
    assert x is not None
    return x
