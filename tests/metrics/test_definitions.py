from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import transformers as hf
from nltk.tokenize import word_tokenize
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from tests import tiny

from llamavae.errors import UserError
from llamavae.metrics import retrieval, semantic
from llamavae.metrics.bootstrap import bootstrap_interval, draws, percentile_interval
from llamavae.metrics.definitions import SCORES, lemma_bleus, score_definitions
from llamavae.metrics.metric import AGGREGATES
from llamavae.metrics.ngrams import corpus_bleu
from llamavae.modeling.loading import load_sentence_encoder

LEMMAS = [("bank", "n"), ("bank", "n"), ("dog", "n"), ("din", "n"), ("bank", "v")]
REFERENCES = [
    "sloping land beside a body of water",
    "an institution that keeps and lends money",
    "a kind of animal that barks and guards the house",
    "a loud and harsh noise",
    "tip to the side, as a plane does in a turn",
]
WRITTEN = [
    "an institution that lends and keeps money",
    "the land beside a body of water",
    "a kind of animal",
    "",
    "tip to the side, as a plane does in a steep turn.",
]


def official(text, reference):
    """How code/score.py of CODWOE calls nltk."""
    gold = word_tokenize(reference, preserve_line=True)
    smoothing = SmoothingFunction().method4
    bleu = sentence_bleu(
        [word_tokenize(text, preserve_line=True)], gold, smoothing_function=smoothing
    )
    assert isinstance(bleu, int | float)
    return bleu


def sense_bleu(predictions, references):
    return lemma_bleus(predictions, references, range(len(references))).mean()


def lemma_bleu(predictions, references, lemmas, senses=None):
    return lemma_bleus(predictions, references, lemmas, senses).mean()


def mean(values):
    return sum(values) / len(values)


# ------------------------------------------------------------------------------- n-grams


def test_sense_bleu_is_that_of_the_official_scorer():
    each = [official(text, gold) for text, gold in zip(WRITTEN, REFERENCES, strict=True)]
    assert sense_bleu(WRITTEN, REFERENCES) == pytest.approx(mean(each), abs=1e-12)
    assert each[4] > 0.5
    assert each[3] == 0


def test_lemma_bleu_is_that_of_the_official_scorer():
    each = [
        max(official(text, REFERENCES[j]) for j, other in enumerate(LEMMAS) if other == lemma)
        for text, lemma in zip(WRITTEN, LEMMAS, strict=True)
    ]
    assert lemma_bleu(WRITTEN, REFERENCES, LEMMAS) == pytest.approx(mean(each), abs=1e-12)


def test_the_other_sense_counts_for_the_lemma_and_another_part_of_speech_does_not():
    texts = [REFERENCES[1], REFERENCES[0], REFERENCES[2], REFERENCES[3], REFERENCES[4]]
    assert lemma_bleu(texts, REFERENCES, LEMMAS) == pytest.approx(1)
    assert sense_bleu(texts, REFERENCES) == pytest.approx(3 / 5, abs=0.02)
    texts[0], texts[4] = texts[4], texts[0]
    assert lemma_bleu(texts, REFERENCES, LEMMAS) < 0.9


def test_senses_that_are_no_references_count_for_the_lemma():
    predictions, references = ["a kind of dog that barks"], ["the end of a tale"]
    senses = {"w": ["a kind of dog that barks", "a sail"], "x": ["a tale"]}
    assert lemma_bleu(predictions, references, ["w"], senses) == pytest.approx(1)
    assert lemma_bleu(predictions, references, ["y"], senses) < 0.1
    assert sense_bleu(predictions, references) < 0.1


def test_roles_are_exchanged():
    """Precision is over the gold, and the penalty is for golds shorter than the text."""
    long, short = "a kind of dog that barks", "a kind of dog"
    assert sense_bleu([long], [short]) == pytest.approx(2.718281828 ** (1 - 6 / 4))
    precisions = (4 / 6) * (3 / 5) * (2 / 4) * (1 / 3)
    assert sense_bleu([short], [long]) == pytest.approx(precisions**0.25)


def test_texts_are_cut_into_words_and_case_counts():
    assert sense_bleu(["tip to the side, as."], ["tip to the side , as ."]) == pytest.approx(1)
    assert sense_bleu(["A Kind Of Dog"], ["a kind of dog"]) == 0


@pytest.mark.parametrize(
    ("text", "reference"), [("", "a kind of dog"), ("a kind of dog", ""), ("", ""), ("cat", "dog")]
)
def test_texts_without_common_words_score_nothing(text, reference):
    assert sense_bleu([text], [reference]) == pytest.approx(0, abs=1e-12)
    assert lemma_bleu([text], [reference], ["w"]) == pytest.approx(0, abs=1e-12)


def test_a_pair_without_a_common_4_gram_has_a_smoothed_score():
    """Computed by hand: precisions 4/4 and 2/3, then (ln 4 / 10) / 2 and (ln 4 / 20) / 1."""
    expected = (1 * (2 / 3) * (math.log(4) / 10 / 2) * (math.log(4) / 20)) ** 0.25
    assert sense_bleu(["red dog or a kind of"], ["a kind dog or"]) == pytest.approx(
        math.exp(1 - 6 / 4) * expected
    )


# ------------------------------------------------------------------------------- the table


def rows_of(predictions, **options):
    rows = score_definitions(predictions, REFERENCES, LEMMAS, **options)
    return {row["metric"]: row for row in rows}


