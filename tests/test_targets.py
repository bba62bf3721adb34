"""The experiment on refined codes as targets, `pretrained/targets.py`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from pretrained import targets
from tests import tiny

from llamavae import LlaMaVAE

TEXTS = tiny.SENTENCES[:4]


@pytest.fixture
def vae(monkeypatch: pytest.MonkeyPatch) -> LlaMaVAE:
    """A model that the experiment loads by any name."""
    model = tiny.vae()
    monkeypatch.setattr(targets.LlaMaVAE, "from_pretrained", lambda _: model)
    return model


def distance(vae: LlaMaVAE, codes: torch.Tensor) -> float:
    return (vae.encode(TEXTS).mean - codes).square().sum().item()


def test_training_on_codes_moves_the_encoder_towards_them(
    vae: LlaMaVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "RATES", {"encoder": 1e-2, "posterior": 1e-2})
    decoder = {name: value.clone() for name, value in vae.decoder.state_dict().items()}
    codes = vae.encode(TEXTS).mean + 0.5
    before = distance(vae, codes)
    assert targets.train(vae, TEXTS, codes, epochs=20) > 0
    assert distance(vae, codes) < before / 2
    assert all(torch.equal(v, decoder[name]) for name, v in vae.decoder.state_dict().items())


def test_training_on_the_bound_changes_the_codes(vae: LlaMaVAE) -> None:
    before = vae.encode(TEXTS).mean
    targets.train(vae, TEXTS, None, epochs=2)
    assert not torch.equal(vae.encode(TEXTS).mean, before)


def test_each_epoch_reads_every_sentence_once() -> None:
    read = Counter(i for batch in targets.batches(70, 3) for i in batch)
    assert read == Counter(dict.fromkeys(range(70), 3))


def test_codes_are_kept_and_belong_to_their_texts(vae: LlaMaVAE, tmp_path: Path) -> None:
    codes = targets.refined_codes("any", TEXTS, tmp_path)
    assert torch.equal(codes, vae.refine(TEXTS, targets.STEPS, variance=False).mean)
    assert torch.equal(targets.refined_codes("any", TEXTS, tmp_path), codes)
    with pytest.raises(SystemExit, match="4 codes for 3 texts"):
        targets.refined_codes("any", TEXTS[:3], tmp_path)
