from __future__ import annotations

import pytest
from tests import tiny

from llamavae import InvertibleCVAE, LlaMaVAE
from llamavae.explorer import Space


@pytest.fixture(scope="session")
def vae() -> LlaMaVAE:
    """A tiny model."""
    return tiny.vae().eval()


@pytest.fixture(scope="session")
def cvae(vae: LlaMaVAE) -> InvertibleCVAE:
    """A model of the definitions of two words."""
    return tiny.definitions(vae)


@pytest.fixture(scope="session")
def space(vae: LlaMaVAE, tmp_path_factory: pytest.TempPathFactory) -> Space:
    """The sentences of the tiny models, with the label whether they are long."""
    labels = {"long": [len(text) > 30 for text in tiny.SENTENCES]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return Space.of_model(vae, tiny.SENTENCES, labels, ("pca", "tsne"))
