"""A fitted CVAE beside the nearest training words, alone and in sentences."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from tests import tiny

from llamavae.baselines import NearestNeighbour
from llamavae.errors import UserError
from llamavae.experiments.fitted import NEAREST_ALONE, FittedStudy, study_fitted
from llamavae.experiments.study import NEAREST, differences
from llamavae.flows import FitConfig
from llamavae.guidance import EncoderCondition, InvertibleCVAE, make_pairs


def rows(start: int, count: int) -> Dataset:
    """Words with a sentence, but for every third; two senses of each word."""
    numbers = [i for i in range(start, start + count) for _ in range(2)]
    words = [f"w{i}" for i in numbers]
    texts = [f"{tiny.SENTENCES[n % 8]} {n}" for n in range(2 * start, 2 * (start + count))]
    sentences = [
        None if n % 3 == 0 else f"{tiny.SENTENCES[-n % 8]} {w}" for n, w in enumerate(words)
    ]
    return Dataset.from_dict({"text": texts, "word": words, "sentence": sentences})


SPLITS = {"train": rows(0, 40), "validation": rows(40, 5), "test": rows(60, 10)}


@pytest.fixture(scope="module")
def cvae():
    torch.manual_seed(0)
    vae = tiny.vae(max_tokens=8)
    assert vae.encoder is not None
    model = InvertibleCVAE.build(vae, EncoderCondition(vae.encoder), "glow")
    pairs = make_pairs(SPLITS["train"], model.condition)
    model.fit(pairs, config=FitConfig(steps=3, eval_every=3, batch_size=16))
    return model


@pytest.fixture(scope="module")
def in_sentences(cvae):
    return study_fitted(cvae, SPLITS, context="sentence", texts=8)


def test_words_alone(cvae):
    study = study_fitted(cvae, SPLITS, texts=5, draws=3, spread=1.0, seed=1)
    asked = study.task.words[:5]
    assert study.texts == {
        "centre of p(z|c)": cvae.generate(asked, 1, 0.0),
        "best of 3 draws": cvae.generate(asked, 1, 1.0, 1, draws=3),
        NEAREST: NearestNeighbour(cvae.condition, study.task.train).generate(asked),
    }
    assert_scored(study, 5, seed=1)


def test_words_in_sentences(cvae, in_sentences):
    task, asked = in_sentences.task, in_sentences.task.conditions[:8]
    alone = "best of 8 draws by the word alone"
    assert list(in_sentences.texts)[-3:] == [NEAREST, NEAREST_ALONE, alone]
    assert in_sentences.texts[alone] == cvae.generate(task.words[:8], 1, 0.5, 0, draws=8)
    assert all(context is not None for _, context in asked)
    copied = NearestNeighbour(task.condition, task.train).generate(asked)
    assert in_sentences.texts[NEAREST] == copied
    assert_scored(in_sentences, 8, seed=0)
    tested = {row["system"] for row in differences(in_sentences.rows, [NEAREST_ALONE])}
    assert tested == in_sentences.texts.keys() - {NEAREST_ALONE}


def test_the_word_alone_finds_what_it_finds_without_sentences(cvae, in_sentences):
    alone = study_fitted(cvae, SPLITS, texts=10)
    known = dict(zip(alone.task.words, alone.texts[NEAREST], strict=True))
    expected = [known[word] for word in in_sentences.task.words[:8]]
    assert in_sentences.texts[NEAREST_ALONE] == expected
    assert in_sentences.texts[NEAREST] != expected


def test_equal_draws_are_an_error(cvae):
    with pytest.raises(UserError, match="all 3 draws are equal"):
        study_fitted(cvae, SPLITS, draws=3, spread=0.0)


def assert_scored(study: FittedStudy, count: int, seed: int) -> None:
    """Each system has all metrics, with their controls and intervals."""
    metrics = {"sense-BLEU", "lemma-BLEU", "BLEU", "encoder cosine", "distinct-2"}
    for system, texts in study.texts.items():
        rows = {row["metric"]: row for row in study.rows if row["system"] == system}
        assert rows.keys() == metrics
        assert len(texts) == count
        assert {(row["n"], row["seed"]) for row in rows.values()} == {(count, seed)}
        cosine = rows["encoder cosine"]
        assert cosine["low"] < cosine["value"] < cosine["high"]
        assert cosine["control"] is not None
