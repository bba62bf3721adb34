from __future__ import annotations

import string
import sys
import types

import numpy as np
import pytest
import torch
import transformers as hf
from scipy.optimize import linear_sum_assignment, linprog
from tests import tiny
from tests.evaluation import systems
from torch.nn import functional as F

from llamavae.errors import UserError
from llamavae.evaluation.evaluators.reconstruction import Reconstruction
from llamavae.metrics.semantic import (
    bert_score,
    bleurt_scores,
    encoder_cosines,
    load_bleurt,
    load_encoder,
    mauve,
    mover_scores,
)
from llamavae.modeling.loading import load_sentence_encoder

VOCABULARY = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a an the kind of dog animal that bark money keep lend "
    ", . ; ##s ##ing"
)
REFERENCES = ["a kind of animal that barks", "keep the money , lend money", "an animal", "dog ."]
WRITTEN = ["a dog that barks", "lending money", "", "; . ,"]


def bleurt(*arguments):
    return bleurt_scores(*arguments).mean().item()


def encoder_cosine(*arguments):
    return encoder_cosines(*arguments).mean().item()


def mover_score(*arguments):
    return mover_scores(*arguments).mean().item()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random BERT that cuts words into pieces."""
    path = tmp_path_factory.mktemp("bert")
    (path / "vocab.txt").write_text(VOCABULARY.replace(" ", "\n"))
    hf.BertTokenizer(vocab=str(path / "vocab.txt"), model_max_length=12).save_pretrained(path)
    torch.manual_seed(0)
    hf.BertModel(_config()).save_pretrained(path)
    return path


def _config(**changes):
    return hf.BertConfig(
        vocab_size=len(VOCABULARY.split()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.5,
        **changes,
    )


# ------------------------------------------------------------------------------- MoverScore


def bag(text, model, tokenizer):
    """Unit vectors of the tokens of a text that count, by the definition."""
    tokens = ["[CLS]", *tokenizer.tokenize(text), "[SEP]"]
    with torch.no_grad():
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(tokens)])
        vectors = model(ids, output_hidden_states=True).hidden_states[-1][0].double()
    kept = [
        i for i, t in enumerate(tokens) if not t.startswith("##") and t not in string.punctuation
    ]
    vectors = vectors[kept].numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def transport(a, b):
    """Earth mover's distance between equal weights as the linear programme that it is."""
    cost = np.linalg.norm(a[:, None] - b[None], axis=-1)
    rows = [np.repeat(np.eye(len(a))[i], len(b)) for i in range(len(a))]
    columns = [np.tile(np.eye(len(b))[j], len(a)) for j in range(len(b))]
    mass = [1 / len(a)] * len(a) + [1 / len(b)] * len(b)
    return linprog(cost.ravel(), A_eq=np.array(rows + columns), b_eq=mass).fun


def test_mover_score_is_one_minus_the_least_cost(folder):
    model, tokenizer = load_encoder(folder)
    bags = [[bag(text, model, tokenizer) for text in side] for side in (WRITTEN, REFERENCES)]
    assert [len(vectors) for vectors in bags[0]] == [6, 4, 2, 2]  # pieces and marks do not count
    expected = np.mean([1 - transport(a, b) for a, b in zip(*bags, strict=True)])
    assert mover_score(WRITTEN, REFERENCES, folder) == pytest.approx(expected, abs=1e-5)
    assert mover_score(WRITTEN, REFERENCES, (model, tokenizer), 1) == pytest.approx(
        expected, abs=1e-5
    )


