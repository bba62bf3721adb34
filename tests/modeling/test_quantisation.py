from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.modeling.quantisation import from_int8, to_int8


@given(
    seed=st.integers(0, 2**16),
    size=st.floats(1e-6, 1e6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_each_weight_is_off_by_half_a_step_at_most(seed, size, dtype):
    generator = torch.Generator().manual_seed(seed)
    w = (size * torch.randn(64, 96, generator=generator)).to(dtype)
    w[3] = 0
    found = from_int8(to_int8({"w": w}))["w"]
    step = w.float().abs().amax(1, keepdim=True) / 127
    assert found.dtype == torch.float32
    assert ((found - w.float()).abs() <= 0.51 * step).all()
    assert (found[3] == 0).all()


def test_small_and_other_tensors_are_kept():
    weights = {
        "bias": torch.randn(5000),
        "small": torch.randn(8, 8),
        "ids": torch.arange(10_000).view(100, 100),
    }
    stored = to_int8(weights)
    assert stored.keys() == weights.keys()
    assert all(torch.equal(from_int8(stored)[n], w) for n, w in weights.items())


def test_a_lost_scale_is_an_error():
    stored = to_int8({"w": torch.randn(64, 96)})
    del stored["w.int8_scale"]
    with pytest.raises(UserError, match=r"weight w is stored as torch\.int8"):
        from_int8(stored)


def test_a_checkpoint_of_integers_is_small_and_loads_as_the_model(tmp_path):
    vae = tiny.vae(injection_hidden=64, latent_dim=64)
    whole, small = tmp_path / "whole", tmp_path / "small"
    vae.save_pretrained(whole)
    vae.save_pretrained(small, int8=True)
    sizes = [(place / "model.safetensors").stat().st_size for place in (whole, small)]
    assert sizes[1] < 0.45 * sizes[0]
    loaded = LlaMaVAE.from_pretrained(small)
    for name, weight in vae.named_parameters():
        other = dict(loaded.named_parameters())[name]
        assert other.dtype == weight.dtype
        assert torch.allclose(other, weight, atol=weight.abs().max().item() / 200)
