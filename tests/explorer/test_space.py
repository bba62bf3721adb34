"""Maps: a way from codes to places and back, and what is known about the sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests import tiny

from llamavae.errors import UserError
from llamavae.explorer import Layout, Space

CODES = np.random.default_rng(0).normal(size=(40, 6)) * np.arange(1, 7)


def test_pca_is_exact_in_the_plane_of_the_map():
    layout = Layout(CODES)
    assert layout.exact
    for place in ([0.0, 0.0], [3.0, -2.0], layout.points[5]):
        np.testing.assert_allclose(layout.places([layout.code(place)])[0], place, atol=1e-9)
    np.testing.assert_allclose(layout.places(CODES), layout.points, atol=1e-9)
    np.testing.assert_allclose(layout.code([0, 0]), CODES.mean(0), atol=1e-9)


def test_pca_shows_the_directions_of_the_largest_variance():
    layout = Layout(CODES)
    total = CODES.var(0).sum()
    assert layout.explained is not None
    np.testing.assert_allclose(layout.explained, layout.points.var(0) / total, rtol=1e-6)
    assert layout.explained[0] >= layout.explained[1] > CODES.var(0).min() / total


def test_without_an_inverse_a_place_is_a_mean_of_its_neighbours():
    layout = Layout(CODES, "tsne")
    assert not layout.exact
    np.testing.assert_allclose(layout.code(layout.points[7]), CODES[7], atol=1e-5)
    np.testing.assert_allclose(layout.places(CODES[7:8]), layout.points[7:8], atol=1e-5)
    low, high = CODES.min(0), CODES.max(0)
    far = layout.code([1e6, 1e6])
    assert ((low <= far) & (far <= high)).all()


def test_a_map_is_computed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMAVAE_CACHE", str(tmp_path))
    computed: list[int] = []

    def project(codes: np.ndarray, *_: object) -> np.ndarray:
        computed.append(len(codes))
        return codes[:, :2]

    monkeypatch.setattr("llamavae.metrics.clusters.project", project)
    for codes, seed in ((CODES, 0), (CODES, 0), (CODES, 1), (CODES[:30], 0)):
        layout = Layout(codes, "tsne", seed, cached=True)
        np.testing.assert_array_equal(layout.points, codes[:, :2])
    assert computed == [40, 40, 30]


def test_equal_codes_have_a_map():
    layout = Layout(np.ones((5, 3)))
    np.testing.assert_allclose(layout.points, 0)
    np.testing.assert_allclose(layout.code([0, 0]), 1)


@pytest.mark.parametrize("codes", [CODES[:3], CODES[:, :1]])
def test_too_few_codes_or_dimensions(codes):
    with pytest.raises(UserError, match="at least 4 latent codes"):
        Layout(codes)


def test_posteriors_are_those_of_the_model(vae, space):
    expected = vae.encode(tiny.SENTENCES)
    torch.testing.assert_close(space.mean, expected.mean, atol=1e-5, rtol=0)
    usage = space.usage()
    assert sum(usage["kl"]) == pytest.approx(float(expected.kl().sum(-1).mean()), rel=1e-4)
    variance = expected.mean.double().var(0, correction=0)
    assert usage["deviation"] == pytest.approx(variance.sqrt().tolist(), abs=1e-5)
    assert usage["active"] == (variance > 0.01).tolist()


def test_neighbours_of_a_sentence_begin_with_itself(space):
    found = space.neighbours(space.mean[2], 3)
    assert found[0] == (2, pytest.approx(1.0, abs=1e-5))
    assert [c for _, c in found] == sorted((c for _, c in found), reverse=True)


def test_the_clearest_label_explains_the_map():
    mean = torch.tensor(CODES).float()
    first = Layout(CODES).points[:, 0] > 0
    names = [i // 2 for i in np.argsort(np.argsort(Layout(CODES).points[:, 0]))]
    names[0] = 99  # as many as there can be, and sorted by place
    labels = {"name": names, "noise": [i % 2 for i in range(40)], "side": first.tolist()}
    assert Space([f"text {i}" for i in range(40)], mean, mean, labels).clearest() == "side"
    assert Space(["a"] * 40, mean, mean).clearest() is None


def test_too_few_sentences(vae):
    with pytest.raises(UserError, match="at least 4 sentences; got 2"):
        Space(["a", "b"], torch.zeros(2, 6), torch.zeros(2, 6))
