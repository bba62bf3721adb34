from __future__ import annotations

import pytest
import sacrebleu
import torch
import transformers as hf
from tests import tiny

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.evaluators.reconstruction import (
    Reconstruction,
    decode_by_length,
    length_groups,
)
from llamavae.metrics import semantic
from llamavae.metrics.bootstrap import bootstrap_interval
from llamavae.metrics.control import derangement
from llamavae.metrics.ngrams import corpus_bleu, exact_match, token_f1
from llamavae.modeling.loading import load_sentence_encoder


class Planted:
    """Each of `texts` is a point of its own, and comes back as it is or as `predictions` says."""

    def __init__(self, texts, predictions=None):
        self.texts, self.predictions = list(texts), list(predictions or texts)
        self.batches = []

    def encode(self, texts):
        return torch.eye(len(self.texts))[[self.texts.index(text) for text in texts]]

    def decode(self, z):
        numbers = z.argmax(1).tolist()
        self.batches.append(numbers)
        return [self.predictions[i] for i in numbers]


# ------------------------------------------------------------------------------- decoding


def test_texts_of_similar_length_are_decoded_together():
    texts = ["one two three four", "x", "one two three", "y", "one two"]
    system = Planted(texts)
    assert decode_by_length(system, torch.eye(5), [4, 1, 3, 1, 2], batch_size=2) == texts
    assert system.batches == [[0, 2], [4, 1], [3]]


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


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return tiny.vae()


def test_shuffled_texts_are_those_of_shuffled_points(model):
    """So nothing has to be decoded anew for the control."""
    z = 3 * torch.randn(8, tiny.LATENT)
    other = derangement(8, torch.Generator().manual_seed(0))
    lengths = [len(text) for text in tiny.SENTENCES]
    predictions = decode_by_length(model, z, lengths, 3)
    again = decode_by_length(model, z[other], lengths, 3)
    assert again == [predictions[i] for i in other]
    assert len(set(predictions)) > 4


# ------------------------------------------------------------------------------- the evaluator


def test_a_perfect_system_and_its_control():
    texts = [text for text in tiny.SENTENCES if len(text.split()) > 3]  # BLEU asks for 4-grams
    found = Reconstruction(3, resamples=20)(Planted(texts), EvaluationData(texts))
    assert found.rows[0]["metric"] == Reconstruction().primary.name == "BLEU"
    for row in found.rows:
        assert row["value"] == pytest.approx(100 if row["metric"] in ("BLEU", "chrF") else 1)
        assert row["low"] == pytest.approx(row["value"])
        assert row["control"] < 0.6 * row["value"]
    for name in ("BLEU", "chrF", "exact match", "token F1"):
        sizes = [row["n"] for row in found.rows if row["metric"] == name]
        assert sizes[0] == sum(sizes[1:]) == len(texts)
    for row in found.tables["predictions"]:
        assert row["reference"] == row["prediction"] != row["control"]
        assert row["bleu"] == 100


def test_equal_sentences_are_no_control():
    """A sentence that comes twice must not be held against its own text."""
    texts = ["robots paint", "an owl reads", "robots paint", "a lemon is sour"]
    found = Reconstruction(resamples=20)(Planted(texts), EvaluationData(texts))
    assert all(row["reference"] != row["control"] for row in found.tables["predictions"])


