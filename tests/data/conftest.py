from __future__ import annotations

import pytest
from tests import tiny

from llamavae.modeling import SentenceEncoder, TextDecoder
from llamavae.modeling.loading import load_sentence_encoder


@pytest.fixture
def decoder() -> TextDecoder:
    return tiny.text_decoder()


@pytest.fixture
def encoder() -> SentenceEncoder:
    return load_sentence_encoder(tiny.encoder("bert-mean"))
