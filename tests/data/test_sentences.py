from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import tiny

from llamavae.data import sentences as module
from llamavae.data.batches import Collator, LengthGroupedSampler, steps_per_epoch
from llamavae.data.sentences import SentenceStream, prepare, sentence_vectors
from llamavae.errors import UserError
from llamavae.files import cache_folder
from llamavae.modeling import SentenceEncoder, TextDecoder

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=400).map(np.array)
SIZE = st.integers(1, 17)


# ------------------------------------------------------------------------------- order


@given(LENGTHS, SIZE, st.integers(0, 3))
def test_every_sentence_comes_in_each_pass(lengths, size, number):
    batches = LengthGroupedSampler(lengths, size).epoch(number)
    assert batches.shape == (steps_per_epoch(len(lengths), size), size)
    counts = Counter(batches.ravel().tolist())
    assert set(counts) == set(range(len(lengths)))
    assert batches.size - len(lengths) < size  # no more than one batch is filled up


@given(LENGTHS, SIZE, st.integers(1, 40))
def test_as_many_steps_as_asked_for(lengths, size, steps):
    order = LengthGroupedSampler(lengths, size, steps)
    assert len(list(order)) == len(order) == steps * size
    passes = steps_per_epoch(len(lengths), size) * size
    assert list(order)[:passes] == order.epoch(0).ravel().tolist()[: len(order)]


def test_lengths_are_similar_in_a_batch():
    lengths = np.random.default_rng(0).integers(1, 60, 3000)
    batches = lengths[LengthGroupedSampler(lengths, 16).epoch(0)]
    assert np.ptp(batches, axis=1).mean() < 3
    starts = batches[:, 0]
    assert not np.array_equal(starts, np.sort(starts))  # but the batches come in any order


def test_passes_and_seeds_differ():
    lengths = np.full(50, 7)
    orders = [
        LengthGroupedSampler(lengths, 8, seed=s).epoch(n) for s, n in ((0, 0), (0, 1), (1, 0))
    ]
    for a, b in itertools.combinations(orders, 2):
        assert not np.array_equal(a, b)
    assert np.array_equal(orders[1], LengthGroupedSampler(lengths, 8).epoch(1))


def test_fewer_sentences_than_a_batch():
    counts = Counter(LengthGroupedSampler(np.array([3, 9, 4]), 7, steps=1))
    assert sorted(counts.values()) == [2, 2, 3]


@pytest.mark.parametrize(("sentences", "size", "steps"), [(1, 8, 1), (16, 8, 2), (17, 8, 3)])
def test_steps_per_epoch(sentences, size, steps):
    assert steps_per_epoch(sentences, size) == steps


# ------------------------------------------------------------------------------- the cache


@pytest.fixture
def decoder() -> TextDecoder:
    return tiny.text_decoder()


@pytest.fixture
def encoder() -> SentenceEncoder:
    return SentenceEncoder.load(tiny.encoder("bert-mean"))


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
    prepare(tiny.SENTENCES, decoder, SentenceEncoder.load(tiny.encoder("bert-cls")), progress=False)
    for limit in (5, 6):
        encoder.max_tokens = limit
        prepare(tiny.SENTENCES, decoder, encoder, progress=False)
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[0] += 1e-3
    prepare(tiny.SENTENCES, decoder, encoder, progress=False)
    assert calls == {"tokens": 1, "vectors": 5}


def test_a_trained_encoder_is_not_cached(decoder, calls):
    encoder = SentenceEncoder.load(tiny.encoder("bert-mean"), training="full")
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


# ------------------------------------------------------------------------------- batches


def test_batches_are_padded_to_their_longest(decoder, encoder):
    data = prepare(tiny.SENTENCES, decoder, encoder, progress=False)
    batch = Collator(decoder, encoder)([data[i] for i in (0, 3)])
    width = int(data.lengths[[0, 3]].max())
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, width)
    assert batch["attention_mask"].sum(1).tolist() == data.lengths[[0, 3]].tolist()
    assert (batch["input_ids"][batch["attention_mask"] == 0] == decoder.tokens.pad).all()
    assert batch["sentence_vectors"].shape == (2, encoder.dim)
    assert "encoder_inputs" not in batch


def test_without_vectors_a_batch_has_what_the_encoder_needs(decoder, encoder):
    data = prepare(tiny.SENTENCES, decoder, progress=False)
    batch = Collator(decoder, encoder)([data[i] for i in (0, 3)])
    h = encoder(batch["encoder_inputs"])
    torch.testing.assert_close(h, encoder.encode([tiny.SENTENCES[0], tiny.SENTENCES[3]]))
    assert set(Collator(decoder)([data[0]])) == {"input_ids", "attention_mask"}


# ------------------------------------------------------------------------------- streams


def test_stream_has_no_end_and_loses_nothing(decoder, monkeypatch):
    monkeypatch.setattr(module, "GROUP", 2)
    starts = []

    def texts():
        starts.append(None)
        return iter(tiny.SENTENCES)

    stream = SentenceStream(texts, decoder, batch_size=3)
    items = list(itertools.islice(stream, 48))  # in groups of 6, of 8 sentences
    assert Counter(item["text"] for item in items) == dict.fromkeys(tiny.SENTENCES, 6)
    assert len(starts) == 6
    for item in items:
        assert list(item["ids"]) == decoder.tokenize([item["text"]])[0][0]
    again = [item["text"] for item in itertools.islice(stream, 48)]
    assert again == [item["text"] for item in items]


def test_empty_stream(decoder):
    with pytest.raises(UserError, match="no sentences"):
        next(iter(SentenceStream(lambda: [], decoder, batch_size=3)))
