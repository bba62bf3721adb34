"""What training adds to a VAE: modules for further losses, which are no part of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from llamavae.modeling import LlaMaVAE
from llamavae.modeling.llamavae import LlaMaVAEOutput
from llamavae.training.adversarial import Discriminator
from llamavae.training.bag_of_words import BagOfWords
from llamavae.training.recipe import ObjectiveSettings


class WithAuxiliary(nn.Module):
    """A VAE and the modules of further losses, as one module that trains.

    Args:
        vae: The VAE.
        objective: The losses.
    """

    def __init__(self, vae: LlaMaVAE, objective: ObjectiveSettings) -> None:
        super().__init__()
        self.vae = vae
        dim = vae.config.latent_dim
        self.modules_of = nn.ModuleDict()
        if objective.bag_of_words:
            self.modules_of["bag_of_words"] = BagOfWords(dim, vae.decoder.head.weight.shape[1])
        if objective.adversarial:
            self.modules_of["discriminator"] = Discriminator(dim, objective.discriminator_hidden)

    @staticmethod
    def needed(objective: ObjectiveSettings) -> bool:
        """Whether there is such a loss."""
        return bool(objective.bag_of_words or objective.adversarial)

    def forward(
        self, prior: Tensor | None = None, **inputs: Any
    ) -> tuple[LlaMaVAEOutput, dict[str, Tensor]]:
        """The output of the VAE, and the losses by name, scalars.

        Args:
            prior: Draws from N(0, I) (B, D), for the discriminator.
            **inputs: Arguments of `LlaMaVAE.forward`.
        """
        output: LlaMaVAEOutput = self.vae(**inputs)
        z, losses = cast(Tensor, output.z), {}
        if "bag_of_words" in self.modules_of:
            losses["bag_of_words"] = self.modules_of["bag_of_words"](
                z, self.vae.decoder.head.weight, inputs["input_ids"], inputs["attention_mask"]
            )
        if "discriminator" in self.modules_of:
            both = self.modules_of["discriminator"](z, prior)
            losses["adversarial"], losses["discriminator"] = both
        return output, losses

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """What Trainer calls for `optimisation.gradient_checkpointing`."""
        self.vae.activation_checkpointing_enable(**options)

    def save(self, folder: Path) -> None:
        """Write the modules, without the VAE, to files in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, module in self.modules_of.items():
            save_model(module, str(folder / f"{name}.safetensors"))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        for name, module in self.modules_of.items():
            load_model(module, folder / f"{name}.safetensors")