def test_equally_many_tokens_are_an_assignment(folder):
    model, tokenizer = load_encoder(folder)
    a, b = (bag(text, model, tokenizer) for text in ("a kind of dog", "the animal that lend"))
    cost = np.linalg.norm(a[:, None] - b[None], axis=-1)
    least = cost[linear_sum_assignment(cost)].mean()
    score = mover_score(["a kind of dog"], ["the animal that lend"], folder)
    assert score == pytest.approx(1 - least, abs=1e-5)
    assert score == pytest.approx(
        mover_score(["the animal that lend"], ["a kind of dog"], folder), abs=1e-5
    )


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_identical_texts_score_one(folder, batch_size):
    texts = [*REFERENCES, "", ". . ."]
    assert mover_score(texts, texts, folder, batch_size) == pytest.approx(1, abs=1e-5)
    assert mover_score(texts[1:] + texts[:1], texts, folder, batch_size) < 0.9


def test_any_encoder_will_do_and_is_left_as_it_was():
    model, tokenizer = load_encoder(tiny.encoder("bert"))
    texts, others = tiny.SENTENCES, tiny.SENTENCES[1:] + tiny.SENTENCES[:1]
    assert mover_score(texts, texts, (model, tokenizer)) == pytest.approx(1, abs=1e-5)
    quiet = mover_score(others, texts, (model, tokenizer))
    model.train()
    assert mover_score(others, texts, (model, tokenizer)) == quiet < 0.9
    assert model.training


def test_texts_are_cut_to_what_the_encoder_reads(folder):
    long = "a kind of dog that " * 30
    assert mover_score([long], [long + "money"], folder) == pytest.approx(1, abs=1e-5)


# ------------------------------------------------------------------------------- cosine


class Letters:
    """An encoder that counts a and b."""

    def encode(self, texts, /):
        return torch.tensor([[text.count("a"), text.count("b")] for text in texts])


def test_encoder_cosine_by_hand():
    assert encoder_cosine(["aa", "ab"], ["a", "a"], Letters()) == pytest.approx((1 + 0.5**0.5) / 2)
    assert encoder_cosine(["a"], ["b"], Letters()) == 0
    assert encoder_cosine([""], ["b"], Letters()) == 0


def test_encoder_cosine_of_a_sentence_encoder():
    encoder = load_sentence_encoder(tiny.encoder("bert-mean"))
    texts = tiny.SENTENCES
    assert encoder_cosine(texts, texts, encoder) == pytest.approx(1)
    assert encoder_cosine(texts[1:] + texts[:1], texts, encoder) < 0.99


# ------------------------------------------------------------------------------- BERTScore


@pytest.fixture(scope="module")
def bert():
    return load_encoder(tiny.encoder("bert"))


def by_hand(text, reference, bert, layer):
    """The F measure of one pair, from the definition."""
    model, tokenizer = bert
    vectors = []
    for each in (text, reference):
        inputs = tokenizer(each, return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs, output_hidden_states=True).hidden_states[layer]
        vectors.append(F.normalize(states[0].double(), dim=-1).numpy())
    cosine = vectors[0] @ vectors[1].T
    precision = cosine.max(1)[1:-1].mean()  # the first and last token are special
    recall = cosine.max(0)[1:-1].mean()
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("batch_size", [2, 64])
def test_bert_score_by_hand(bert, layer, batch_size):
    texts, references = tiny.SENTENCES, tiny.SENTENCES[3:] + tiny.SENTENCES[:3]
    scores = bert_score(texts, references, bert, layer, batch_size)
    expected = [by_hand(*pair, bert, layer) for pair in zip(texts, references, strict=True)]
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert scores.max() < 0.99


def test_bert_score_at_its_ends(bert):
    assert bert_score(tiny.SENTENCES, tiny.SENTENCES, bert, 2).tolist() == pytest.approx([1.0] * 8)
    assert bert_score(["", "a dog", ""], ["a dog", "", ""], bert, 2).tolist() == [0, 0, 0]
    with pytest.raises(UserError, match="from 1 to 2; got layer 17"):
        bert_score(["a"], ["a"], bert, 17)


# ------------------------------------------------------------------------------- BLEURT


