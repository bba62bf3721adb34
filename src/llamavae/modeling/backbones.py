"""What encoders and decoders share: their trainable weights, modes, saving and fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from llamavae.modeling.quantised import quiet_bitsandbytes


def freeze_or_adapt(module: nn.Module, training: str, rank: int, alpha: int) -> None:
    """Freeze `module` (`frozen`), leave it trainable (`full`), or freeze it and add LoRA (`lora`).

    LoRA (Hu et al., arXiv 2106.09685) is added to every linear layer except the LM head and a
    pooler, which is always frozen, since its output is not used.
    """
    module.requires_grad_(training == "full")
    if training == "lora":
        quiet_bitsandbytes()  # which peft imports
        from peft import LoraConfig, inject_adapter_in_model  # slow import

        head = getattr(module, "get_output_embeddings", lambda: None)()
        parts = {
            name: part
            for name, part in module.named_modules()
            if isinstance(part, nn.Linear | Conv1D)
            and part is not head
            and not name.startswith("pooler.")
        }
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=list(parts),
            fan_in_fan_out=any(isinstance(part, Conv1D) for part in parts.values()),
        )
        inject_adapter_in_model(config, module)
    pooler = getattr(module, "pooler", None)
    if isinstance(pooler, nn.Module):  # BERT's own; its output is not used
        pooler.requires_grad_(False)


def save_plain(
    model: PreTrainedModel, folder: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Save a backbone in transformers' own format, without LoRA.

    Args:
        model: The backbone.
        folder: Destination folder.
        state: Weights that replace those of the model with the same names.
    """
    given = state or {}
    instead = {id(p): given[name] for name, p in model.named_parameters() if name in given}
    own: dict[str, Tensor] = model.state_dict(keep_vars=True)
    weights = {
        name.replace(".base_layer", ""): instead.get(id(value), value).detach()
        for name, value in own.items()
        if "lora_" not in name
    }
    model.save_pretrained(folder, state_dict=weights)


def quiet_dropout(module: nn.Module) -> None:
    """Put frozen layers into eval mode, but keep checkpointed blocks checkpointing.

    transformers recomputes the activations of a block only in training mode, so the block stays in
    training mode and its dropout probability is set to zero instead.
    """
    module.eval()
    for part in module.modules():
        if isinstance(part, GradientCheckpointingLayer) and part.gradient_checkpointing:
            part.training = True
            for name, value in vars(part).items():
                if "dropout" in name and isinstance(value, float):
                    setattr(part, name, 0.0)


def quick_backward(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Context that disables attention kernels with a slow backward pass (fused bfloat16 on CPU)."""
    slow = device.type == "cpu" and dtype == torch.bfloat16 and torch.is_grad_enabled()
    return sdpa_kernel(SDPBackend.MATH) if slow else nullcontext()


def fingerprint(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """A hash of the names, shapes and values of weights, or of a module (hex, 32 digits)."""
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def frozen_hash(module: nn.Module) -> str | None:
    """A hash of the shapes and of 64 evenly spaced values of each frozen weight (hex, 16 digits).

    It takes milliseconds, tells two models apart, and does not find single changed values. Values
    are rounded to bfloat16, so that float32 weights have the same hash when loaded in bfloat16.
    None if all weights train, or are quantised or not in memory.
    """
    digest = hashlib.blake2b(digest_size=8)
    frozen = {
        name.replace(".base_layer", ""): p
        for name, p in module.named_parameters()
        if not p.requires_grad and "lora_" not in name and "pooler." not in name
    }
    if not frozen or not all(p.is_floating_point() and not p.is_meta for p in frozen.values()):
        return None
    for name, weight in sorted(frozen.items()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        values = weight.detach().flatten()[:: max(1, weight.numel() // 64)][:64]
        digest.update(values.to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a module by name, each tied weight once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def latent_fingerprint(vae: nn.Module | Mapping[str, Tensor]) -> str:
    """A hash of the weights of the posterior and the injection.

    These are always float32, so the hash does not depend on the dtype of the decoder.

    Args:
        vae: The VAE, or its weights by name.
    """
    weights = tensors_of(vae) if isinstance(vae, nn.Module) else vae
    parts = ("posterior.", "injection.")
    return fingerprint({name: p for name, p in weights.items() if name.startswith(parts)})
