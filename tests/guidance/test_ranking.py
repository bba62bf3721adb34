"""The best of several texts: what is scored, and what the scores prefer."""

from __future__ import annotations

import pytest
import torch
from tests import tiny

from llamavae import InvertibleCVAE
from llamavae.errors import UserError
from llamavae.flows import FitConfig
from llamavae.guidance import Pairs, VectorCondition
from llamavae.guidance.ranking import Ranking, agreement, best_texts, token_log_likelihood


@pytest.fixture(scope="module")
def cvae():
    """The condition is where a sentence lies."""
    torch.manual_seed(3)
    vae = tiny.vae(max_tokens=8)
    texts = [f"{text} {i}" for i in range(20) for text in tiny.SENTENCES]
    c = vae.encode(texts).mean[:, :2]
    model = InvertibleCVAE.build(vae, VectorCondition(2), blocks=2, hidden=(16,))
    config = FitConfig(steps=40, eval_every=20, batch_size=32)
    model.fit(Pairs(texts, c, texts), posterior_scale=0.1, config=config, progress=False)
    return model


def test_the_best_come_first_and_once():
    texts, scores = ["a", "b", "a", "c"], torch.tensor([0.0, 2.0, 3.0, 1.0])
    assert best_texts(scores, texts, 1) == ["a"]
    assert best_texts(scores, texts, 3) == ["a", "b", "c"]
    assert best_texts(scores, texts, 4) == ["a", "b", "c", "a"]  # no other is left


def test_agreement_is_the_mean_f1_with_the_others():
    texts = ["a kind of dog", "a kind of cat", "to run", ""]
    found = agreement(texts)
    assert found.tolist() == pytest.approx([0.75 / 3, 0.75 / 3, 0, 0])
    assert agreement(["the the", "the"]).tolist() == pytest.approx([2 / 3, 2 / 3])
    assert agreement(["alone"]).tolist() == [0]


def test_the_likelihood_is_the_decoders_for_each_token(cvae):
    vae, texts = cvae.vae, tiny.SENTENCES[:3]
    z = torch.randn(3, tiny.LATENT)
    found = token_log_likelihood(vae, texts, z, batch_size=2)
    rows, _ = vae.decoder.tokenize(texts)
    for text, row, own, value in zip(texts, rows, z, found, strict=True):
        ids, mask = vae.decoder.pad([row])
        nll = vae.decoder.nll(ids, mask, vae.injection(own[None])).item()
        assert value.item() == pytest.approx(-nll / (len(row) - 1), abs=1e-4), text
    assert token_log_likelihood(vae, [], z[:0]).shape == (0,)


def test_a_score_is_the_weighted_sum_of_its_terms(cvae):
    texts, c, z = tiny.SENTENCES[:4], torch.randn(2), torch.randn(4, tiny.LATENT)
    density = cvae.log_prob(texts, c[None]) / tiny.LATENT
    expected = 0.5 * density + 2 * agreement(texts) + 3 * token_log_likelihood(cvae.vae, texts, z)
    found = Ranking(0.5, 2, 3).scores(cvae, texts, z, c)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    alone = Ranking(0, 1).scores(cvae, texts, z, c)
    torch.testing.assert_close(alone, agreement(texts))
    assert Ranking().scores(cvae, [" "], z[:1], c).item() == -torch.inf


def test_the_condition_decides_between_texts(cvae):
    texts, ranking = tiny.SENTENCES, Ranking(1, 0)
    z = cvae.vae.encode(texts).mean
    right = torch.stack([ranking.scores(cvae, texts, z, own[:2]) for own in z])
    assert (right.diagonal() > right.roll(1, 0).diagonal()).float().mean() > 0.7


def test_weights_that_cannot_be():
    with pytest.raises(UserError, match="weights of 0 or more"):
        Ranking(density=-1)
    with pytest.raises(UserError, match="one above 0"):
        Ranking(0, 0, 0)


def test_generate_returns_the_best_of_its_draws(cvae, monkeypatch):
    c = cvae.vae.encode(tiny.SENTENCES[:2]).mean[:, :2]
    drawn = {}
    plain = type(cvae.vae).decode

    def decode(self, z, **options):
        drawn["z"], drawn["texts"] = z, plain(self, z, **options)
        return drawn["texts"]

    monkeypatch.setattr(type(cvae.vae), "decode", decode)
    best = cvae.generate(c, 2, 1.0, seed=0, draws=5)
    z, texts = drawn["z"], drawn["texts"]
    assert len(texts) == 10
    torch.testing.assert_close(z[::5], cvae.sample_codes(c, 1, 0.0))  # the centre is one of them
    for i in range(2):
        own = slice(5 * i, 5 * i + 5)
        scores = Ranking().scores(cvae, texts[own], z[own], c[i])
        assert best[2 * i : 2 * i + 2] == best_texts(scores, texts[own], 2)
    assert cvae.generate(c, 2, 1.0, seed=0, draws=5) == best
    assert cvae.generate(c[:0], 1, 1.0, draws=5) == []


def test_samples_of_the_decoder_are_ranked_too(cvae):
    c = torch.zeros(1, 2)
    options = {"do_sample": True, "num_return_sequences": 2}
    torch.manual_seed(0)
    assert len(cvae.generate(c, 3, 1.0, seed=0, draws=3, **options)) == 3


def test_draws_that_cannot_be(cvae):
    c = torch.zeros(1, 2)
    with pytest.raises(UserError, match="at least as many draws as texts, 3"):
        cvae.generate(c, 3, draws=2)
    with pytest.raises(UserError, match="all 4 draws are equal"):
        cvae.generate(c, 1, 0.0, draws=4)
    with pytest.raises(UserError, match="ranking needs several draws"):
        cvae.generate(c, ranking=Ranking())
    assert cvae.generate(c, 1, 0.0, draws=1) == cvae.generate(c, 1, 0.0)
