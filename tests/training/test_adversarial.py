"""The losses of the discriminator against binary cross entropies, and where they pull."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from llamavae.training.adversarial import Discriminator


def test_losses_are_binary_cross_entropies() -> None:
    discriminator, z, prior = Discriminator(3, 5), torch.randn(4, 3), torch.randn(4, 3)
    first, _, second = discriminator.net
    told, of_prior = (second(first(x).relu()).sigmoid() for x in (z, prior))
    one, zero = torch.ones(4, 1), torch.zeros(4, 1)
    encoder, own = discriminator(z, prior)
    torch.testing.assert_close(encoder, F.binary_cross_entropy(told, one))
    expected = F.binary_cross_entropy(told, zero) + F.binary_cross_entropy(of_prior, one)
    torch.testing.assert_close(own, expected)


def test_each_loss_moves_its_own_side() -> None:
    discriminator, prior = Discriminator(3, 5), torch.randn(4, 3)
    z = torch.randn(4, 3, requires_grad=True)
    encoder, own = discriminator(z, prior)
    encoder.backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.parameters())
    z.grad = None
    own.backward()
    assert z.grad is None
    assert all(p.grad is not None for p in discriminator.parameters())


def test_it_moves_codes_to_the_prior() -> None:
    """Free codes far from the prior end up with about its mean and deviation."""
    discriminator = Discriminator(2, 32)
    z = torch.nn.Parameter(0.2 * torch.randn(256, 2) + 3)
    optimizer = torch.optim.Adam([z, *discriminator.parameters()], 0.03, betas=(0.5, 0.999))
    for _ in range(300):
        optimizer.zero_grad()
        torch.stack(discriminator(z, torch.randn(256, 2))).sum().backward()
        optimizer.step()
    assert z.mean(0).abs().max() < 0.5
    assert 0.5 < z.std(0).min() <= z.std(0).max() < 1.5
