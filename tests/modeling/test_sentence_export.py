"""The exported sentence encoder gives the posterior means, also after it was saved."""

from __future__ import annotations

import pytest
import torch
from sentence_transformers import SentenceTransformer
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.errors import UserError

TEXTS = ["a dog runs in a park", "an owl", "</s> [SEP] two old bakers sell bread", "a dog " * 30]


def assert_alike(exported: SentenceTransformer, vae: LlaMaVAE) -> None:
    vectors = torch.from_numpy(exported.encode(TEXTS))
    torch.testing.assert_close(vectors, vae.encode(TEXTS).mean, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "trust"),
    [
        ({"sentence_encoder": "bert-mean"}, False),
        ({"sentence_encoder": "bert-mean", "encoder_pooling": "cls"}, False),
        ({"sentence_encoder": "bert-mean", "encoder_pooling": "attention"}, True),
        ({"sentence_encoder": "bert-mean", "encoder_pooling": "mean", "standardise": True}, False),
    ],
)
@pytest.mark.parametrize("training", ["frozen", "lora"])
def test_vectors_are_posterior_means(tmp_path, settings, trust, training):
    vae = tiny.vae(encoder_training=training, **settings).eval()
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if "lora_B" in name:  # zero at first
                parameter.normal_(0, 0.1)
        vae.posterior.linear.bias.normal_()
    if vae.posterior.standardise:
        vae.posterior.fit_statistics(torch.randn(20, vae.posterior.linear.in_features) * 3 + 1)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    exported = vae.to_sentence_transformer()
    assert_alike(exported, vae)
    exported.save_pretrained(str(tmp_path))
    loaded = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=trust)
    assert_alike(loaded, vae)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_a_model_without_an_encoder():
    with pytest.raises(UserError, match="this model has none"):
        tiny.vae(sentence_encoder=None).to_sentence_transformer()
