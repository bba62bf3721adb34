"""The adversarial autoencoder (AAE): a discriminator moves the codes towards the prior.

Makhzani et al., arXiv 1511.05644; for text, Shen et al., arXiv 1905.12777, section 3. In place of a
KL term, a discriminator D learns to tell codes of sentences from draws of N(0, I), and the encoder
learns to mislead it:

discriminator  min_D    -E_x log(1 - D(z(x))) - E_p(z) log D(z)
encoder        min_enc  -E_x log D(z(x)), added to -log p(x|z) with a weight
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


class Discriminator(nn.Module):
    """An MLP with one hidden layer that tells codes of sentences from draws of the prior.

    Args:
        latent_dim: Size D of z.
        hidden_size: Size of the hidden layer.
    """

    def __init__(self, latent_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(latent_dim, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 1)
        )

    def forward(self, z: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """The losses of the encoder and of the discriminator, scalars in nats.

        Their gradients are separate: the first reaches only z, and the second only the
        discriminator. The sum of both can thus be minimised by one optimiser.

        Args:
            z: Latent codes of sentences (B, D).
            prior: As many draws from N(0, I) (B, D).
        """
        fixed = {name: p.detach() for name, p in self.net.named_parameters()}
        # log D = -softplus(-a) and log(1 - D) = -softplus(a) of the output a
        encoder = F.softplus(-functional_call(self.net, fixed, (z,))).mean()
        told = F.softplus(self.net(z.detach())).mean() + F.softplus(-self.net(prior)).mean()
        return encoder, told
