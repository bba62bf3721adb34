from __future__ import annotations

import numpy as np
import pytest
import torch
from tests import tiny

from llamavae.evaluation.paths import decode_paths, sentence_vectors, word_mover
from llamavae.metrics.smoothness import smoothness
from llamavae.modeling.loading import load_sentence_encoder

# ------------------------------------------------------------------------------- paths


def numbers(texts, others):
    return np.array([abs(float(a) - float(b)) for a, b in zip(texts, others, strict=True)])


class Line:
    """Writes a point as its first coordinate."""

    def decode(self, z):
        return [f"{value:.4f}" for value in z[:, 0].tolist()]


def test_paths_and_their_controls_have_the_same_ends():
    z = torch.arange(7.0)[:, None]
    paths = decode_paths(Line(), z, pairs=10, steps=5, seed=0)
    assert [len(control) for control in paths] == [3, 3, 3]
    ends = {float(text) for path in paths.predictions for text in (path[0], path[-1])}
    assert len(ends) == 6  # no sentence is in two pairs
    for path, mixed, foreign in zip(*paths, strict=True):
        assert np.diff([float(text) for text in path]).std() == pytest.approx(0, abs=1e-3)
        assert path[0] == mixed[0] == foreign[0]
        assert path[-1] == mixed[-1] == foreign[-1]
        assert sorted(mixed) == sorted(path)
    inner = [sorted(t for path in control for t in path[1:-1]) for control in paths]
    assert inner[0] == inner[1] == inner[2]


def test_a_straight_space_is_smooth_and_its_controls_are_not():
    z = torch.randn(60, 1, generator=torch.Generator().manual_seed(0))
    paths = decode_paths(Line(), z, pairs=30, steps=9)
    right, mixed, foreign = (smoothness(control, numbers).mean() for control in paths)
    assert right == pytest.approx(1, abs=1e-3)
    assert mixed < 0.4
    assert foreign < 0.4


def test_slerp_is_another_path():
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    middle = decode_paths(Line(), z, 1, 3, "slerp").predictions[0][1]
    assert float(middle) == pytest.approx(2**-0.5, abs=1e-4)


# ------------------------------------------------------------------------------- whose vectors


class WithEncode:
    def encode(self, texts):
        return torch.tensor([[len(text), 1.0] for text in texts])


def test_vectors_of_the_system_or_of_a_given_encoder():
    model, texts = tiny.vae(), tiny.SENTENCES[:2]
    assert model.encoder is not None
    vectors, name = sentence_vectors(model, None)
    assert torch.equal(vectors(texts), model.encoder.encode(texts))
    assert name == "the system's own encoder"
    vectors, _ = sentence_vectors(WithEncode(), None)
    assert vectors(["ab"]).tolist() == [[2, 1]]
    vectors, name = sentence_vectors(model, WithEncode())
    assert vectors(["ab"]).tolist() == [[2, 1]]
    assert name == "WithEncode"
    folder = tiny.encoder("bert-cls")
    vectors, name = sentence_vectors(model, folder)
    assert torch.equal(vectors(texts), load_sentence_encoder(folder).encode(texts))
    assert name == str(folder)


def test_token_vectors_of_the_decoder_or_words_by_themselves():
    model = tiny.vae()
    encode, encoder = sentence_vectors(WithEncode(), None)
    distance, name = word_mover(model, encode, encoder)
    assert name.startswith("input embeddings of the decoder, ")
    assert distance(["a dog"], ["a dog"]).tolist() == [0]
    distance, name = word_mover(WithEncode(), encode, encoder)
    assert name == "each word by itself, encoded by the system's own encoder"
    assert distance(["abc", "a abc"], ["a", "abc a"]).tolist() == [2, 0]
