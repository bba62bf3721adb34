"""Model cards: what the hub reads in them, checked with huggingface_hub and without the network."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.modeling.card import card_data, model_card


def head(folder: Path) -> ModelCardData:
    """The head of the card in a folder, as the hub reads it."""
    data = ModelCard.load(folder / "README.md").data
    assert isinstance(data, ModelCardData)
    return data


def test_every_checkpoint_has_a_card(tmp_path):
    model = tiny.vae()
    model.save_pretrained(tmp_path / "model")
    data = head(tmp_path / "model")
    assert data.library_name == "llamavae"
    assert data.pipeline_tag == "feature-extraction"
    assert "sentence-embeddings" in (data.tags or [])
    assert data.base_model is None  # folders
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert str(tiny.encoder().parent) not in text
    assert f"z of {tiny.LATENT} numbers" in text


def test_an_edited_card_is_kept(tmp_path):
    tiny.vae().save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    card.data["license"] = "mit"
    card.save(tmp_path / "README.md")
    tiny.vae(slots=1).save_pretrained(tmp_path)
    assert head(tmp_path).license == "mit"
    loaded = LlaMaVAE.from_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path / "copy")
    assert head(tmp_path / "copy").license == "mit"


@pytest.mark.parametrize(
    ("encoder", "decoder", "expected"),
    [
        (
            "all-minilm-l6-v2",
            "owner/decoder",
            ["sentence-transformers/all-MiniLM-L6-v2", "owner/decoder"],
        ),
        (None, "../secret/folder", None),
        ("/home/me/encoder", "me/decoder.gguf", None),
        ("a/b/c", "--/..", None),
    ],
)
def test_backbones_are_repositories_of_the_hub(encoder, decoder, expected):
    model = tiny.vae()
    model.config.encoder_name_or_path = encoder
    model.config.decoder_name_or_path = decoder
    assert card_data(model).base_model == expected
    assert "/home" not in model_card(model)
    assert "secret" not in model_card(model)


@pytest.mark.parametrize("name", ["mini", "small"])
def test_cards_of_the_bundled_models(name):
    from llamavae.pretrained import bundled

    folder = Path(str(bundled(name)))
    data = head(folder)
    assert data.library_name == "llamavae"
    assert data.license == "apache-2.0"
