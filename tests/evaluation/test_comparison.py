from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from tests import tiny
from tests.evaluation.systems import DATA

from llamavae.errors import UserError
from llamavae.evaluation.comparison import compare, lines
from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator
from llamavae.evaluation.evaluators.latent_usage import LatentUsage
from llamavae.evaluation.evaluators.likelihood import Likelihood
from llamavae.evaluation.results import Results, read_results
from llamavae.evaluation.suite import evaluate
from llamavae.metrics.metric import AGGREGATES, Items, Metric
from llamavae.metrics.ngrams import bleu_counts, bleu_of_counts
from llamavae.report.comparison import _verdict_text, write_comparison

N = 200
TEXTS = [f"the dog number {i} is a dog" for i in range(N)]


class Scored(Evaluator):
    """Reports the values that the system gives."""

    name = "scored"
    needs = frozenset()
    metrics = (
        Metric("score", "", "higher", "mean of scores"),
        Metric("cost", "", "lower", "mean of costs, without their items"),
        Metric("size", "", "", "a number alone"),
        Metric("BLEU", "0 to 100", "higher", "sacrebleu", aggregate="BLEU"),
    )

    def __init__(self, offset=0, batch_size=1):
        self.offset, self.batch_size = offset, batch_size

    def evaluate(self, system, data):
        value = float(np.mean(system.scores))
        counts = bleu_counts(system.predictions, data.texts)
        return Evaluation(
            [
                self.metric("score").mean(system.scores, 0),
                self.metric("score").row(value, N, group="part"),
                self.metric("cost").row(value, N, interval=(value - 0.1, value + 0.1)),
                self.metric("size").row(value, N),
                self.metric("BLEU").row(bleu_of_counts(counts), N, items=Items(counts)),
            ],
        )


class System:
    def __init__(self, seed, shift=0.0, changed=0):
        noise = np.random.default_rng(0).normal(size=N)
        self.scores = noise + np.random.default_rng(seed).normal(shift, 0.5, size=N)
        self.predictions = [
            t.replace("is a", "eats") if i < changed else t for i, t in enumerate(TEXTS)
        ]


@pytest.fixture
def make(tmp_path):
    def run(name, system, texts=TEXTS, **settings):
        data = replace(DATA, texts=texts, labels={}, ids=())
        return evaluate(system, data, [Scored(**settings)], tmp_path / name)

    return run


def rows_of(rows, metric, group=""):
    return {r["system"]: r for r in rows if r["metric"] == metric and r["group"] == group}


def test_differences_by_sentence(make):
    a, b, c = System(1), System(2), System(3, 0.3, changed=150)
    rows = compare([make("a", a), make("b", b, batch_size=8), make("c", c)])
    score = rows_of(rows, "score")
    assert list(score) == ["a", "b", "c"]
    assert score["a"]["verdict"] == score["a"]["test"] == ""
    assert score["a"]["difference"] is None
    for name, system in (("b", b), ("c", c)):
        expected = stats.ttest_rel(system.scores, a.scores).pvalue
        assert score[name]["p"] == pytest.approx(expected, abs=0.05)
        assert score[name]["test"] == "paired bootstrap"
        differences = system.scores - a.scores
        assert score[name]["difference"] == pytest.approx(np.mean(differences))
        low, high = stats.ttest_1samp(differences, 0).confidence_interval()
        assert score[name]["difference_low"] == pytest.approx(low, abs=0.02)
        assert score[name]["difference_high"] == pytest.approx(high, abs=0.02)
    assert score["b"]["verdict"] == "no clear difference"
    assert score["c"]["verdict"] == "better"
    bleu = rows_of(rows, "BLEU")
    assert bleu["b"]["p"] == 1
    assert bleu["c"]["verdict"] == "worse"
    assert bleu["c"]["p"] < 0.01


def test_where_items_are_unknown_nothing_is_called_more_than_chance(make):
    first, other = make("a", System(1)), make("b", System(1, 0.3))
    rows = compare([first, other])
    cost = rows_of(rows, "cost")
    assert cost["b"]["low"] > cost["a"]["high"]  # it may be an interval of seeds
    for found in (cost["b"], rows_of(rows, "size")["b"], rows_of(rows, "score", "part")["b"]):
        assert found["difference"] == pytest.approx(0.3)
        assert (found["p"], found["test"], found["verdict"]) == (None, "", "")
        assert _verdict_text(found) == "not tested"
    assert _verdict_text(cost["a"]) == ""
    assert _verdict_text(rows_of(rows, "score")["b"]) == "better, p = 0.001"


def test_other_sentences_or_settings_are_not_tested(make):
    first = make("a", System(1))
    for other in (make("b", System(1, 0.5), TEXTS[::-1]), make("c", System(1, 0.5), offset=1)):
        found = rows_of(compare([first, other]), "score")[other.system]
        assert found["difference"] == pytest.approx(0.5)
        assert (found["p"], found["test"], found["verdict"]) == (None, "", "")


def test_other_versions_of_a_library_are_not_tested(make):
    first, other = make("a", System(1)), make("b", System(1, 0.5))
    [metric] = [m for m in other.found["scored"].metrics if m["name"] == "BLEU"]
    metric["signature"] = "tok:13a|version:sacrebleu 1.0"
    rows = compare([first, other])
    assert rows_of(rows, "BLEU")["b"]["test"] == ""
    assert rows_of(rows, "score")["b"]["test"] == "paired bootstrap"