def test_numbers_are_those_of_the_texts(model):
    data = EvaluationData(tiny.SENTENCES, seed=4)
    found = Reconstruction(3, resamples=20)(model, data)
    predictions = model.reconstruct(tiny.SENTENCES)
    table = found.tables["predictions"]
    assert [row["prediction"] for row in table] == predictions
    assert found.value("BLEU") == pytest.approx(corpus_bleu(predictions, tiny.SENTENCES))
    chrf = sacrebleu.corpus_chrf(predictions, [tiny.SENTENCES]).score
    assert found.value("chrF") == pytest.approx(chrf)
    assert found.value("exact match") == exact_match(predictions, tiny.SENTENCES)
    cosine = semantic.encoder_cosines(predictions, tiny.SENTENCES, model.encoder).mean().item()
    assert found.value("encoder cosine") == pytest.approx(cosine, abs=1e-5)
    shuffled = [row["control"] for row in table]
    control = {row["metric"]: row["control"] for row in found.rows if not row["group"]}
    assert control["BLEU"] == pytest.approx(corpus_bleu(shuffled, tiny.SENTENCES))
    cosine = semantic.encoder_cosines(shuffled, tiny.SENTENCES, model.encoder).mean().item()
    assert control["encoder cosine"] == pytest.approx(cosine, abs=1e-5)
    again = Reconstruction(8, resamples=20)(model, data)
    assert [row["prediction"] for row in again.tables["predictions"]] == predictions


def test_the_interval_of_a_share():
    """Half of 400 sentences come back: 0.5 ± 1.96 · 0.5 / 20."""
    texts = [f"sentence {i}" for i in range(400)]
    predictions = [text if i % 2 else "nothing" for i, text in enumerate(texts)]
    found = Reconstruction()(Planted(texts, predictions), EvaluationData(texts))
    row = next(row for row in found.rows if row["metric"] == "exact match")
    assert row["value"] == 0.5
    assert (row["low"], row["high"]) == pytest.approx((0.451, 0.549), abs=0.01)


def test_the_interval_of_bleu():
    texts = [f"the dog number {i} is a dog" for i in range(60)]
    predictions = [text.replace("is a", "eats") if i % 3 else text for i, text in enumerate(texts)]
    found = Reconstruction(resamples=50)(Planted(texts, predictions), EvaluationData(texts, seed=2))
    expected = bootstrap_interval(
        lambda items: corpus_bleu([predictions[i] for i in items], [texts[i] for i in items]),
        60,
        resamples=50,
        seed=2,
    )
    assert (found.rows[0]["low"], found.rows[0]["high"]) == pytest.approx(expected)


class Counting:
    """A sentence encoder that keeps what it encoded."""

    def __init__(self):
        self.encoded = []

    def encode(self, texts):
        self.encoded += texts
        return torch.tensor([[1.0, text.count("1"), text.count("2")] for text in texts])


def test_the_encoder_may_be_named_and_its_hash_stands_in_the_row(model):
    data = EvaluationData(tiny.SENTENCES)
    folder = tiny.encoder("bert-cls")
    encoder = load_sentence_encoder(folder)
    named = Reconstruction(encoder=str(folder), resamples=20)(model, data)
    assert named == Reconstruction(encoder=encoder, resamples=20)(model, data)
    assert judges(named) == {"encoder cosine": encoder.cache_key()}
    assert judges(Reconstruction(resamples=20)(model, data)) == {
        "encoder cosine": model.encoder.cache_key()
    }
    assert judges(Reconstruction(resamples=20)(Planted(tiny.SENTENCES), data)) == {}


def judges(found):
    return {row["metric"]: row["judge"] for row in found.rows if "judge" in row}


def test_controls_and_cosine_are_of_a_sample():
    texts = [f"sentence {i}" for i in range(400)] + ["one long sentence that comes " + "1 " * 9]
    predictions = [text if i % 2 else "nothing 1" for i, text in enumerate(texts)]
    system, encoder = Planted(texts, predictions), Counting()
    found = Reconstruction(encoder=encoder, sample=50, resamples=20)(system, EvaluationData(texts))
    sizes = {row["metric"]: row["n"] for row in found.rows if not row["group"]}
    assert sizes.pop("encoder cosine") == 50
    assert set(sizes.values()) == {401}
    table = found.tables["predictions"]
    drawn = [row for row in table if row["encoder cosine"] is not None]
    assert len(drawn) == 50
    assert found.value("encoder cosine") == pytest.approx(
        sum(row["encoder cosine"] for row in drawn) / 50, abs=1e-4
    )
    row = next(row for row in found.rows if row["metric"] == "token F1")
    assert row["value"] == pytest.approx(sum(row["token F1"] for row in table) / 401, abs=1e-4)
    control = sum(token_f1(row["control"], row["reference"]) for row in drawn) / 50
    assert row["control"] == pytest.approx(control)
    long = next(row for row in found.rows if row["group"] == "words 11 to 20")
    assert (long["n"], long["control"]) == (1, None)
    assert len(set(encoder.encoded)) == len(encoder.encoded)
    again = Reconstruction(encoder=encoder, sample=50, resamples=20)(system, EvaluationData(texts))
    assert again == found


