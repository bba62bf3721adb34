"""Load GGUF files (the format of llama.cpp) as transformers models, without a converted copy.

transformers reads every architecture through `gguf_file`, but parses the vocabulary of a file
several times, which takes ten times as long as everything else. For LLaMA, this module reads the
header and the blocks of the file itself with transformers' building blocks. The weights are
identical bit for bit.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import copy
import os
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.integrations.gguf.dequant import GGML_BLOCK, dequantize
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    convert_gguf_tokenizer,
    get_gguf_tokenizer,
)
from transformers.integrations.gguf.reader import (
    GgufHeader,
    load_gguf_state_dict,
    read_gguf_metadata,
)

from llamavae.errors import UserError
from llamavae.pretrained.loading import SAFE

# number of elements dequantised at a time: fits the processor's cache, too few for threads
_ELEMENTS = 2**15 - 2**8

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_FREQUENCIES = "rope_freqs.weight"  # Llama 3.1 and later: divisors of the rotary frequencies


def read_gguf(
    source: str | os.PathLike[str], **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal language model and the tokenizer of a GGUF file, with dequantised weights.

    Args:
        source: The file. LLaMA takes about a second for 135M weights; other architectures are
            loaded by transformers.
        **options: Arguments of transformers' `from_pretrained`: `dtype` (default: that of the
            file, float32 for a quantised one), `device_map`, `attn_implementation`,
            `quantization_config`, ...

    Raises:
        UserError: The file is missing, damaged, truncated, not a causal language model, or has an
            unsupported feature.
    """
    file = Path(source)
    if not file.is_file():
        raise UserError(f"the GGUF file of the decoder does not exist: {file}")
    try:
        metadata, _ = read_gguf_metadata(str(file))
        architecture = metadata["general.architecture"]
        header = _header(file)
        if architecture == "llama" and header is not None:
            model = _llama(file, header, metadata, options)
        else:
            model = _other(file, options)
        return model, _tokenizer(file)
    except (UserError, torch.OutOfMemoryError):
        raise
    except (ValueError, struct.error, LookupError, ArithmeticError, RuntimeError) as error:
        raise UserError(
            f"{file} cannot be read as the GGUF file of a causal language model: {error}. If it is "
            "one, the download may be damaged: compare its SHA-256, and download it again"
        ) from error


def _header(file: Path) -> GgufHeader | None:
    """Positions of the tensors in the file; None if it has tensors of an unknown type.

    Raises:
        UserError: The file ends before its last tensor.
    """
    try:
        header = GgufHeader.from_file(str(file))
    except ValueError as error:
        if "ggml type" in str(error):
            return None
        raise
    end = header.data_start + max((t.offset + t.nbytes for t in header.tensors), default=0)
    size = file.stat().st_size
    if size < end:
        raise UserError(f"{file} is truncated: it has {size} of {end} bytes. Download it again")
    return header


def _tokenizer(file: Path) -> PreTrainedTokenizerBase:
    architecture, tables, settings = get_gguf_tokenizer(str(file))
    backend, _ = convert_gguf_tokenizer(architecture, tables)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **settings)


def _other(file: Path, options: dict[str, Any]) -> PreTrainedModel:
    """A model of any architecture that transformers reads, without its quantisation attributes."""
    dtype = options.get("dtype")
    options = {**options, "dtype": torch.float32 if dtype in (None, "auto") else dtype}
    if "quantization_config" in options:
        raise UserError(
            f"{file}: quantization_config is supported only for GGUF files of LLaMA models. "
            "Convert this file to a folder first"
        )
    if (file.parent / "adapter_config.json").exists():  # transformers would load its base model
        raise UserError(f"{file} is next to an adapter_config.json. Move it to its own folder")
    quantised: dict[str, Any] = {
        "gguf_file": file.name,
        "quantization_config": GgufConfig(dequantize=True),
    }
    model = _load(file, AutoModelForCausalLM, file.parent, **quantised, **options)
    config: Any = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return type(model).from_pretrained(
        None, config=config, state_dict=dict(model.state_dict()), **options
    )


def _llama(
    file: Path, header: GgufHeader, metadata: dict[str, Any], options: dict[str, Any]
) -> PreTrainedModel:
    dtype = options.get("dtype")
    if dtype in (None, "auto"):
        dtype = header.dtype or torch.float32
    elif isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    raw = load_gguf_state_dict(header)
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    frequencies = raw[_FREQUENCIES][...].tolist() if _FREQUENCIES in raw else None
    config = _llama_config(file, metadata, shapes, frequencies)
    weights: dict[str, Tensor] = {}
    for tensor in header.tensors:
        if tensor.name != _FREQUENCIES:
            name, part = _weight_name(file, tensor.name)
            value = _values(raw[tensor.name][...], tensor.ggml_type, dtype).view(tensor.shape)
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
            weights[name] = _unpermute(value, heads[part]) if part in heads else value
    options = {**options, "dtype": dtype}
    return _load(file, LlamaForCausalLM, None, config=config, state_dict=weights, **options)


