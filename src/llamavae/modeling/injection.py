"""Injection: how a latent code z steers a frozen causal language model.

    z (B, D) --MLP--> key and value memory of every layer   `memory`       (Optimus, LlaMaVAE)
             --MLP--> M embeddings before the text          `soft_prompt`
             --W----> one vector added to each embedding    `add`          (Optimus)

An injection maps z to a `Steering`. `first_inputs` and `steered_inputs` turn it into keyword
arguments of the decoder's forward pass, in training and in generation alike; nothing is written
to the decoder, so several threads may use it at the same time.

Memory is prepended to the keys and values inside attention, through transformers'
`AttentionInterface`: it carries no position, so the text keeps the positions 0, 1, ... of
pretraining, and neither the cache nor the mask of the caller has to know about it. That is why
gradient checkpointing, beams, sampling and every cache type work unchanged.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llamavae.errors import UserError, unknown

KeyValue = tuple[Tensor, Tensor]


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
    def slots(self) -> int:
        """Number M of embeddings in front of the text."""
        return 0 if self.prompt is None else self.prompt.shape[1]

    def expand(self, rows: int) -> Steering:
        """The same steering for `rows` rows of a batch, a multiple of the number of latent codes.

        Raises:
            ValueError: It is no such multiple.
        """
        first = self.memory[0][0] if self.memory else self.offset
        batch = rows if first is None else len(first)
        if rows % batch:
            raise ValueError(f"{rows} rows cannot be shared among {batch} latent codes")
        return self.repeat_interleave(rows // batch)

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
MEMORY_ARGUMENT = "latent_memory"  # forward keyword that carries the memory down to each layer


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
        latent_memory: Sequence[KeyValue | _MemoryLayer] | None = None,
        **kwargs: Any,
    ) -> Any:
        if latent_memory is not None:
            memory = latent_memory[module.layer_idx]
            k, v = memory.memory if isinstance(memory, _MemoryLayer) else memory
            slots = k.shape[2]
            if isinstance(memory, _MemoryLayer) and memory.slots:
                memory.check(key)
            else:
                key = torch.cat([k.to(key), key], dim=2)
                value = torch.cat([v.to(value), value], dim=2)
            attention_mask = _extend_mask(attention_mask, query, key, slots)
        return base(module, query, key, value, attention_mask, **kwargs)

    return attention


class _MemoryLayer(DynamicLayer):
    """Cached keys and values of one layer behind its memory, which counts as no position.

    Prepending the memory once, not at each pass, saves a copy of all keys and values.
    """

    def __init__(self, memory: KeyValue) -> None:
        super().__init__()
        self.memory = memory
        self.slots = 0  # that are in the cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        pairs = list(zip(self.memory, (key_states, value_states), strict=True))
        # where a model caches a compressed form (DeepSeek), memory is prepended at each pass
        self.slots = 0
        if all(own.shape[1::2] == new.shape[1::2] for own, new in pairs):
            self.slots = self.memory[0].shape[2]
            self.keys, self.values = (own.to(new) for own, new in pairs)

    def get_seq_length(self) -> int:
        """Number of cached positions of text."""
        return max(super().get_seq_length() - self.slots, 0)

    def check(self, key: Tensor) -> None:
        """Refuse keys that are not the cached ones, and so have no memory in front.

        Raises:
            UserError: They are not.
        """
        if key is not self.keys:
            raise UserError(
                "this decoder changes its keys after it has cached them, so the cache cannot hold "
                "the latent memory; generate with cache_implementation='static'"
            )


def _into_cache(memory: tuple[KeyValue, ...], cache: Any) -> Sequence[KeyValue | _MemoryLayer]:
    """The memory, moved into the layers of an empty `DynamicCache`.

    Other caches (static, offloaded, quantised, with a sliding window) are unchanged; the memory
    is then prepended at each pass.
    """
    if type(cache) is not DynamicCache or cache.offloading or len(cache.layers) != len(memory):
        return memory
    if all(type(layer) is DynamicLayer and not layer.is_initialized for layer in cache.layers):
        cache.layers = list[Any](_MemoryLayer(pair) for pair in memory)
    layers = [layer for layer in cache.layers if isinstance(layer, _MemoryLayer)]
    return layers or memory


def _extend_mask(mask: Tensor | None, query: Tensor, key: Tensor, slots: int) -> Tensor | None:
    """The mask over text (.., Tq, Tk) widened to (.., Tq, M + Tk): each token sees all memory."""
    queries, keys = query.shape[2], key.shape[2] - slots
    if mask is None:
        if queries == 1:  # one token that sees everything
            grouped = query.shape[1] != key.shape[1]
            if not grouped or query.device.type != "cpu" or query.dtype == torch.float32:
                return None
            # transformers reads the keys and values of grouped heads once per group only where
            # there is a mask; the kernel for half precision on a CPU is then about twice as fast
            return query.new_zeros(1, 1, 1, key.shape[2])
        # causal, as `sdpa` takes it: the first pass, maybe into a static cache with room behind it
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


# ------------------------------------------------------------------- the steered forward pass


def first_inputs(
    decoder: PreTrainedModel, ids: Tensor, steering: Steering, keep: Tensor | None = None
) -> dict[str, Tensor]:
    """What the first pass over a text reads: its ids, or embeddings with the prompt in front.

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
    `inputs_embeds` have it already, and the prompt in front, see `first_inputs`. In eval mode, an
    empty `DynamicCache` takes up the memory; the passes that follow then find it there.

    Args:
        decoder: The causal language model.
        steering: For B latent codes.
        **inputs: What its forward pass would get without z.

    Raises:
        ValueError: The rows cannot be shared among the points, or the mask has a wrong length.
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
        memory = steering.memory if decoder.training else _into_cache(steering.memory, cache)
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
            raise ValueError(
                f"the attention mask covers {mask.shape[1]} positions but the text has {text}; "
                "the mask is over the text alone, latent memory is always visible"
            )
