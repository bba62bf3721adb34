from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, trapezoid
from scipy.stats import norm
from tests import tiny
from tests.evaluation.systems import check_items
from torch import nn

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.evaluators.likelihood import Likelihood
from llamavae.metrics.latent import importance_weighted_bound
from llamavae.modeling.likelihood import sentence_nll
from llamavae.modeling.posterior import DiagonalGaussian

WORDS = [0, 1, 2, 3, 4, 5, 6]
CENTER, WIDTH, SCALE = 3, 0.8, 0.6  # of the toy


class ToyDecoder(nn.Module):
    """Writes one word from z (1,): p(word | z) = softmax over words of −(word − 3 − 2 z)² / 2.

    A text is `w3`, say, and its ids are bos, the word and eos; the end has probability 1.
    """

    tokens = SimpleNamespace(eos=100)
    tokenizer = SimpleNamespace(unk_token_id=None)
    device = torch.device("cpu")

    def tokenize(self, texts):
        return [[99, int(text[1:]), 100] for text in texts], 0

    def pad(self, rows):
        return torch.tensor(rows), torch.ones(len(rows), 3)

    def nll(self, ids, mask, z, per_sentence):
        assert per_sentence
        return -self.log_p(z).gather(1, ids[:, 1:2])[:, 0]

    @staticmethod
    def log_p(z):
        return (-((torch.tensor(WORDS) - CENTER - 2 * z) ** 2) / 2).log_softmax(1)


class Toy(nn.Module):
    """A VAE with D = 1 whose posterior is near the exact one, but not equal."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = ToyDecoder(), object()
        self.posterior = nn.Module()
        self.posterior.linear = nn.Linear(1, 1)
        self.injection = nn.Identity()

    def encode(self, texts):
        words = torch.tensor([[float(text[1:])] for text in texts])
        mean = (words - CENTER) / 2 * WIDTH
        return DiagonalGaussian(mean, torch.full_like(mean, 2 * math.log(SCALE)))


def exact(word):
    """log p(word), by numerical integration over z."""

    def joint(z):
        log_p = ToyDecoder.log_p(torch.tensor([[z]], dtype=torch.float64))
        return math.exp(log_p[0, word]) * norm.pdf(z)

    return math.log(quad(joint, -8, 8)[0])


# ------------------------------------------------------------------------------- the bound


def draws(word, k, columns, seed=0):
    """The three terms of the bound, (k, columns)."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.distributions.Normal(torch.tensor((word - CENTER) / 2 * WIDTH).double(), SCALE)
    z = q.mean + SCALE * torch.randn(k, columns, generator=generator, dtype=torch.float64)
    log_p = ToyDecoder.log_p(z.flatten()[:, None])[:, word].view_as(z)
    return log_p, torch.distributions.Normal(0.0, 1.0).log_prob(z), q.log_prob(z)


@pytest.mark.parametrize("word", WORDS)
def test_many_points_give_the_integral(word):
    bound = importance_weighted_bound(*draws(word, 50_000, 1))
    assert bound.item() == pytest.approx(exact(word), abs=0.01)


@pytest.mark.parametrize("word", [0, 3])
def test_the_bound_tightens(word):
    """Its expectation, here over 5,000 bounds, rises with K and stays below log p(x)."""
    means = [
        importance_weighted_bound(*draws(word, k, 5_000, seed=k)).mean().item()
        for k in (1, 2, 8, 32)
    ]
    assert means == sorted(means)
    assert means[-1] < exact(word)
    assert means[-1] > means[0] + 0.5 * (exact(word) - means[0])


# ------------------------------------------------------------------------------- sentences


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return tiny.vae()


@settings(max_examples=5)
@given(batch_size=st.integers(1, 9))
def test_sentences_do_not_see_their_batch(model, batch_size):
    ids, _ = model.decoder.tokenize(tiny.SENTENCES)
    z = torch.randn(8, tiny.LATENT, generator=torch.Generator().manual_seed(0)).double()
    nll = sentence_nll(model, ids, z, batch_size)
    assert nll.dtype == torch.float64
    with torch.no_grad():
        for i in range(8):
            one = torch.tensor([ids[i]])
            alone = model.decoder.nll(
                one, torch.ones_like(one), model.injection(z[i : i + 1].float())
            )
            assert nll[i].item() == pytest.approx(alone.item(), rel=1e-4)


def test_without_z_it_is_the_language_model(model):
    ids, _ = model.decoder.tokenize(tiny.SENTENCES[:3])
    inputs, mask = model.decoder.pad(ids)
    labels = inputs.masked_fill(mask == 0, -100)
    with torch.no_grad():
        mean = model.decoder.lm(input_ids=inputs, attention_mask=mask, labels=labels).loss.item()
    total = sentence_nll(model, ids, None).sum().item()
    assert total == pytest.approx(mean * (int(mask.sum()) - 3), rel=1e-4)


# ------------------------------------------------------------------------------- the evaluator


