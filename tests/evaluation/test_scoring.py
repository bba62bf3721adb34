from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch
from nltk.tokenize import word_tokenize
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from tests import tiny

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.evaluators.reconstruction import Reconstruction
from llamavae.evaluation.predictions import (
    Prediction,
    Predictions,
    read_predictions,
    read_submission,
)
from llamavae.evaluation.results import read_results
from llamavae.evaluation.scoring import METRICS, Scorer
from llamavae.evaluation.suite import evaluate
from llamavae.metrics import semantic
from llamavae.metrics.ngrams import bleu_1, distinct_n, rouge
from llamavae.modeling.loading import load_sentence_encoder

TRIAL = Path(__file__).parents[3] / "shared/data/codwoe-it/it.trial.complete.json"
REFERENCES = [
    ("a lamp that fits in the hand", "a light that a person carries"),
    ("a dog that guards the house at night",),
    ("the sound of heavy rain on a roof", "noise of rain", "a drumming sound"),
    ("to lean to one side in a turn",),
]
TEXTS = [
    "a lamp that a person carries in the hand",
    "a dog that guards the house at night",
    "noise of heavy rain",
    "",
]
SYSTEM = Predictions(
    [
        Prediction(str(i), text, references)
        for i, (text, references) in enumerate(zip(TEXTS, REFERENCES, strict=True))
    ],
    "ours",
)
SINGLE = replace(
    SYSTEM, items=[replace(item, references=item.references[:1]) for item in SYSTEM.items]
)
SCORER = Scorer(resamples=20)


def values(predictions, scorer=SCORER):
    return {row["metric"]: row["value"] for row in scorer.score(predictions).rows}


def with_texts(texts, system=SINGLE, name="theirs"):
    pairs = zip(system.items, texts, strict=True)
    return replace(
        system, items=[replace(item, prediction=text) for item, text in pairs], system=name
    )


# ------------------------------------------------------------------------------- values


@pytest.mark.parametrize("system", [SYSTEM, SINGLE])
def test_bleu_and_chrf_are_those_of_sacrebleu_with_one_or_several_references(system):
    longest = max(len(item.references) for item in system.items)
    streams: list[Any] = [  # sacrebleu takes None where there are fewer references
        [item.references[k] if k < len(item.references) else None for item in system.items]
        for k in range(longest)
    ]
    rows = {row["metric"]: row for row in SCORER.score(system).rows}
    for name, metric in (("BLEU", sacrebleu.BLEU()), ("chrF", sacrebleu.CHRF())):
        expected = metric.corpus_score(TEXTS, streams).score
        assert rows[name]["value"] == pytest.approx(expected)
        assert rows[name]["signature"] == str(metric.get_signature())


def test_other_values_are_means_of_the_best_reference():
    found = values(SYSTEM)
    pairs = list(zip(TEXTS, REFERENCES, strict=True))
    for name, of in (("BLEU-1", bleu_1), ("ROUGE-L", lambda a, b: rouge(a, b)[2])):
        best = [max(of(text, each) for each in references) for text, references in pairs]
        assert found[name] == pytest.approx(sum(best) / 4)
    assert found["exact match"] == 1 / 4
    assert found["distinct-2"] == distinct_n(TEXTS)
    assert "sense-BLEU" not in found  # there are no lemmas


def test_values_by_models():
    folder = tiny.encoder("bert-mean")
    encoder = load_sentence_encoder(folder)
    options = {"mover": str(folder), "bertscore": str(folder), "bertscore_layer": 1}
    found = values(SYSTEM, Scorer(encoder, **options, resamples=5))
    texts = [text for text, references in zip(TEXTS, REFERENCES, strict=True) for _ in references]
    each = [text for references in REFERENCES for text in references]
    starts = [0, 2, 3, 6, 7]
    for name, scores in (
        ("MoverScore", semantic.mover_scores(texts, each, str(folder))),
        ("BERTScore", semantic.bert_score(texts, each, str(folder), 1)),
    ):
        best = [max(scores[a:b].tolist()) for a, b in pairwise(starts)]
        assert found[name] == pytest.approx(sum(best) / 4)
    # an empty text has cosine 0 with every reference
    full = semantic.encoder_cosines(texts[:-1], each[:-1], encoder)
    best = [max(full[a:b].tolist()) for a, b in pairwise(starts[:4])]
    assert found["encoder cosine"] == pytest.approx(sum(best) / 4, abs=1e-5)


