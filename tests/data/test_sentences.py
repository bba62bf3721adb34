from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import tiny

from llamavae.data import sentences as module
from llamavae.data.sentences import prepare, sentence_vectors
from llamavae.errors import UserError
from llamavae.files import cache_folder
from llamavae.modeling import SentenceEncoder, TextDecoder
from llamavae.modeling.loading import load_sentence_encoder

# ------------------------------------------------------------------------------- the cache


@pytest.fixture
def calls(monkeypatch) -> Counter[str]:
    """How often texts were tokenised and encoded."""
    counts: Counter[str] = Counter()
    tokenize, encode = TextDecoder.tokenize, SentenceEncoder.encode

    def counted_tokenize(self, texts):
        counts["tokens"] += 1
        return tokenize(self, texts)

    def counted_encode(self, texts, *args):
        counts["vectors"] += 1
        return encode(self, texts, *args)

    monkeypatch.setattr(TextDecoder, "tokenize", counted_tokenize)
    monkeypatch.setattr(SentenceEncoder, "encode", counted_encode)
    return counts


def test_each_sentence_has_its_own_ids_and_vector(decoder, encoder, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 3)  # more than one, and the last one is short
    data = prepare(tiny.SENTENCES, decoder, encoder, progress=False)
    assert len(data) == len(tiny.SENTENCES)
    rows, cut = decoder.tokenize(tiny.SENTENCES)
    assert data.truncated == cut
    assert data.lengths.tolist() == [len(row) for row in rows]
    for i in np.random.default_rng(0).permutation(len(data)).tolist():
        item = data[i]
        assert item["text"] == tiny.SENTENCES[i]
        assert item["ids"].tolist() == rows[i]
        torch.testing.assert_close(torch.tensor(item["vector"]), encoder.encode([item["text"]])[0])


def test_the_second_call_reads_the_cache(decoder, encoder, calls):
    one = prepare(tiny.SENTENCES, decoder, encoder, progress=False)
    assert calls == {"tokens": 1, "vectors": 1}
    other = prepare(list(tiny.SENTENCES), decoder, encoder, progress=False)
    assert calls == {"tokens": 1, "vectors": 1}
    assert np.array_equal(one.ids, other.ids)
    assert one.vectors is not None
    assert isinstance(one.vectors.base, np.memmap)
    assert not one.vectors.flags.writeable
    assert one.vectors.dtype == np.float32


def test_what_another_list_has_is_not_encoded_again(encoder, monkeypatch):
    first, second = list(tiny.SENTENCES[:4]), list(tiny.SENTENCES[3:])
    encoded: list[str] = []
    encode = SentenceEncoder.encode
    monkeypatch.setattr(
        SentenceEncoder, "encode", lambda s, texts: encoded.extend(texts) or encode(s, texts)
    )
    sentence_vectors(first, encoder, progress=False)
    sentence_vectors(second, encoder, progress=False)
    assert encoded == list(tiny.SENTENCES)
    mixed = ["a new one", *reversed(tiny.SENTENCES), tiny.SENTENCES[2], "another new one"]
    found = sentence_vectors(mixed, encoder, progress=False)
    assert encoded == [*tiny.SENTENCES, "a new one", "another new one"]
    expected = encode(encoder, mixed).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(sentence_vectors(list(tiny.SENTENCES), encoder, progress=False)) == 8
    assert len(encoded) == 10


def test_other_ways_to_use_the_model_do_not_change_the_key(decoder, encoder, calls):
    prepare(tiny.SENTENCES, decoder, encoder, progress=False)
    before = calls.copy()
    encoder.model.encode(["one", "a much longer one"], show_progress_bar=False)
    decoder.tokenizer(["one", "a longer one"], padding=True, truncation=True, max_length=2)
    prepare(tiny.SENTENCES, decoder, encoder, progress=False)
    assert calls == before


def test_the_key_covers_texts_and_their_borders(decoder, calls):
    for texts in (["a b", "c"], ["a", "b c"], ["a b", "c", ""], ["c", "a b"]):
        prepare(texts, decoder, progress=False)
    assert calls["tokens"] == 4


def test_the_key_covers_the_decoder(decoder, calls):
    prepare(tiny.SENTENCES, decoder, progress=False)
    prepare(tiny.SENTENCES, tiny.text_decoder(max_tokens=9), progress=False)
    decoder.tokens = replace(decoder.tokens, bos=decoder.tokens.eos)
    prepare(tiny.SENTENCES, decoder, progress=False)
    decoder.tokenizer.add_tokens(["robot"])
    prepare(tiny.SENTENCES, decoder, progress=False)
    assert calls["tokens"] == 4


def test_the_key_covers_the_encoder(decoder, encoder, calls):
    prepare(tiny.SENTENCES, decoder, encoder, progress=False)
    prepare(
        tiny.SENTENCES, decoder, load_sentence_encoder(tiny.encoder("bert-cls")), progress=False
    )
    for limit in (5, 6):
        encoder.max_tokens = limit
        prepare(tiny.SENTENCES, decoder, encoder, progress=False)
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[0] += 1e-3
    prepare(tiny.SENTENCES, decoder, encoder, progress=False)
    assert calls == {"tokens": 1, "vectors": 5}


def test_a_trained_encoder_is_not_cached(decoder, calls):
    encoder = load_sentence_encoder(tiny.encoder("bert-mean"), training="full")
    assert prepare(tiny.SENTENCES, decoder, encoder, progress=False).vectors is None
    assert calls["vectors"] == 0


def test_precomputed_vectors_are_taken_as_they_are(decoder, encoder, calls):
    vectors = np.ones((len(tiny.SENTENCES), 3), np.float32)
    data = prepare(tiny.SENTENCES, decoder, encoder, vectors, progress=False)
    assert data[2]["vector"].tolist() == [1, 1, 1]
    assert calls["vectors"] == 0


@pytest.mark.parametrize(
    ("error", "seen", "words"),
    [
        (KeyboardInterrupt, KeyboardInterrupt, None),
        (OSError(28, "No space left on device"), UserError, "No space.*LLAMAVAE_CACHE"),
    ],
)
def test_an_interrupted_write_leaves_nothing(decoder, encoder, monkeypatch, error, seen, words):
    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(SentenceEncoder, "encode", fail)
        with pytest.raises(seen, match=words):
            prepare(tiny.SENTENCES, decoder, encoder, progress=False)
    assert [p.name.split("-")[0] for p in cache_folder().iterdir()] == ["tokens"]
    assert prepare(tiny.SENTENCES, decoder, encoder, progress=False).vectors is not None
