from __future__ import annotations

from tests import tiny

from llamavae.evaluation.encoders import sentence_encoder
from llamavae.modeling import SentenceEncoder


def test_a_sentence_encoder_is_loaded_where_it_is_named():
    folder = tiny.encoder("bert-mean")
    for name in (folder, str(folder)):
        loaded = sentence_encoder(name)
        assert isinstance(loaded, SentenceEncoder)
        assert sentence_encoder(loaded) is loaded
