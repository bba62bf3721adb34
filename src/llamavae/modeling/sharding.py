"""A frozen decoder distributed over processes by torch's FSDP2: each keeps a part of every layer.

A layer is whole only while it computes: its parts are gathered before its forward and before its
backward pass, and freed after them. Everything that trains (the posterior, the injection, and with
`heads` or `lora` weights of the decoder), embeddings, LM head and final norm stay whole in each
process, so the optimiser and a checkpoint are those of an unsharded model.

torch's distributed packages are imported when they are used, since their import takes time.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from llamavae.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_MARK = "_is_fsdp_managed_module"
"""Attribute of a sharded module. transformers reads it too: `generate` then stops in all processes
at once."""


def shard_decoder(lm: PreTrainedModel, device: torch.device, offload: bool = False) -> None:
    """Distribute the frozen weights of the layers over all processes, in place.

    Every process calls it with the same weights. From then on all processes must call the decoder
    together, each with a batch of its own. The other weights stay where they are, see `place`.

    Args:
        lm: The causal language model.
        device: Where this process computes.
        offload: Keep the parts in the memory of the CPU, and copy them when they are needed.

    Raises:
        UserError: The decoder has no frozen layers, or its weights are quantised.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

    base = cast(nn.Module, lm.base_model)
    layers = [part for part in base.modules() if isinstance(part, GradientCheckpointingLayer)]
    frozen = {p for layer in layers for p in layer.parameters() if not p.requires_grad}
    if not frozen:
        raise UserError(
            f"optimisation.shard_decoder distributes frozen layers, and this {type(lm).__name__} "
            "has none. Omit it, or set decoder.training to frozen, heads or lora"
        )
    if not all(p.is_floating_point() for p in frozen):
        raise UserError(
            "a quantised decoder cannot be sharded. Omit optimisation.shard_decoder or "
            "decoder.quantization"
        )
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (torch.distributed.get_world_size(),)),
        "reshard_after_forward": True,
        "ignored_params": {p for p in lm.parameters() if p not in frozen},
    }
    if offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=torch.accelerator.is_available())
    for layer in layers:
        fully_shard(layer, **options)
    # the root has no weights of its own; it gathers a layer while the one before it computes
    fully_shard(base, **options)
    setattr(lm, _MARK, True)
    # about a change in place, which is never made, of what a model such as GPT-2 returns
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")


def is_sharded(module: nn.Module) -> bool:
    """Whether weights of the module are distributed."""
    return any(getattr(part, _MARK, False) for part in module.modules())


def place(module: nn.Module, device: torch.device) -> None:
    """Move weights and buffers to a device, except the distributed ones, which are in place."""
    for tensor in (*module.parameters(), *module.buffers()):
        if not _is_distributed(tensor):
            tensor.data = tensor.data.to(device)


def gather(module: nn.Module, keep: bool = True, prefix: str = "") -> dict[str, Tensor]:
    """The distributed weights of a module as whole tensors on the CPU; all processes must call it.

    Args:
        module: The module.
        keep: Whether this process needs them; otherwise its result is empty.
        prefix: How their names begin in the result.
    """
    whole: dict[str, Tensor] = {}
    if not is_sharded(module):
        return whole
    for name, parameter in module.named_parameters():
        if _is_distributed(parameter):
            part = cast("DTensor", parameter.detach())
            part = part.to(part.device_mesh.device_type)  # it may be offloaded
            tensor = cast("DTensor", part).full_tensor()
            if keep:
                whole[prefix + name] = tensor.cpu()
    return whole


def replicate(module: nn.Module) -> DistributedDataParallel:
    """The module with gradients averaged over processes, except for its distributed weights."""
    ignored = [name for name, p in module.named_parameters() if _is_distributed(p)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, ignored)
    return DistributedDataParallel(module)


def _is_distributed(tensor: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
