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

from llamavae.modeling.injection.attention import (
    MEMORY_ARGUMENT,
    attention_shapes,
    can_exchange_rows,
    enable_memory,
    exchange_rows,
)
from llamavae.modeling.injection.modules import (
    AddInjection,
    Injection,
    MemoryInjection,
    SoftPromptInjection,
)
from llamavae.modeling.injection.steering import Steering, first_inputs, steered, steered_inputs

__all__ = [
    "MEMORY_ARGUMENT",
    "AddInjection",
    "Injection",
    "MemoryInjection",
    "SoftPromptInjection",
    "Steering",
    "attention_shapes",
    "can_exchange_rows",
    "enable_memory",
    "exchange_rows",
    "first_inputs",
    "steered",
    "steered_inputs",
]
