"""Decoders in 4 and 8 bits: gradients reach z, also after an evaluation, and LoRA trains."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal, cast

import pytest
import torch
from tests import tiny
from torch import Tensor, nn

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.modeling.quantised import quantization_config

installed = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")


def vae(bits: Literal["4bit", "8bit"] | None, training: str) -> LlaMaVAE:
    torch.manual_seed(0)
    options = {} if bits is None else {"quantization_config": quantization_config(bits)}
    options |= {"dtype": torch.float32}
    return tiny.vae(decoder_training=training, decoder_options=options)


def dequantised(model: LlaMaVAE, training: str) -> LlaMaVAE:
    """A model without quantisation that has the weights of a quantised one."""
    whole = vae(None, training)
    with torch.no_grad():
        layers: dict[str, Any] = dict(model.decoder.lm.named_modules())
        for name, layer in layers.items():
            if type(layer).__module__.startswith("bitsandbytes"):
                weight = cast(nn.Linear, whole.decoder.lm.get_submodule(name)).weight
                weight.copy_(layer(torch.eye(weight.shape[1])).T)
    return whole


def gradients(model: LlaMaVAE) -> Tensor:
    """Gradients of the injection, as one vector."""
    generator = torch.Generator().manual_seed(0)
    ids, mask = model.decoder.pad(model.decoder.tokenize(tiny.SENTENCES)[0])
    h = torch.randn(len(ids), model.config.encoder_dim, generator=generator)
    noise = torch.randn(len(ids), model.config.latent_dim, generator=generator)
    model.zero_grad()
    model.train()
    model(ids, mask, sentence_vectors=h, noise=noise).loss.backward()
    model.eval()
    return torch.cat([cast(Tensor, p.grad).flatten() for p in model.injection.parameters()])


@installed
@pytest.mark.parametrize("training", ["frozen", "lora"])
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_gradients(bits, training):
    model = vae(bits, training)
    whole = gradients(dequantised(model, training))
    assert not torch.allclose(whole, gradients(vae(None, training)), rtol=0.01)
    before = gradients(model)
    assert torch.cosine_similarity(before, whole, dim=0) > 0.99  # it computes in half precision
    texts = model.decode(torch.zeros(2, tiny.LATENT))  # bitsandbytes may now pack the weights
    assert torch.allclose(before, gradients(model), rtol=1e-3, atol=1e-4)
    assert texts == model.decode(torch.zeros(2, tiny.LATENT))
    lora = [p for name, p in model.decoder.named_parameters() if "lora_B" in name]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in lora)
    assert bool(lora) == (training == "lora")


@installed
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_frozen_and_saved(bits, tmp_path):
    """Training leaves quantised weights alone, and a saved model decodes as before."""
    model = vae(bits, "lora")
    frozen = {n: p.clone() for n, p in model.decoder.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.01)
    for _ in range(2):
        gradients(model)
        optimizer.step()
    now = dict(model.decoder.named_parameters())
    assert all(torch.equal(weight, now[name]) for name, weight in frozen.items())
    model.save_pretrained(tmp_path / "model")
    again = LlaMaVAE.from_pretrained(
        tmp_path / "model", quantization_config=quantization_config(bits)
    )
    z = torch.randn(3, tiny.LATENT)
    assert again.decode(z) == model.decode(z)


def test_without_bitsandbytes(monkeypatch):
    monkeypatch.setattr("llamavae.modeling.quantised.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs bitsandbytes: pip install 'llamavae\[quant\]'"):
        quantization_config("4bit")
