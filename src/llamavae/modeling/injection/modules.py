"""Injections: modules that map a latent code z to a `Steering`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llamavae.errors import UserError, unknown
from llamavae.modeling.injection.attention import keys_and_values
from llamavae.modeling.injection.steering import Steering
from llamavae.modeling.names import InjectionName

_OFFSET = 0.1
"""Standard deviation of an untrained offset, divided by that of the decoder's embeddings."""


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Module:
    if hidden == 0:
        return nn.Linear(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def _random_tokens(decoder: PreTrainedModel) -> Tensor:
    """Token ids (32, 16), always the same."""
    vocabulary = cast(nn.Embedding, decoder.get_input_embeddings()).num_embeddings
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (32, 16), generator=generator).to(decoder.device)


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
        parts = []
        for pair in keys_and_values(decoder, _random_tokens(decoder)):
            # for each head and feature, (G, C); the first position is excluded, since it is an
            # attention sink with keys and values of a different magnitude
            key, value = (x[:, :, 1:].float().std((0, 2)) for x in pair)
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

    @torch.no_grad()
    def calibrate(self, decoder: PreTrainedModel) -> None:
        """Scale the map so that the offset of z ~ N(0, I) is small beside the decoder's embeddings.

        Its standard deviation becomes a tenth of theirs, so that training starts close to the
        pretrained language model. With PyTorch's default it can be several times theirs.
        """
        embeddings = cast(nn.Embedding, decoder.get_input_embeddings())
        wanted = _OFFSET * embeddings(_random_tokens(decoder)).float().std()
        weight = self.net.weight
        weight.mul_(wanted / (weight.std() * math.sqrt(weight.shape[1])))

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

    NAMES: tuple[str, ...] = get_args(InjectionName)

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

    def calibrate(self, decoder: PreTrainedModel) -> None:
        """Adapt untrained maps to the magnitudes of a decoder, as each part describes."""
        for part in self.parts.values():
            if isinstance(part, AddInjection) or (
                isinstance(part, MemoryInjection) and part.scaled
            ):
                part.calibrate(decoder)

    def forward(self, z: Tensor) -> Steering:
        """Steering for a batch of latent codes z (B, D)."""
        steering = Steering()
        for part in self.parts.values():
            steering = steering | part(z)
        return steering