def test_the_toy_by_integration():
    texts = [f"w{word}" for word in (*WORDS, *WORDS)]
    found = Likelihood(samples=300, batch_size=5, resamples=50)(Toy(), EvaluationData(texts))
    log_p = np.mean([exact(word) for word in WORDS])
    assert found.rows[0]["metric"] == "perplexity"
    assert found.value("IW-NLL") == pytest.approx(-log_p, abs=0.02)
    assert found.value("perplexity") == pytest.approx(math.exp(-log_p / 2), abs=0.01)
    assert found.value("bits per byte") == pytest.approx(-log_p / math.log(2) / 3, abs=0.01)
    assert found.value("K") == 300
    assert found.value("texts cut") == 0

    def nll(word, z):
        return -ToyDecoder.log_p(torch.tensor([[z]])).double()[0, word].item()

    at_mean = np.mean([nll(word, (word - CENTER) / 2 * WIDTH) for word in WORDS])
    assert found.value("NLL at the mean") == pytest.approx(at_mean)
    kl = Toy().encode(texts).kl().mean().item()
    assert found.value("negative ELBO") - found.value("NLL") == pytest.approx(kl)
    bound = [row["IW-NLL"] for row in found.tables["bound"]]
    assert set(found.plots["bound"].columns) <= set(found.tables["bound"][0])
    assert [row["K"] for row in found.tables["bound"]] == [2**i for i in range(9)] + [300]
    assert bound[-1] < bound[0]
    assert bound[-1] == found.value("IW-NLL")


def test_controls_are_worse():
    texts = [f"w{word}" for word in (*WORDS, *WORDS)]
    found = Likelihood(resamples=50)(Toy(), EvaluationData(texts))
    for row in found.rows:
        if row["metric"] not in ("K", "texts cut"):
            assert row["control"] > 1.1 * row["value"]
            assert row["low"] <= row["value"] <= row["high"]


def test_a_real_decoder_by_integration():
    """D = 1, so that p(x) = ∫ p(x|z) N(z; 0, 1) dz is a sum over a fine grid."""
    torch.manual_seed(3)
    model = tiny.vae(latent_dim=1)
    with torch.no_grad():  # q(z|x) = N(0, 2²), wide enough for any x
        model.posterior.linear.weight.zero_()
        model.posterior.linear.bias.copy_(torch.tensor([0.0, math.log(4)]))
    texts = tiny.SENTENCES[:3]
    grid = np.linspace(-6, 6, 121)
    ids, _ = model.decoder.tokenize(texts)
    many = [row for row in ids for _ in grid]
    nll = sentence_nll(model, many, torch.tensor(np.tile(grid, 3))[:, None], 121)
    joint = np.exp(-nll.numpy().reshape(3, -1)) * norm.pdf(grid)
    expected = -np.log(trapezoid(joint, grid))
    found = Likelihood(samples=150, resamples=10)(model, EvaluationData(texts))
    nats = [row["IW-NLL"] for row in found.tables["sentences"]]
    assert nats == pytest.approx(expected, abs=0.15)


def test_numbers_follow_from_the_sentences(model):
    data = EvaluationData(tiny.SENTENCES, seed=2)
    found = Likelihood(samples=3, batch_size=3, resamples=20)(model, data)
    table = found.tables["sentences"]
    ids, _ = model.decoder.tokenize(tiny.SENTENCES)
    assert [row["tokens"] for row in table] == [len(row) - 1 for row in ids]
    nats, tokens = (sum(row[name] for row in table) for name in ("IW-NLL", "tokens"))
    assert found.value("perplexity") == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    whole = [row for row, i in zip(table, ids, strict=True) if i[-1] == model.decoder.tokens.eos]
    size = sum(len(row["text"].encode()) + 1 for row in whole)
    bits = sum(row["IW-NLL"] for row in whole) / math.log(2)
    assert found.value("bits per byte") == pytest.approx(bits / size, rel=1e-4)
    long = [row for row in table if 6 <= len(row["text"].split()) <= 10]
    nats, tokens = (sum(row[name] for row in long) for name in ("IW-NLL", "tokens"))
    group = found.value("perplexity", "words 6 to 10")
    assert group == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    check_items(Likelihood(), found, {"K"})
    again = Likelihood(samples=3, batch_size=8, resamples=20)(model, data)
    for one, other in zip(found.rows, again.rows, strict=True):
        assert other["value"] == pytest.approx(one["value"], rel=1e-4)
        assert other["control"] == (one["control"] and pytest.approx(one["control"], rel=1e-4))


def test_cut_texts_have_no_bits_per_byte():
    model = tiny.vae(max_tokens=3)
    texts = ["a dog", *tiny.SENTENCES]
    found = Likelihood(samples=1, resamples=10)(model, EvaluationData(texts))
    _, cut = model.decoder.tokenize(texts)
    assert 0 < cut < len(texts)
    assert found.value("texts cut") == cut / len(texts)
    sizes = [row["n"] for row in found.rows if row["metric"] == "bits per byte"]
    assert sizes[0] == len(texts) - cut
    check_items(Likelihood(), found, {"K"})
    found = Likelihood(samples=1, resamples=10)(model, EvaluationData(tiny.SENTENCES[2:]))
    assert "bits per byte" not in {row["metric"] for row in found.rows}


def test_mistakes(model):
    with pytest.raises(UserError, match="at least 1 sample for the bound; got 0"):
        Likelihood(samples=0)
    with pytest.raises(UserError, match="a likelihood"):
        Likelihood()(model.encoder, EvaluationData(tiny.SENTENCES))
