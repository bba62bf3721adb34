"""Latent memory in the decoder's attention, through transformers' attention interface."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llamavae.errors import UserError

KeyValue = tuple[Tensor, Tensor]
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
    """Cached keys and values of one layer after its memory, which has no position.

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

    def exchange(self, kept: list[int], first: int, memory: KeyValue) -> None:
        """Keep some rows, from a position of the text on, and add rows without text.

        Args:
            kept: Indices of the rows that are kept.
            first: The first position that is kept.
            memory: Of the kept rows, and of the added ones after them.
        """
        self.memory = memory
        pairs = zip((cast(Tensor, self.keys), cast(Tensor, self.values)), memory, strict=True)
        self.keys, self.values = (self._exchanged(x, kept, first, own) for x, own in pairs)

    def _exchanged(self, x: Tensor, kept: list[int], first: int, memory: Tensor) -> Tensor:
        text = x[:, :, self.slots + first :][kept]
        heads, length, size = text.shape[1:]
        new = text.new_zeros(len(memory), heads, self.slots + length, size)
        new[: len(kept), :, self.slots :] = text
        if self.slots:
            new[:, :, : self.slots] = memory
        return new

    def check(self, key: Tensor) -> None:
        """Raise an error if the keys are not the cached ones, since they then lack the memory."""
        if key is not self.keys:
            raise UserError(
                "this decoder changes its keys after it has cached them, so the cache cannot hold "
                "the latent memory. Generate with cache_implementation='static'"
            )


def into_cache(memory: tuple[KeyValue, ...], cache: Any) -> Sequence[KeyValue | _MemoryLayer]:
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


def can_exchange_rows(decoder: PreTrainedModel, memory: tuple[KeyValue, ...] | None) -> bool:
    """Whether the decoder's cache is one that `exchange_rows` can change."""
    if memory is None:
        return False
    layers = into_cache(memory, DynamicCache(config=decoder.config))
    return all(isinstance(layer, _MemoryLayer) for layer in layers)


def exchange_rows(
    cache: DynamicCache, kept: list[int], first: int, memory: tuple[KeyValue, ...]
) -> None:
    """Keep some rows of a cache, from a position of the text on, and add rows without text.

    The added rows have zeros at the positions of the kept ones, which a mask has to hide.

    Args:
        cache: With memory in it; changed in place.
        kept: Indices of the rows that are kept.
        first: The first position of the text that is kept.
        memory: Of the kept rows, and of the added ones after them.
    """
    for layer, pair in zip(cache.layers, memory, strict=True):
        cast(_MemoryLayer, layer).exchange(kept, first, pair)


def _extend_mask(mask: Tensor | None, query: Tensor, key: Tensor, slots: int) -> Tensor | None:
    """The mask over text (.., Tq, Tk) widened to (.., Tq, M + Tk): each token sees all memory."""
    queries, keys = query.shape[2], key.shape[2] - slots
    if mask is None:
        if queries == 1:  # a single query attends to every key
            grouped = query.shape[1] != key.shape[1]
            if not grouped or query.device.type != "cpu" or query.dtype == torch.float32:
                return None
            # transformers reads the keys and values of grouped heads once per group only where
            # there is a mask; the kernel for half precision on a CPU is then about twice as fast
            return query.new_zeros(1, 1, 1, key.shape[2])
        # causal, as `sdpa` takes it: the first pass, maybe into a static cache with room behind it
        mask = torch.ones(queries, keys, dtype=torch.bool, device=key.device).tril()[None, None]
    elif mask.shape[-1] != keys:
        raise mask_error(mask.shape[-1], keys)
    visible = 1 if mask.dtype == torch.bool else 0  # boolean or additive
    return torch.nn.functional.pad(mask, (slots, 0), value=visible)


def mask_error(covered: int, text: int) -> ValueError:
    """The error for an attention mask of another length than the text."""
    return ValueError(
        f"the attention mask covers {covered} positions but the text has {text}; "
        "the mask is over the text alone, latent memory is always visible"
    )


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
    """Key/value heads G and head sizes (C, C_v) of each layer, from a forward pass of two tokens.

    The shapes are not taken from the config, since the head size is not always the hidden size
    divided by the number of heads (Qwen3), and layers of one model may differ (Gemma).

    Raises:
        UserError: Memory does not reach some layer, since its attention does not use transformers'
            attention interface.
    """
    pairs = keys_and_values(decoder, torch.zeros(1, 2, dtype=torch.long, device=decoder.device))
    return [(key.shape[1], key.shape[3], value.shape[3]) for key, value in pairs]


@torch.no_grad()
def keys_and_values(decoder: PreTrainedModel, ids: Tensor) -> list[KeyValue]:
    """Keys (B, G, T, C) and values (B, G, T, C_v) of each layer for ids (B, T).

    The decoder runs with a marker in place of the memory; a layer counts only if the marker reaches
    it.

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
    layers = range(decoder.config.get_text_config().num_hidden_layers)
    if set(seen) != set(layers):
        raise _unsupported(decoder, f" ({len(seen)} of its {len(layers)} layers could take memory)")
    return [seen[layer] for layer in layers]


def _unsupported(decoder: PreTrainedModel, detail: str = "") -> UserError:
    return UserError(
        f"memory injection does not support {type(decoder).__name__}{detail}: its attention does "
        "not use transformers' attention interface. Use injection='soft_prompt' or 'add'"
    )
