from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import tiny

from llamavae.data.batches import Collator, LengthGroupedSampler, steps_per_epoch
from llamavae.data.sentences import prepare

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


def test_the_teachers_vectors_travel_with_the_sentences():
    decoder = tiny.text_decoder()
    model = tiny.vae(sentence_encoder="bert-mean", max_tokens=24)
    teacher = model.encoder
    assert teacher is not None
    data = prepare(tiny.SENTENCES, decoder, progress=False, teacher=teacher)
    batch = Collator(decoder)([data[i] for i in (4, 1)])
    expected = teacher.encode([tiny.SENTENCES[i] for i in (4, 1)])
    torch.testing.assert_close(batch["teacher_vectors"], expected)
    plain = prepare(tiny.SENTENCES, decoder, progress=False)
    assert "teacher_vectors" not in Collator(decoder)([plain[0]])