@pytest.fixture(scope="module")
def checkpoint(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("bleurt")
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = _config(num_labels=1)
    hf.BertForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def rating(reference, text, checkpoint):
    """The model called as BLEURT's authors call it, one pair at a time."""
    tokenizer = hf.AutoTokenizer.from_pretrained(checkpoint)
    model = hf.BertForSequenceClassification.from_pretrained(checkpoint).eval()
    first = ["[CLS]", *tokenizer.tokenize(reference), "[SEP]"]
    second = [*tokenizer.tokenize(text), "[SEP]"]
    ids = tokenizer.convert_tokens_to_ids(first + second)
    segments = [0] * len(first) + [1] * len(second)
    with torch.no_grad():
        out = model(torch.tensor([ids]), token_type_ids=torch.tensor([segments]))
    return out.logits.item()


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_bleurt_reads_the_reference_first(checkpoint, batch_size):
    texts, references = ["the dog", "", "lend"], ["a kind of dog", "money", "keep , lend"]
    each = [rating(r, t, checkpoint) for r, t in zip(references, texts, strict=True)]
    score = bleurt(texts, references, checkpoint, batch_size)
    assert score == pytest.approx(np.mean(each), abs=1e-5)
    exchanged = [rating(t, r, checkpoint) for r, t in zip(references, texts, strict=True)]
    assert abs(score - np.mean(exchanged)) > 1e-3
    assert bleurt(texts, references, load_bleurt(checkpoint)) == pytest.approx(score, abs=1e-5)


def test_long_pairs_are_cut(checkpoint):
    assert np.isfinite(bleurt(["dog " * 99], ["animal " * 99], checkpoint))


def test_a_classifier_is_no_bleurt(folder, tmp_path):
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    model = hf.BertForSequenceClassification(_config(num_labels=2))
    with pytest.raises(UserError, match="got 2 outputs"):
        bleurt(["a"], ["a"], (model, tokenizer))


# ------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("score", [mover_score, bleurt])
def test_models_that_cannot_be_had(score, tmp_path):
    with pytest.raises(UserError, match="hf download"):
        score(["a"], ["a"])
    with pytest.raises(UserError, match="there is no folder"):
        score(["a"], ["a"], tmp_path / "missing")


def test_an_error_names_the_score(tmp_path):
    for score, load in (
        ("MoverScore", lambda folder: mover_score(["a"], ["a"], folder)),
        ("BERTScore", lambda folder: bert_score(["a"], ["a"], folder, 1)),
        (
            "BERTScore",
            lambda folder: Reconstruction(bertscore=folder)(systems.Letters(), systems.DATA),
        ),
    ):
        with pytest.raises(UserError, match=f"encoder of {score}"):
            load(tmp_path / "missing")


@pytest.mark.parametrize("texts", [[], ["a", "b"]])
@pytest.mark.parametrize("score", [mover_score, bleurt, encoder_cosine])
def test_texts_must_match(score, texts):
    with pytest.raises(UserError, match=f"got {len(texts)} texts and {len(texts[:1])} references"):
        score(texts, texts[:1], Letters())


# ------------------------------------------------------------------------------- MAUVE


def test_mauve_is_that_of_the_package(monkeypatch):
    def compute(p, q, seed, verbose):
        assert (p.shape, q.shape, seed, verbose) == ((1, 2), (3, 2), 3, False)
        return types.SimpleNamespace(mauve=0.5)

    package = types.ModuleType("mauve")
    package.__dict__["compute_mauve"] = compute
    monkeypatch.setitem(sys.modules, "mauve", package)
    assert mauve(np.ones((1, 2)), np.ones((3, 2)), seed=3) == 0.5


def test_mauve_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(UserError, match=r"pip install llamavae\[mauve\]"):
        mauve(np.ones((1, 2)), np.ones((1, 2)))


def test_mauve_tells_texts_apart():
    pytest.importorskip("mauve")
    lengths = np.array([[i % 20, 1.0] for i in range(200)])
    assert mauve(lengths, lengths) > 0.9
    assert mauve(np.array([[90.0, 1.0]] * 200), lengths) < 0.1
