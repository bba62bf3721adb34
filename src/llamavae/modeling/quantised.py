"""Decoders whose frozen layers bitsandbytes keeps in 4 or 8 bits.

Each linear layer in the blocks is quantised; embeddings, LM head and norms are not. Gradients pass
through the layers to the memory and to LoRA matrices (QLoRA, Dettmers et al., arXiv 2305.14314), on
GPUs and CPUs.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from llamavae.errors import UserError
from llamavae.pretrained.loading import emulates_bfloat16


def quantization_config(bits: Literal["4bit", "8bit"]) -> BitsAndBytesConfig:
    """The argument `quantization_config` of `from_pretrained`: 8-bit integers, or 4-bit NF4.

    Args:
        bits: `4bit` or `8bit`.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError("decoder.quantization needs bitsandbytes: pip install 'llamavae[quant]'")
    quiet_bitsandbytes()
    return BitsAndBytesConfig(
        load_in_4bit=bits == "4bit",
        load_in_8bit=bits == "8bit",
        llm_int8_threshold=0.0,  # or a row's result would depend on the other rows of its batch
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32 if emulates_bfloat16() else torch.bfloat16,
    )


def is_quantised(lm: nn.Module) -> bool:
    """Whether bitsandbytes quantises layers, which then compute in half precision or integers."""
    return any(type(part).__module__.startswith("bitsandbytes.") for part in lm.modules())


def quiet_bitsandbytes() -> None:
    """Silence its warnings: about an optional kernel when imported, and at each pass of a layer."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def keep_gradients(lm: nn.Module) -> None:
    """Keep 4-bit layers as they are on a CPU.

    In eval mode, bitsandbytes packs them for a faster forward pass that has no backward pass, so a
    model that was evaluated once would no longer pass gradients to z.
    """
    for part in lm.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            packed: Any = part
            packed.support_avx512bf16_for_cpu = False