# ------------------------------------------------------------------------------- controls


def test_the_control_is_that_of_the_file():
    controls = ["a dog", "a lamp", "to lean to one side in a turn", "the sound"]
    given = replace(
        SINGLE,
        items=[
            replace(item, control=text) for item, text in zip(SINGLE.items, controls, strict=True)
        ],
    )
    rows = SCORER.score(given).rows
    exchanged = values(with_texts(controls))
    for row in rows:
        if not row["metric"].startswith("distinct"):
            assert row["control"] == pytest.approx(exchanged[row["metric"]])


def test_without_a_control_the_predictions_are_exchanged():
    same = with_texts([item.references[0] for item in SINGLE.items])
    for row in SCORER.score(same).rows:
        if row["metric"].startswith("distinct"):
            assert row["control"] == row["value"]
        else:
            assert row["control"] < row["value"]
    alone = replace(SINGLE, items=SINGLE.items[:1])
    assert all(r["control"] is None for r in SCORER.score(alone).rows if r["low"] is not None)


def test_intervals_contain_the_value():
    for row in Scorer(resamples=200).score(SINGLE).rows:
        assert (row["low"] is None) == row["metric"].startswith("distinct")
        if row["low"] is not None:
            assert row["low"] <= row["value"] + 1e-9
            assert row["value"] <= row["high"] + 1e-9
        assert METRICS[row["metric"]].control


# ------------------------------------------------------------------------------- an evaluation


class Shortens:
    """Each sentence is a point of its own; its text lacks the last word."""

    def __init__(self, texts):
        self.texts = list(texts)

    def encode(self, texts):
        return torch.eye(len(self.texts))[[self.texts.index(text) for text in texts]]

    def decode(self, z):
        return [self.texts[i].rpartition(" ")[0] for i in z.argmax(1).tolist()]


def test_the_file_of_an_evaluation_gives_its_numbers(tmp_path):
    data = EvaluationData(tiny.SENTENCES, seed=3)
    evaluator = Reconstruction(resamples=20)
    corpus = {"corpus": "zoo", "split": "test"}
    evaluate(Shortens(tiny.SENTENCES), data, [evaluator], tmp_path, name="shortens", corpus=corpus)
    file = tmp_path / "reconstruction" / "predictions.jsonl"
    read = read_predictions(file)
    assert (read.system, read.task) == ("shortens", "reconstruction")
    assert (read.benchmark, read.split) == ("zoo", "test")
    assert [item.references for item in read.items] == [(text,) for text in tiny.SENTENCES]
    scored = {row["metric"]: row for row in Scorer(resamples=20, seed=3).score(read).rows}
    expected = [row for row in read_results(tmp_path).rows if not row["group"]]
    assert len(expected) >= 8
    for row in expected:
        for key in ("value", "low", "high", "control"):
            assert scored[row["metric"]][key] == pytest.approx(row[key]), row["metric"]


# ------------------------------------------------------------------------------- CODWOE


def official_scores(submission, reference):
    """sense-BLEU and lemma-BLEU in the steps of CODWOE's score.py, on texts of one sentence."""

    def words(text):
        return word_tokenize(text, preserve_line=True)

    def bleu(text, gold):
        score = sentence_bleu([text], gold, smoothing_function=SmoothingFunction().method4)
        assert isinstance(score, int | float)
        return score

    pairs = list(
        zip(*(sorted(x, key=lambda r: r["id"]) for x in (submission, reference)), strict=True)
    )
    groups = defaultdict(list)
    for _, gold in pairs:
        groups[gold["word"], gold["pos"]].append(words(gold["gloss"]))
    sense = [bleu(words(text["gloss"]), words(gold["gloss"])) for text, gold in pairs]
    lemma = [
        max(bleu(words(text["gloss"]), each) for each in groups[gold["word"], gold["pos"]])
        for text, gold in pairs
    ]
    return sum(sense) / len(sense), sum(lemma) / len(lemma)