def test_other_judges_are_not_tested(make):
    first, other = make("a", System(1)), make("b", System(1, 0.5))
    for results, judge in ((first, "hash 1"), (other, "hash 2")):
        results.found["scored"].evaluation.rows[0]["judge"] = judge
    rows = compare([first, other])
    score = rows_of(rows, "score")["b"]
    assert (score["p"], score["test"], score["verdict"]) == (None, "", "")
    assert score["judge"] == "hash 2"
    assert rows_of(rows, "BLEU")["b"]["test"] == "paired bootstrap"  # nobody judges it


def test_other_parts_that_were_not_found_are_not_tested(make):
    first, other = make("a", System(1)), make("b", System(1, 0.5))
    other.found["scored"].evaluation.not_found["STS12"] = "it is not here"
    assert rows_of(compare([first, other]), "score")["b"]["test"] == ""


def test_what_only_one_has_stands_alone(make):
    first = make("a", System(1))
    rows = compare([Results("empty", {}, first.data), first])
    assert {row["system"] for row in rows} == {"a"}
    assert all(row["difference"] is None for row in rows)


def with_benchmark(results, benchmark, group=""):
    """The same results with the row of the score on a benchmark of its own."""
    evaluation = results.found["scored"].evaluation
    row = evaluation.rows[0]
    evaluation.items["score", group] = evaluation.items.pop(("score", row["group"]))
    row |= {"benchmark": benchmark, "group": group}
    return results


def test_benchmarks_are_not_compared_with_one_another(make):
    first = with_benchmark(make("a", System(1)), "STS-B dev")
    other = with_benchmark(make("b", System(1, 0.5)), "STS-B test")
    rows = compare([first, other])
    found = rows_of(rows, "score")["b"]
    assert (found["difference"], found["p"], found["test"]) == (None, None, "")
    titles = [title for title, line in lines(rows) if next(iter(line.values()))["group"] == ""]
    assert titles[:2] == ["score, STS-B dev", "cost"]
    assert {title: list(line) for title, line in lines(rows)} == {
        "score, STS-B dev": ["a"],
        "score, STS-B test": ["b"],
        "score, part": ["a", "b"],
        "cost": ["a", "b"],
        "size": ["a", "b"],
        "BLEU": ["a", "b"],
    }


def test_a_benchmark_is_compared_whatever_its_place_among_the_tasks(make):
    first = with_benchmark(make("a", System(1)), "STS-B dev")
    other = with_benchmark(make("b", System(1, 0.5)), "STS-B dev", "STS-B dev")
    rows = compare([first, other])
    found = rows_of(rows, "score")["b"]
    assert found["test"] == "paired bootstrap"
    assert found["verdict"] == "better"
    assert dict(lines(rows))["score"].keys() == {"a", "b"}


def test_splits_are_not_compared_with_one_another(make, tmp_path):
    first, other = make("a", System(1)), make("b", System(1, 0.5))
    first.data |= {"corpus": "wordnet", "split": "validation"}
    other.data |= {"corpus": "wordnet", "split": "test"}
    rows = compare([first, other])
    assert all(row["difference"] is None for row in rows)
    found = {title: list(line) for title, line in lines(rows)}
    assert found["score, wordnet, validation"] == ["a"]
    assert found["score, part, wordnet, test"] == ["b"]
    page = write_comparison([first, other], rows, tmp_path).read_text(encoding="utf-8")
    assert "score, wordnet, test" in page
    other.data["split"] = "validation"
    assert rows_of(compare([first, other]), "score")["b"]["verdict"] == "better"


def test_items_are_kept_in_the_folder_and_give_the_value(make, tmp_path):
    found = make("a", System(1, changed=20)).found["scored"]
    kept = read_results(tmp_path / "a").found["scored"].evaluation
    assert kept.items.keys() == found.evaluation.items.keys() == {("score", ""), ("BLEU", "")}
    for (name, group), items in kept.items.items():
        value = AGGREGATES[Scored().metric(name).aggregate](items.values)
        assert value == pytest.approx(kept.value(name, group), rel=1e-12)
        assert items.control is None
    assert all("items" not in row for row in kept.rows)


def test_models_are_compared_by_likelihood_and_latent_usage(tmp_path):
    torch.manual_seed(0)
    data = EvaluationData(tiny.SENTENCES)
    evaluators = [Likelihood(samples=2, resamples=10), LatentUsage(10)]
    evaluations = [evaluate(tiny.vae(), data, evaluators, tmp_path / name) for name in "ab"]
    rows = compare([read_results(tmp_path / name) for name in "ab"], resamples=50)
    assert rows == compare(evaluations, resamples=50)
    tested = {row["metric"] for row in rows if row["p"] is not None}
    assert tested == {
        *("perplexity", "bits per byte", "IW-NLL", "negative ELBO", "NLL", "NLL at the mean"),
        *("texts cut", "KL", "posterior variance"),
    }
    found = rows_of(rows, "bits per byte")["b"]
    assert found["difference_low"] <= found["difference"] <= found["difference_high"]


def test_comparing_needs_two_names(make):
    first = make("a", System(1))
    for evaluations in ([], [first], [first, first]):
        with pytest.raises(UserError, match="at least two evaluations, of systems with different"):
            compare(evaluations)