def _load(file: Path, kind: Any, source: Path | None, **options: Any) -> PreTrainedModel:
    """The model that `kind.from_pretrained` gives; missing weights are an error."""
    model, report = kind.from_pretrained(source, output_loading_info=True, **options | SAFE)
    lost = sorted(report["missing_keys"])
    if lost:
        raise UserError(
            f"{file} does not hold all weights of a causal language model: {len(lost)} are "
            f"missing, such as {lost[0]}"
        )
    return model


def _weight_name(file: Path, name: str) -> tuple[str, str]:
    """The transformers name of a tensor of a LLaMA model, and its role in the layer."""
    match name.split("."):
        case ["blk", layer, part, ("weight" | "bias") as kind] if part in _LAYER:
            return f"model.layers.{layer}.{_LAYER[part]}.{kind}", part
        case [part, "weight"] if part in _WHOLE:
            return f"{_WHOLE[part]}.weight", part
    raise UserError(
        f"{file} has a tensor {name}, which a plain LLaMA does not have (a mixture of experts?). "
        "This architecture is not supported from GGUF. Pass the folder or hub id of the model"
    )


def _llama_config(
    file: Path,
    metadata: dict[str, Any],
    shapes: dict[str, tuple[int, ...]],
    frequencies: list[float] | None,
) -> LlamaConfig:
    def value(key: str, default: Any = None) -> Any:
        found = metadata.get(f"llama.{key}", default)
        if found is None:
            raise UserError(f"{file} is not a complete GGUF file: the entry llama.{key} is missing")
        return found

    hidden, heads = value("embedding_length"), value("attention.head_count")
    head_dim = value("attention.key_length", hidden // heads)
    layers = sum(name.endswith(".attn_norm.weight") for name in shapes)
    if layers != value("block_count"):
        raise UserError(
            f"{file} is damaged: its header names {value('block_count')} layers, and it holds the "
            f"weights of {layers}"
        )
    rotary = value("rope.dimension_count", head_dim)
    length = value("context_length", 2048)
    if rotary != head_dim:
        raise UserError(
            f"{file} applies rotary embeddings to {rotary} of the {head_dim} dimensions of each "
            "head, which is not supported. Pass the folder or hub id of the model"
        )
    rope: dict[str, Any] = {"rope_theta": value("rope.freq_base", 10000.0)}
    scaling = value("rope.scaling.type", "none")
    if frequencies is not None:  # the same divisors at every length
        rope |= {
            "rope_type": "longrope",
            "short_factor": frequencies,
            "long_factor": frequencies,
            "original_max_position_embeddings": length,
            "attention_factor": 1.0,
        }
    elif scaling == "linear":
        rope |= {"rope_type": "linear", "factor": value("rope.scaling.factor")}
    elif scaling == "none":
        rope |= {"rope_type": "default"}
    else:
        raise UserError(
            f"{file} scales its rotary embedding by {scaling!r}; only 'none' and 'linear' are "
            "supported. Pass the folder or hub id of the model"
        )
    return LlamaConfig(
        vocab_size=shapes["token_embd.weight"][0],
        hidden_size=hidden,
        intermediate_size=value("feed_forward_length"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=value("attention.head_count_kv", heads),
        head_dim=head_dim,
        max_position_embeddings=length,
        rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        rope_parameters=rope,
        attention_bias="blk.0.attn_q.bias" in shapes,
        tie_word_embeddings="output.weight" not in shapes,
        bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=metadata.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=metadata.get("tokenizer.ggml.padding_token_id"),
    )


def _values(raw: Tensor, ggml_type: int, dtype: torch.dtype) -> Tensor:
    """Flat values of a tensor, computed in float32 and rounded once, in cache-sized parts."""
    if ggml_type not in GGML_BLOCK:
        return raw.flatten().to(dtype)
    elements, size = GGML_BLOCK[ggml_type]
    blocks = raw.view(-1, size)
    out = torch.empty(len(blocks), elements, dtype=dtype)
    count = _ELEMENTS // elements
    for rows, part in zip(out.split(count), blocks.split(count), strict=True):
        rows.copy_(dequantize(part, ggml_type).view_as(rows))
    return out.flatten()


def _unpermute(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key map in transformers' order; GGUF stores rotated pairs together."""
    pairs = weight.view(heads, len(weight) // heads // 2, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)