def test_no_text_is_encoded_twice(model, monkeypatch):
    encoded = []
    plain = model.encoder.encode

    def encode(texts, *options):
        encoded.extend(texts)
        return plain(texts, *options)

    monkeypatch.setattr(model.encoder, "encode", encode)
    Reconstruction(resamples=20)(model, EvaluationData(tiny.SENTENCES))
    assert len(set(encoded)) == len(encoded)
    assert "" not in encoded


def test_a_llamavae_decodes_by_its_own_tokens(model, monkeypatch):
    batches = []
    plain = model.decode
    monkeypatch.setattr(model, "decode", lambda z: batches.append(z) or plain(z))
    Reconstruction(3, resamples=20)(model, EvaluationData(tiny.SENTENCES))
    z = model.encode(tiny.SENTENCES).mean
    tokens = [len(row) for row in model.decoder.tokenize(tiny.SENTENCES)[0]]
    order = sorted(range(8), key=lambda i: -tokens[i])
    assert torch.allclose(torch.cat(batches), z[order], atol=1e-5)


def test_a_sample_of_nothing():
    with pytest.raises(UserError, match=r"at least 1 sentence .*got 0"):
        Reconstruction(sample=0)


def test_empty_texts():
    texts = ["a dog", "a cat", "an owl"]
    found = Reconstruction(resamples=20)(Planted(texts, ["", "", ""]), EvaluationData(texts))
    assert all(row["value"] == row["control"] == 0 for row in found.rows)


def test_models_that_are_asked_for():
    bert = semantic.load_encoder(tiny.encoder("bert"))
    _, tokenizer = bert
    rating = hf.AutoModelForSequenceClassification.from_pretrained(
        tiny.encoder("bert"), num_labels=1
    )
    predictions = tiny.SENTENCES[:4] + tiny.SENTENCES[:4]
    options = {"bertscore": bert, "bertscore_layer": 2, "resamples": 20}
    evaluator = Reconstruction(bleurt=(rating, tokenizer), **options)
    found = evaluator(Planted(tiny.SENTENCES, predictions), EvaluationData(tiny.SENTENCES))
    score = semantic.bert_score(predictions, tiny.SENTENCES, bert, 2).mean().item()
    assert found.value("BERTScore") == pytest.approx(score)
    score = semantic.bleurt_scores(predictions, tiny.SENTENCES, (rating, tokenizer)).mean().item()
    assert found.value("BLEURT") == pytest.approx(score)
    for name in ("BERTScore", "BLEURT"):
        row = next(row for row in found.rows if row["metric"] == name)
        assert row["low"] <= row["value"] <= row["high"]
        items = found.items[name, ""]
        assert items.values.mean() == pytest.approx(row["value"])
        assert items.control is not None
        assert items.control.mean() == pytest.approx(row["control"])
    plain = Reconstruction(resamples=20)(Planted(tiny.SENTENCES), EvaluationData(tiny.SENTENCES))
    assert not {"BERTScore", "BLEURT", "encoder cosine"} & {row["metric"] for row in plain.rows}


def test_a_system_that_cannot_decode(model):
    with pytest.raises(UserError, match="cannot decode"):
        Reconstruction()(model.encoder, EvaluationData(tiny.SENTENCES))


def test_names_are_documented_once():
    names = [metric.name for metric in Reconstruction.metrics]
    assert len(set(names)) == len(names)
    assert all(metric.control for metric in Reconstruction.metrics)
