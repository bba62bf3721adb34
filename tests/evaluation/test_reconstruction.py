from __future__ import annotations

import pytest
import sacrebleu
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny
from torch.nn import functional as F

from llamavae.errors import UserError
from llamavae.evaluation import similarity
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.reconstruction import (
    Reconstruction,
    bert_score,
    bleu_counts,
    bleu_of_counts,
    decode_by_length,
    length_groups,
    rouge,
    token_f1,
)
from llamavae.training.diagnostics import derangement, exact_match, reconstruction_bleu

TEXTS = st.lists(st.sampled_from(["a", "b", "c,", "d."]), max_size=7).map(" ".join)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5)


class Planted:
    """Each of `texts` is a point of its own, and comes back as it is or as `written` says."""

    def __init__(self, texts, written=None):
        self.texts, self.written = list(texts), list(written or texts)
        self.batches = []

    def encode(self, texts):
        return torch.eye(len(self.texts))[[self.texts.index(text) for text in texts]]

    def decode(self, z):
        numbers = z.argmax(1).tolist()
        self.batches.append(numbers)
        return [self.written[i] for i in numbers]


# ------------------------------------------------------------------------------- overlap


@settings(max_examples=30)
@given(PAIRS)
def test_bleu_is_sacrebleus(pairs):
    written, references = map(list, zip(*pairs, strict=True))
    counts = bleu_counts(written, references)
    assert counts.shape == (len(pairs), 10)
    assert bleu_of_counts(counts) == pytest.approx(reconstruction_bleu(written, references))
    single = sacrebleu.sentence_bleu(written[0], [references[0]]).score
    assert bleu_of_counts(counts[:1], effective_order=True) == pytest.approx(single)


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("a kind of dog", "a kind of dog", 1),
        ("a kind of dog", "a dog of a kind", 2 * 4 / (4 + 5)),
        ("Dog", "dog", 0),  # case counts
        ("a a a", "a", 2 * 1 / (3 + 1)),  # each word as often as both have it
        ("", "dog", 0),
        ("", "", 1),
    ],
)
def test_token_f1(text, reference, expected):
    assert token_f1(text, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [  # what the package rouge-score 0.1.2 says
        ("the cat sat on the mat", "a cat sat, on a Mat!", (2 / 3, 0.4, 2 / 3)),
        ("x y z", "z y x", (1, 0, 1 / 3)),
        ("a b c d e", "a c e b d f", (10 / 11, 0, 6 / 11)),
        ("dog", "dog", (1, 0, 1)),
        ("", "", (0, 0, 0)),
        ("été", "t", (1, 0, 1)),
    ],
)
def test_rouge(text, reference, expected):
    assert rouge(text, reference) == pytest.approx(expected)


def longest(a, b):
    """Length of the longest common subsequence, by its definition."""
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + longest(a[:-1], b[:-1])
    return max(longest(a[:-1], b), longest(a, b[:-1]))


@given(*2 * [st.lists(st.sampled_from("abc"), max_size=6)])
def test_rouge_l_is_the_longest_common_subsequence(a, b):
    expected = 2 * longest(a, b) / max(len(a) + len(b), 1)
    one, two, subsequence = rouge(" ".join(a), " ".join(b))
    assert subsequence == pytest.approx(expected)
    assert two <= 1
    assert subsequence <= one <= 1
    assert one == pytest.approx(token_f1(" ".join(a), " ".join(b))) or not (a or b)


def test_length_groups_divide_the_texts():
    texts = ["x " * n for n in (1, 5, 6, 10, 11, 40, 41, 90)]
    groups = {name: rows.tolist() for name, rows in length_groups(texts).items()}
    assert groups == {
        "words 1 to 5": [0, 1],
        "words 6 to 10": [2, 3],
        "words 11 to 20": [4],
        "words 21 to 40": [5],
        "words over 40": [6, 7],
    }


# ------------------------------------------------------------------------------- BERTScore


@pytest.fixture(scope="module")
def bert():
    return similarity.load_encoder(tiny.encoder("bert"))


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
    with pytest.raises(UserError, match="layers 1 to 2; got layer 17"):
        bert_score(["a"], ["a"], bert, 17)


# ------------------------------------------------------------------------------- decoding


def test_texts_of_similar_length_are_decoded_together():
    texts = ["one two three four", "x", "one two three", "y", "one two"]
    system = Planted(texts)
    assert decode_by_length(system, torch.eye(5), texts, batch_size=2) == texts
    assert system.batches == [[0, 2], [4, 1], [3]]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return tiny.vae()


def test_shuffled_texts_are_those_of_shuffled_points(model):
    """So nothing has to be decoded anew for the control."""
    z = 3 * torch.randn(8, tiny.LATENT)
    other = derangement(8, torch.Generator().manual_seed(0))
    written = decode_by_length(model, z, tiny.SENTENCES, 3)
    again = decode_by_length(model, z[other], tiny.SENTENCES, 3)
    assert again == [written[i] for i in other]
    assert len(set(written)) > 4


