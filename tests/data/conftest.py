from __future__ import annotations

import pytest
from tests import tiny

from llamavae.modeling import SentenceEncoder, TextDecoder


@pytest.fixture
def decoder() -> TextDecoder:
    return tiny.text_decoder()


@pytest.fixture
def encoder() -> SentenceEncoder:
    return SentenceEncoder.load(tiny.encoder("bert-mean"))