def test_table_without_models():
    rows = rows_of(WRITTEN)
    assert list(rows) == ["sense-BLEU", "lemma-BLEU", "BLEU"]
    assert rows["sense-BLEU"]["value"] == sense_bleu(WRITTEN, REFERENCES)
    assert rows["lemma-BLEU"]["value"] == lemma_bleu(WRITTEN, REFERENCES, LEMMAS)
    assert rows["BLEU"]["value"] == corpus_bleu(WRITTEN, REFERENCES)
    for name, row in rows.items():
        of = AGGREGATES[SCORES[name].aggregate]
        assert of(row["items"].values) == pytest.approx(row["value"])
        assert of(row["items"].control) == pytest.approx(row["control"])
        assert (row["unit"], row["direction"]) == (SCORES[name].unit, SCORES[name].direction)
        assert row["n"] == 5
        assert 0 <= row["low"] < row["value"] < row["high"] <= 100
    assert rows_of(WRITTEN) == rows
    assert rows_of(WRITTEN, seed=1) != rows


def test_table_with_models(tmp_path):
    encoder = load_sentence_encoder(tiny.encoder("bert-mean"))
    bleurt = tiny_bleurt(tmp_path)
    rows = rows_of(WRITTEN, encoder=encoder, mover=tiny.encoder("bert"), bleurt=bleurt)
    assert list(rows)[3:] == ["MoverScore", "encoder cosine", "BLEURT"]
    assert set(rows) < set(SCORES)
    cosine = semantic.encoder_cosines(WRITTEN, REFERENCES, encoder).mean().item()
    assert rows["encoder cosine"]["value"] == pytest.approx(cosine)
    mover = semantic.mover_scores(WRITTEN, REFERENCES, tiny.encoder("bert")).mean().item()
    assert rows["MoverScore"]["value"] == pytest.approx(mover)
    rating = semantic.bleurt_scores(WRITTEN, REFERENCES, bleurt).mean().item()
    assert rows["BLEURT"]["value"] == rating
    for name, row in rows.items():
        if name != "BLEU":  # all others are means
            assert len(row["items"].values) == row["n"]
            assert row["items"].values.mean() == pytest.approx(row["value"])
            assert row["items"].control.mean() == pytest.approx(row["control"])
    assert all(row["value"] != row["control"] for row in rows.values())


def tiny_bleurt(folder):
    config = hf.BertConfig.from_pretrained(tiny.encoder("bert"), num_labels=1)
    hf.BertForSequenceClassification(config).save_pretrained(folder)
    tiny.tokenizer(template="[CLS] $A [SEP]").save_pretrained(folder)
    return folder


def test_intervals_are_those_of_the_items():
    rows = rows_of(WRITTEN, seed=3)
    values = rows["sense-BLEU"]["items"].values
    low, high = bootstrap_interval(lambda i: values[i].mean(), 5, seed=3)
    assert (rows["sense-BLEU"]["low"], rows["sense-BLEU"]["high"]) == (low, high)
    drawn = [
        corpus_bleu([WRITTEN[i] for i in items], [REFERENCES[i] for i in items])
        for items in draws(5, seed=3)
    ]
    expected = pytest.approx(percentile_interval(drawn))
    assert (rows["BLEU"]["low"], rows["BLEU"]["high"]) == expected


def test_right_texts_are_perfect_and_exchanged_ones_are_not():
    for row in rows_of(REFERENCES).values():
        assert row["value"] == pytest.approx(100 if row["metric"] == "BLEU" else 1)
        assert row["control"] < 0.2 * row["value"]


def test_one_text_for_all_is_not_changed_by_the_exchange():
    for row in rows_of(["a kind of animal that barks and lends money"] * 5).values():
        assert row["value"] == row["control"] > 0


def test_the_control_is_of_another_word_and_another_definition():
    """Two words of one synset share a definition; two senses share a word."""
    words = ["dog", "domestic dog", "bank", "bank", "din", "ruckus"]
    golds = ["an animal that barks loudly"] * 2 + REFERENCES[:2] + ["a loud and harsh noise"] * 2
    for seed in range(20):
        for row in score_definitions(golds, golds, words, seed=seed):
            assert row["control"] < 0.1 * row["value"]


def test_what_cannot_be_scored():
    with pytest.raises(UserError, match="got 2 texts, 1 references and 1 lemmas"):
        sense_bleu(["a", "b"], ["a"])
    with pytest.raises(UserError, match="got 0 texts"):
        lemma_bleu([], [], [])
    with pytest.raises(UserError, match="2 references and 1 lemmas"):
        score_definitions(["a", "b"], ["a", "b"], ["w"])
    with pytest.raises(UserError, match="at least 2"):
        score_definitions(["a"], ["a"], ["w"])


# ------------------------------------------------------------------------------- the manual

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


@pytest.mark.parametrize(
    "score", [*SCORES.values(), *retrieval.SCORES.values()], ids=lambda s: s.name
)
def test_every_score_is_documented(score):
    cells = [line.strip("| \n").split(" | ") for line in PAGE.read_text().splitlines()]
    (row,) = [row for row in cells if row[0] == score.name]
    assert row[2:] == [score.unit, score.direction]


def test_seeds_of_torch_are_left_alone():
    state = torch.get_rng_state()
    rows_of(WRITTEN)
    assert torch.equal(torch.get_rng_state(), state)