# ------------------------------------------------------------------------------- the evaluator


def test_a_perfect_system_and_its_control():
    texts = [text for text in tiny.SENTENCES if len(text.split()) > 3]  # BLEU asks for 4-grams
    found = Reconstruction(3, resamples=20)(Planted(texts), EvaluationData(texts))
    assert found.rows[0]["measure"] == Reconstruction().primary.name == "BLEU"
    for row in found.rows:
        assert row["value"] == pytest.approx(100 if row["measure"] == "BLEU" else 1)
        assert row["low"] == pytest.approx(row["value"])
        assert row["control"] < 0.6 * row["value"]
    for name in ("BLEU", "exact match", "token F1"):
        sizes = [row["n"] for row in found.rows if row["measure"] == name]
        assert sizes[0] == sum(sizes[1:]) == len(texts)
    for row in found.tables["reconstructions"]:
        assert row["text"] == row["reconstruction"] != row["shuffled"]
        assert row["bleu"] == 100


def test_equal_sentences_are_no_control():
    """A sentence that comes twice must not be held against its own text."""
    texts = ["robots paint", "an owl reads", "robots paint", "a lemon is sour"]
    found = Reconstruction(resamples=20)(Planted(texts), EvaluationData(texts))
    assert all(row["text"] != row["shuffled"] for row in found.tables["reconstructions"])


def test_numbers_are_those_of_the_texts(model):
    data = EvaluationData(tiny.SENTENCES, seed=4)
    found = Reconstruction(3, resamples=20)(model, data)
    written = model.reconstruct(tiny.SENTENCES)
    table = found.tables["reconstructions"]
    assert [row["reconstruction"] for row in table] == written
    assert found.value("BLEU") == pytest.approx(reconstruction_bleu(written, tiny.SENTENCES))
    assert found.value("exact match") == exact_match(written, tiny.SENTENCES)
    cosine = similarity.encoder_cosine(written, tiny.SENTENCES, model.encoder)
    assert found.value("encoder cosine") == pytest.approx(cosine, abs=1e-5)
    shuffled = [row["shuffled"] for row in table]
    control = {row["measure"]: row["control"] for row in found.rows if not row["group"]}
    assert control["BLEU"] == pytest.approx(reconstruction_bleu(shuffled, tiny.SENTENCES))
    cosine = similarity.encoder_cosine(shuffled, tiny.SENTENCES, model.encoder)
    assert control["encoder cosine"] == pytest.approx(cosine, abs=1e-5)
    again = Reconstruction(8, resamples=20)(model, data)
    assert [row["reconstruction"] for row in again.tables["reconstructions"]] == written


def test_the_interval_of_a_share():
    """Half of 400 sentences come back: 0.5 ± 1.96 · 0.5 / 20."""
    texts = [f"sentence {i}" for i in range(400)]
    written = [text if i % 2 else "nothing" for i, text in enumerate(texts)]
    found = Reconstruction()(Planted(texts, written), EvaluationData(texts))
    row = next(row for row in found.rows if row["measure"] == "exact match")
    assert row["value"] == 0.5
    assert (row["low"], row["high"]) == pytest.approx((0.451, 0.549), abs=0.01)


def test_empty_texts():
    texts = ["a dog", "a cat", "an owl"]
    found = Reconstruction(resamples=20)(Planted(texts, ["", "", ""]), EvaluationData(texts))
    assert all(row["value"] == row["control"] == 0 for row in found.rows)


def test_models_that_are_asked_for(bert):
    _, tokenizer = bert
    rating = hf.AutoModelForSequenceClassification.from_pretrained(
        tiny.encoder("bert"), num_labels=1
    )
    written = tiny.SENTENCES[:4] + tiny.SENTENCES[:4]
    options = {"bertscore": bert, "bertscore_layer": 2, "resamples": 20}
    evaluator = Reconstruction(bleurt=(rating, tokenizer), **options)
    found = evaluator(Planted(tiny.SENTENCES, written), EvaluationData(tiny.SENTENCES))
    score = bert_score(written, tiny.SENTENCES, bert, 2).mean().item()
    assert found.value("BERTScore") == pytest.approx(score)
    score = similarity.bleurt(written, tiny.SENTENCES, (rating, tokenizer))
    assert found.value("BLEURT") == pytest.approx(score)
    plain = Reconstruction(resamples=20)(Planted(tiny.SENTENCES), EvaluationData(tiny.SENTENCES))
    assert not {"BERTScore", "BLEURT", "encoder cosine"} & {row["measure"] for row in plain.rows}


def test_a_system_that_cannot_decode(model):
    with pytest.raises(UserError, match="cannot decode"):
        Reconstruction()(model.encoder, EvaluationData(tiny.SENTENCES))


def test_names_are_documented_once():
    names = [measure.name for measure in Reconstruction.measures]
    assert len(set(names)) == len(names)
    assert all(measure.control for measure in Reconstruction.measures)
