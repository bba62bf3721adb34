from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nltk.lm import KneserNeyInterpolated
from nltk.lm.preprocessing import padded_everygram_pipeline
from nltk.lm.smoothing import KneserNey as NltkSmoothing
from tests import tiny

from llamavae.errors import UserError
from llamavae.metrics.fluency import KneserNey, load_language_model, text_nll, token_ids
from llamavae.metrics.metric import perplexity

TEXTS = [*tiny.SENTENCES, "a", ""]


@pytest.fixture(scope="module")
def lm():
    return load_language_model(tiny.decoder("llama"))


# ------------------------------------------------------------------------------- language models


@pytest.mark.parametrize("batch_size", [1, 4])
def test_nll_is_the_loss_of_transformers(lm, batch_size):
    model, tokenizer = lm
    found = text_nll(TEXTS, lm, batch_size)
    for text, (nats, tokens) in zip(TEXTS, found, strict=True):
        ids = torch.tensor([[tokenizer.bos_token_id, *token_ids([text], tokenizer)[0]]])
        assert tokens == ids.shape[1] - 1
        if text:
            with torch.no_grad():
                loss = model(input_ids=ids, labels=ids).loss.item()  # mean over all but the first
            assert nats == pytest.approx(loss * tokens, rel=1e-4)
        else:
            assert nats == 0


def test_perplexity_is_of_all_tokens_together():
    assert perplexity(np.array([[2.0, 1], [10.0, 5]])) == pytest.approx(math.exp(2))
    assert perplexity(np.zeros((1, 2))) == 1


def test_a_text_beyond_the_context_is_cut(lm):
    model, _ = lm
    [(_, tokens)] = text_nll(["a dog " * 200], lm)
    assert tokens == model.config.max_position_embeddings - 1


def test_a_tokenizer_without_bos_starts_from_eos(lm):
    model, _ = lm
    plain = tiny.tokenizer(bos=False)
    [(nats, tokens)] = text_nll(["a dog"], (model, plain))
    ids = torch.tensor([[plain.eos_token_id, *token_ids(["a dog"], plain)[0]]])
    assert nats == pytest.approx(model(input_ids=ids, labels=ids).loss.item() * tokens, rel=1e-4)
    with pytest.raises(UserError, match="bos or eos token"):
        text_nll(["a dog"], (model, tiny.tokenizer(bos=False, eos=False)))


def test_no_texts(lm):
    assert token_ids([], lm[1]) == []
    assert text_nll([], lm).shape == (0, 2)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="language model"):
        text_nll(["a dog"], tmp_path / "nothing")


# ------------------------------------------------------------------------------- n-grams

ROWS = [[0, 1, 2, 1], [0, 1, 1], [2, 1, 2, 0, 1], [3], []]
V = 6


class Interpolated(NltkSmoothing):
    """nltk's smoothing, with the lowest order interpolated with the uniform distribution."""

    def unigram_score(self, word):
        number, total = self._continuation_counts(word)
        types = len({w for context in self.counts[2].values() for w in context} - {"<s>"})
        return max(number - self.discount, 0) / total + self.discount * types / total / (V + 1)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_sum_to_one(order):
    model = KneserNey(ROWS, V, order)
    for context in ([], [0], [0, 1], [2, 1], [5, 5], [-1, -1], [-1, 3]):
        total = sum(model.probability(token, context) for token in [*range(V), -2])
        assert total == pytest.approx(1)


def test_bigrams_are_those_of_nltk():
    words = [[str(token) for token in row] for row in ROWS]
    reference = KneserNeyInterpolated(2, discount=0.75)
    reference.fit(*padded_everygram_pipeline(2, words))
    reference.estimator = Interpolated(reference.vocab, reference.counts, 2, discount=0.75)
    model = KneserNey(ROWS, V, 2)
    for context in (0, 1, 2, -1):
        for token in (0, 1, 2, 3, -2):
            names = {-1: "<s>", -2: "</s>"}
            expected = reference.score(
                names.get(token, str(token)), [names.get(context, str(context))]
            )
            assert model.probability(token, [context]) == pytest.approx(expected)


def test_trigrams_by_hand():
    model = KneserNey([[0, 1], [0, 1], [2, 1]], 3, 3)
    # after (0, 1) only the end, twice; after (1) the end has two distinct tokens before, 0 and 2;
    # after nothing: 0 and 2 follow the start, 1 follows 0 and 2, and the end follows 1
    unigram = (1 - 0.75) / 5 + 0.75 * 4 / 5 / 4
    bigram = (2 - 0.75) / 2 + 0.75 / 2 * unigram
    trigram = (2 - 0.75) / 2 + 0.75 / 2 * bigram
    assert model.probability(-2, [0, 1]) == pytest.approx(trigram)
    assert model.probability(-2, [1, 1]) == pytest.approx(bigram)


def test_nll_is_of_the_tokens_and_the_end():
    model = KneserNey(ROWS, V, 3)
    [(nats, tokens)] = model.nll([[2, 1]])
    expected = [([-1, -1], 2), ([-1, 2], 1), ([2, 1], -2)]
    assert tokens == 3
    assert nats == pytest.approx(-sum(math.log(model.probability(w, h)) for h, w in expected))
    own, other = (perplexity(model.nll(rows)) for rows in (ROWS, [[4, 5, 4], [5, 3, 3]]))
    assert own < V < other


def test_wrong_settings():
    for settings in ([[], V], [ROWS, V, 0], [ROWS, V, 3, 1.0], [ROWS, 0]):
        with pytest.raises(UserError, match="expected at least 1 text"):
            KneserNey(*settings)
