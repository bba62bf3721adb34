"""Studies on a tiny VAE: every system is scored on held-out words, with its controls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tests import tiny

from llamavae.baselines import NearestNeighbour, PromptedDecoder, TunedDecoder
from llamavae.errors import UserError
from llamavae.experiments.prompts import definition_prompts
from llamavae.experiments.study import (
    definition_task,
    differences,
    study_definitions,
    study_flows,
)
from llamavae.flows import FitConfig
from llamavae.flows.fitting import _Run
from llamavae.guidance import EncoderCondition, InvertibleCVAE
from llamavae.metrics import semantic
from llamavae.metrics.metric import Items

SYSTEMS = (
    *("invertible CVAE (glow)", "linear-gaussian", "gaussian (no condition)"),
    *("nearest neighbour", "nearest neighbour, reconstructed", "prompted decoder"),
    *("tuned decoder", "CVAE", "reconstruction (ceiling)"),
)
FITTING = FitConfig(steps=3, eval_every=3, batch_size=16)


def rows(start: int, count: int) -> Dataset:
    texts = [f"{tiny.SENTENCES[i % 8]} {i}" for i in range(start, start + count)]
    return Dataset.from_dict(
        {"text": texts, "word": [f"w{i}" for i in range(start, start + count)]}
    )


@pytest.fixture(scope="module")
def splits():
    test = rows(60, 10)
    seen = Dataset.from_dict({"text": ["a known thing"], "word": ["w3"]})
    twice = Dataset.from_dict({"text": ["another sense of this word"], "word": ["w60"]})
    joined = {key: [*test[key], *seen[key], *twice[key]] for key in ("text", "word")}
    return {"train": rows(0, 40), "validation": rows(40, 8), "test": Dataset.from_dict(joined)}


@pytest.fixture(scope="module")
def task(splits):
    torch.manual_seed(0)
    vae = tiny.vae(max_tokens=8)
    assert vae.encoder is not None
    return definition_task(vae, EncoderCondition(vae.encoder), splits, texts=4)


def test_the_task_holds_out_words(task, splits):
    assert len(task.train) == 40
    assert set(task.test.names) == {f"w{i}" for i in range(60, 70)}  # each once, none seen before
    for name, text in zip(task.test.names, task.test.texts, strict=True):
        assert (name, text) in set(zip(splits["test"]["word"], splits["test"]["text"], strict=True))


def test_all_senses_of_a_word_count_for_its_lemma(task, splits, monkeypatch):
    assert sorted(task.senses["w60"]) == sorted(
        ["another sense of this word", splits["test"]["text"][0]]
    )
    whole = replace(task, texts=len(task.test))
    other = {
        n: next(t for t in task.senses[n] if t != own or len(task.senses[n]) == 1)
        for n, own in zip(task.test.names, task.test.texts, strict=True)
    }
    monkeypatch.setattr(type(task.vae), "reconstruct", lambda self, texts: list(other.values()))
    done = [f"{name}/0" for name in SYSTEMS if name != "reconstruction (ceiling)"]
    found = study_definitions(whole, FITTING, done=done)
    bleu = {row["metric"]: row["value"] for row in found}
    assert bleu["lemma-BLEU"] > bleu["sense-BLEU"]


def test_candidates_are_limited_and_chosen_by_the_seed(task, splits):
    def make(seed: int) -> list[str]:
        made = definition_task(task.vae, task.condition, splits, candidates=5, seed=seed)
        return made.test.names

    assert len(make(0)) == 5
    assert make(0) == make(0)
    assert make(0) != make(1)


def test_a_test_split_without_new_words_is_refused(task, splits):
    with pytest.raises(UserError, match="do not occur in training"):
        definition_task(task.vae, task.condition, splits | {"test": splits["train"]})


def test_flows_are_compared(task):
    kept = {}
    found = study_flows(
        task,
        ["glow", "maf", "linear-gaussian", "gaussian"],
        seeds=(0, 1),
        config=FITTING,
        keep=lambda n, r: kept.update({n: r}),
    )
    forms = ("reference", "conditional")
    expected = {f"{f} {form}/{s}" for f in ("glow", "maf") for form in forms for s in (0, 1)}
    assert set(kept) == expected | {"linear-gaussian/0", "gaussian/0"}
    assert found == [row for part in kept.values() for row in part]
    metrics = {row["metric"] for row in kept["glow reference/0"]}
    assert metrics >= {
        *("held-out NLL", "held-out NLL of gaussian", "held-out NLL of linear-gaussian"),
        *("inverse error", "fit time", "sampling time"),
        *("sense-BLEU", "lemma-BLEU", "BLEU", "encoder cosine", "distinct-2"),
        *("median rank", "MRR", "recall@10"),
    }
    assert {row["seed"] for row in kept["maf reference/1"]} == {1}
    for row in found:
        if row["control"] is not None or row["metric"] == "test NLL at the mean":
            assert row["low"] <= row["value"] <= row["high"], row


def test_what_is_done_is_not_done_again(task):
    done = ["glow reference/0", "gaussian/0"]
    found = study_flows(task, ["glow", "gaussian"], config=FITTING, done=done)
    assert {row["system"] for row in found} == {"glow conditional"}


def test_a_gaussian_that_ignores_the_condition_ranks_like_guessing(task):
    found = study_flows(task, ["gaussian"], config=FITTING)
    rank = next(row for row in found if row["metric"] == "median rank")
    assert rank["value"] == len(task.test)  # all are equal, and ties count against it


def test_systems_are_compared(task):
    kept = []
    found = study_definitions(
        task, FITTING, cvae_steps=2, tuned_steps=2, keep=lambda name, rows: kept.append(name)
    )
    assert kept == [f"{name}/0" for name in SYSTEMS]
    systems = {row["system"] for row in found}
    assert systems == set(SYSTEMS)
    for system in systems:
        row = next(r for r in found if r["system"] == system and r["metric"] == "encoder cosine")
        assert row["n"] == 4
        assert row["control"] is not None
    cosine = {r["system"]: r["value"] for r in found if r["metric"] == "encoder cosine"}
    copied = NearestNeighbour(task.condition, task.train).generate(task.conditions[: task.texts])
    through = semantic.encoder_cosines(
        task.vae.reconstruct(copied), task.test.texts[: task.texts], task.vae.encoder
    )
    mean = through.mean().item()
    assert cosine["nearest neighbour, reconstructed"] == pytest.approx(mean, abs=1e-6)
    nearest = {r["metric"] for r in found if r["system"] == "nearest neighbour"}
    assert "median rank" not in nearest  # it has no density


def only(*names: str) -> list[str]:
    """Names of the other systems, as done."""
    return [f"{name}/0" for name in SYSTEMS if name not in names]


def test_the_decoder_is_tuned_once(task, monkeypatch):
    def fit(self, pairs, **options):
        fits.append((pairs, options))
        return true(self, pairs, **options)

    fits, true = [], TunedDecoder.fit
    monkeypatch.setattr(TunedDecoder, "fit", fit)
    asked: dict[str, Any] = {"tuned_steps": 2, "seed": 0}
    found = study_definitions(task, FITTING, done=only("tuned decoder"), **asked)
    assert {row["system"] for row in found} == {"tuned decoder"}
    assert fits == [(task.train, {"steps": 2, "seed": 0})]
    assert study_definitions(task, FITTING, done=only(), **asked) == []
    without = study_definitions(task, FITTING, done=only("tuned decoder"), tuned_steps=0)
    assert (without, len(fits)) == ([], 1)


@pytest.mark.parametrize("best", ["bare", "examples"])
def test_the_prompt_is_chosen_on_validation_pairs(task, monkeypatch, best):
    def generate(self, conditions, n=1, spread=1.0, seed=None, **options):
        calls.append((self.template, list(conditions)))
        chosen = self.template == definition_prompts(task.vae.decoder.tokenizer)[best]
        return [definitions[word] if chosen else "unrelated" for word in conditions]

    both = (task.valid, task.test)
    definitions = {w: t for pairs in both for w, t in zip(pairs.words, pairs.texts, strict=True)}
    calls = []
    monkeypatch.setattr(PromptedDecoder, "generate", generate)
    found = study_definitions(task, FITTING, done=only("prompted decoder"), tuned_steps=0)
    rows = {row["metric"]: row for row in found}
    for name in ("bare", "examples"):
        row = rows[f"validation sense-BLEU, prompt {name}"]
        assert (row["value"] > 0.5) == (name == best)
        assert row["n"] == len(task.valid)
    assert rows["sense-BLEU"]["value"] > 0.5
    assert [len(words) for _, words in calls] == [8, 8, 4]
    assert set(calls[0][1]) == set(task.valid.names)
    assert calls[2][0] == definition_prompts(task.vae.decoder.tokenizer)[best]


def test_fitted_models_are_kept(task, tmp_path):
    found = study_flows(task, ["glow"], ["reference"], config=FITTING, models=tmp_path)
    study_definitions(task, FITTING, cvae_steps=2, tuned_steps=0, models=tmp_path)
    names = {"glow-reference-0", "glow-0", "linear-gaussian-0", "gaussian-0"}
    assert {place.name for place in tmp_path.iterdir()} == names
    assert not list(tmp_path.glob("*/state"))
    model = InvertibleCVAE.from_pretrained(tmp_path / "glow-reference-0", task.vae)
    nll = next(row["value"] for row in found if row["metric"] == "held-out NLL")
    assert model.report["nll"] == nll
    cards = {place: (tmp_path / place / "README.md").read_text() for place in names}
    assert "form reference" in cards["glow-0"]
    assert "form reference" not in cards["gaussian-0"]  # it has one form


def test_an_interrupted_fit_goes_on(task, tmp_path, monkeypatch):
    config = FitConfig(steps=6, eval_every=3, batch_size=16)

    def study(models):
        options = {"config": config, "models": models}
        found = study_flows(task, ["glow"], ["reference"], **options)
        return {r["metric"]: r["value"] for r in found if "time" not in r["metric"]}

    def interrupted(self, *arguments):
        calls.append(arguments[0])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(self, *arguments)

    evaluate, calls = _Run._train_and_evaluate, []
    with monkeypatch.context() as patched:
        patched.setattr(_Run, "_train_and_evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            study(tmp_path / "a")
        resumed = study(tmp_path / "a")
    assert calls == [3, 6, 6]  # the first evaluation is not repeated
    assert resumed == study(tmp_path / "b")


def test_the_state_of_another_flow_stays(task, tmp_path):
    state = tmp_path / "maf-reference-0" / "state"
    state.mkdir(parents=True)
    study_flows(task, ["glow"], ["reference"], config=FITTING, models=tmp_path)
    study_definitions(task, FITTING, cvae_steps=2, tuned_steps=0, models=tmp_path)
    assert list(tmp_path.glob("*/state")) == [state]


def test_a_fit_is_not_made_again_when_its_scores_cannot_be_kept(task, tmp_path, monkeypatch):
    def full(name, rows):
        raise OSError("no space left")

    options = {"config": FITTING, "models": tmp_path}
    with pytest.raises(OSError, match="no space left"):
        study_flows(task, ["glow"], ["reference"], keep=full, **options)
    monkeypatch.setattr(_Run, "_train_and_evaluate", None)  # to make a step would fail
    assert study_flows(task, ["glow"], ["reference"], **options)
    assert not list(tmp_path.glob("*/state"))


def test_flows_are_fitted_to_as_much_noise_as_the_task_says(task):
    def nll(noise):
        found = study_flows(
            replace(task, posterior_scale=noise), ["linear-gaussian"], config=FITTING
        )
        return next(row["value"] for row in found if row["metric"] == "held-out NLL")

    assert nll(0.0) < nll(1.0) < nll(2.0)  # wider data has a lower density


@pytest.fixture(scope="module")
def in_sentences(splits, task):
    """The same words, every second of them in a sentence; one word has it in its second row."""

    def with_contexts(data: Dataset) -> Dataset:
        sentences = [f"we saw {w} there" if i % 2 else None for i, w in enumerate(data["word"])]
        return data.add_column("sentence", sentences)  # type: ignore[call-arg]

    data = {name: with_contexts(part) for name, part in splits.items()}
    return definition_task(task.vae, task.condition, data, context="sentence", texts=4)


def test_words_are_asked_in_their_sentences(in_sentences, task):
    assert all(sentence == f"we saw {word} there" for word, sentence in in_sentences.conditions)
    assert in_sentences.words == [word for word, _ in in_sentences.conditions]
    assert len(set(in_sentences.words)) == len(in_sentences.words)
    assert set(in_sentences.words) < set(task.words) | {"w60"}  # the others have no sentence
    c = task.condition.vectors(in_sentences.conditions)
    torch.testing.assert_close(in_sentences.test.conditions, c, atol=1e-5, rtol=1e-5)
    alone, inside = ("w1", "w1: we saw w1 there")
    assert {alone, inside} <= set(in_sentences.train.names)  # training has both
    assert len(in_sentences.train) == 40 + 20


def test_all_systems_are_asked_the_same(in_sentences):
    found = study_definitions(in_sentences, FITTING, cvae_steps=2, tuned_steps=2)
    assert {row["system"] for row in found} == set(SYSTEMS)
    validated = [row for row in found if row["metric"].startswith("validation sense-BLEU")]
    assert [row["n"] for row in validated] == [4, 4]  # the words in a sentence
    assert in_sentences.senses.keys() >= set(in_sentences.words)  # of the word, not of a sentence


def test_several_draws_for_each_word(task):
    with pytest.raises(UserError, match="all 3 draws are equal"):
        replace(task, draws=3)
    drawn = replace(task, draws=3, spread=1.0)
    done = [f"{name}/0" for name in SYSTEMS if name not in (*SYSTEMS[:1], "nearest neighbour")]
    found = study_definitions(drawn, FITTING, done=done)
    assert {row["system"] for row in found} == {SYSTEMS[0], "nearest neighbour"}
    again = study_definitions(drawn, FITTING, done=done)
    times = ("fit time", "sampling time")
    assert [row for row in again if row["metric"] not in times] == [
        row for row in found if row["metric"] not in times
    ]


def test_differences_are_of_the_same_items():
    def row(system, metric, items, seed=0):
        value = sum(items) / len(items)
        return {
            "system": system,
            "seed": seed,
            "metric": metric,
            "value": value,
            "items": Items(np.array(items)),
        }

    base = [0.1, 0.4, 0.3, 0.2] * 20
    better = [value + 0.1 for value in base]
    found = differences(
        [
            row("flow", "sense-BLEU", better),
            row("flow", "MoverScore", base[::-1]),
            row("nearest neighbour", "sense-BLEU", base),
            row("nearest neighbour", "MoverScore", base),
            row("flow", "sense-BLEU", base, seed=1),  # the other one was not run with this seed
            {"system": "flow", "seed": 0, "metric": "BLEU", "value": 3.0},
        ]
    )
    assert [(r["system"], r["metric"]) for r in found] == [
        ("flow", "sense-BLEU"),
        ("flow", "MoverScore"),
    ]
    clear, none = found
    assert clear["difference"] == pytest.approx(0.1)
    assert clear["low"] == pytest.approx(clear["high"]) == pytest.approx(0.1)
    assert clear["p"] < 0.01
    assert none["difference"] == pytest.approx(0)
    assert none["p"] > 0.9
    assert differences([]) == []


def test_ranks_are_tested_by_their_median():
    def ranks(system, values):
        return {"system": system, "seed": 0, "metric": "median rank"} | {
            "items": Items(np.array(values))
        }

    rows = [ranks("flow", [1, 2, 3, 4, 1000]), ranks("linear-gaussian", [2, 3, 4, 5, 6])]
    [found] = differences(rows)
    assert found["difference"] == 3 - 4
    assert found["against"] == "linear-gaussian"  # the nearest neighbour does not rank words