def check_codwoe(official, texts, place):
    submitted = [
        {"id": item["id"], "gloss": text} for item, text in zip(official, texts, strict=True)
    ]
    (place / "gold.json").write_text(json.dumps(official))
    (place / "mine.json").write_text(json.dumps(submitted))
    found = values(read_submission(place / "mine.json", place / "gold.json"))
    sense, lemma = official_scores(submitted, official)
    assert found["sense-BLEU"] == pytest.approx(sense, abs=1e-12)
    assert found["lemma-BLEU"] == pytest.approx(lemma, abs=1e-12)
    return sense, lemma


def test_scores_are_those_of_codwoes_scorer(tmp_path):
    words = [("bank", "noun"), ("bank", "noun"), ("bank", "verb"), ("din", "noun"), ("din", "noun")]
    glosses = [
        "sloping land beside a body of water",
        "an institution that keeps and lends money",
        "tip to the side, as a plane does in a turn",
        "a loud and harsh noise",
        "the noise of a crowd",
    ]
    official = [
        {"id": f"xx.test.{i}", "word": word, "pos": pos, "gloss": gloss}
        for i, ((word, pos), gloss) in enumerate(zip(words, glosses, strict=True))
    ]
    texts = [glosses[1], "the land beside water", "tip to the side", "", "a harsh noise of a crowd"]
    sense, lemma = check_codwoe(official, texts, tmp_path)
    assert 0 < sense < lemma < 1


@pytest.mark.skipif(not TRIAL.is_file(), reason="the Italian trial file of CODWOE is not here")
def test_scores_of_a_trial_file_are_those_of_codwoes_scorer(tmp_path):
    official = json.loads(TRIAL.read_text(encoding="utf-8"))
    for item in official[1::3]:  # a second sense of the word before
        item["word"], item["pos"] = (official[official.index(item) - 1][k] for k in ("word", "pos"))
    texts = [official[(i + i % 2) % len(official)]["gloss"] for i in range(len(official))]
    sense, lemma = check_codwoe(official, texts, tmp_path)
    assert 0 < sense < lemma < 1


def test_further_senses_count_for_the_lemma_only():
    item = Prediction("0", "a tall tower", ("a light",), lemma="beacon", senses=("a tall tower",))
    other = Prediction("1", "a tree", ("a tree",), lemma="elm")
    found = values(Predictions([item, other]))
    without = values(Predictions([replace(item, senses=()), other]))
    assert found["lemma-BLEU"] > without["lemma-BLEU"]
    assert found["sense-BLEU"] == without["sense-BLEU"]


# ------------------------------------------------------------------------------- comparison


def test_systems_are_tested_on_the_same_items_in_any_order():
    n = 40
    items = [Prediction(str(i), "a dog", (f"the number {i} of a dog",)) for i in range(n)]
    first = Predictions(items, "first")
    good = [replace(item, prediction=item.references[0]) for item in reversed(items)]
    rows = Scorer(resamples=100).compare([first, Predictions(good, "second")])
    found = {(row["metric"], row["system"]): row for row in rows}
    assert "evaluator" not in rows[0]
    exact = found["exact match", "second"]
    assert (exact["difference"], exact["verdict"]) == (1, "better")
    assert exact["p"] < 0.05
    assert exact["test"] == "paired bootstrap"
    assert found["exact match", "first"]["p"] is None
    assert found["distinct-1", "second"]["p"] is None
    rows = Scorer(resamples=100).compare([first, Predictions(items[::-1], "same")])
    assert all(row["p"] in (None, 1) for row in rows)
    assert not any(math.isnan(row["value"]) for row in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "dev"}, "the split of one is 'test', that of the other 'dev'"),
        ({"benchmark": "farm"}, "the benchmark of one is 'zoo', that of the other 'farm'"),
        ({"items": SINGLE.items[:3]}, "theirs lacks 1 of them, such as '3'"),
        ({"items": [*SINGLE.items, Prediction("9", "a", ("b",))]}, "ours lacks 1 of them"),
        (
            {"items": [replace(SINGLE.items[0], references=("x",)), *SINGLE.items[1:]]},
            "expected the same references for the same items; item '0'",
        ),
        ({"system": "ours"}, "systems with different names; got ours, ours"),
    ],
)
def test_other_data_are_not_compared(change, message):
    first = replace(SINGLE, benchmark="zoo", split="test")
    with pytest.raises(UserError, match=message):
        SCORER.compare([first, replace(first, **{"system": "theirs"} | change)])
