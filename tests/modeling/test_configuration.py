from __future__ import annotations

import json

import pytest

from llamavae import LlaMaVAEConfig
from llamavae.errors import UserError


def test_settings_survive_json():
    config = LlaMaVAEConfig(
        latent_dim=7, injection="memory+add", attention_shapes=[[2, 8, 8]], encoder_pooling="cls"
    )
    values = json.loads(config.to_json_string(use_diff=False))
    again = LlaMaVAEConfig.from_dict(values)
    assert again.to_dict() == config.to_dict()
    assert values["model_type"] == "llamavae"


def test_a_config_is_saved_and_loaded_by_transformers(tmp_path):
    LlaMaVAEConfig(latent_dim=9, bos_token_id=3).save_pretrained(tmp_path)
    config = LlaMaVAEConfig.from_pretrained(tmp_path)
    assert (config.latent_dim, config.bos_token_id) == (9, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"injection": "memry"}, "unknown injection 'memry'. Did you mean 'memory"),
        ({"decoder_training": "head"}, "Did you mean 'heads'"),
        ({"encoder_training": "none"}, "unknown encoder_training 'none'"),
        ({"encoder_pooling": "max"}, "unknown encoder_pooling 'max'"),
        ({"latent_dim": 0}, "latent_dim must be at least 1; got 0"),
        ({"slots": 0}, "slots must be at least 1"),
        ({"injection_hidden": -1}, "injection_hidden must be at least 0"),
        ({"max_tokens": 1}, "max_tokens must be at least 2"),
        ({"lora_rank": 0}, "lora_rank must be at least 1"),
        ({"format_version": 99}, "format 99.*Upgrade llamavae"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        LlaMaVAEConfig(**settings)
