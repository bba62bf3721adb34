from __future__ import annotations

import numpy as np
import pytest
import torch
from tests import tiny

from llamavae.corpora import load_corpus, senteval
from llamavae.errors import MissingData, UserError
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.evaluators.probes import Probes, _length_classes, _mean_of_means
from llamavae.evaluation.labels import classes

# ------------------------------------------------------------------------------- labels


def test_classes():
    labels = {"many": list(range(60)), "few": [0, 1, 2] * 20, "same": ["x"] * 60}
    kept, left_out = classes(labels)
    assert list(kept) == ["few"]
    assert left_out == {"many": "60 labels, more than 50", "same": "one label only"}


def test_length_classes():
    texts = ["w " * n for n in range(1, 61)]
    labels = _length_classes(texts)
    assert [labels.count(name) for name in dict.fromkeys(labels)] == [10] * 6
    assert list(dict.fromkeys(labels))[:2] == ["1 to 10", "11 to 20"]
    assert set(_length_classes(["two words"] * 5)) == {"2"}


def test_mean_of_means():
    a, b, c = np.array([1.0, 0, 0, 0]), np.array([0.0, 1, 1, 1]), np.array([1.0, 1])
    statistic, n = _mean_of_means([a, b, c], ["data", "data", "other"])
    assert n == 6
    assert statistic(np.arange(6)) == pytest.approx((0.25 + 0.75 + 1) / 3)
    # sentences 0, 0, 1 of the data, and one of the other set
    assert statistic(np.array([0, 0, 1, 4])) == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)


# ------------------------------------------------------------------------------- the evaluator


class Planted:
    """Points that hold two labels of `factors` and nothing else."""

    def __init__(self, data):
        noise = torch.randn(len(data), 3, generator=torch.Generator().manual_seed(0))
        number = torch.tensor([float(x == "plural") for x in data["number"]])
        past = torch.tensor([float(x == "past") for x in data["tense"]])
        z = torch.cat([number[:, None], past[:, None], noise], 1)
        self.points = dict(zip(data["text"], z, strict=True))

    def encode(self, texts):
        return torch.stack([self.points[text] for text in texts])


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("factors", "validation", limit=400)


def data(corpus, *names):
    return EvaluationData(list(corpus["text"]), {name: list(corpus[name]) for name in names})


def test_planted_factors(corpus):
    labels = data(corpus, "number", "negation")
    found = Probes(resamples=50)(Planted(corpus), labels)
    assert found.value("probe accuracy", "number") == 1
    assert found.value("accuracy above majority", "number") > 0.35
    assert found.value("selectivity", "number") > 0.35
    assert abs(found.value("accuracy above majority", "negation")) < 0.15
    rows = {(row["metric"], row["group"]): row for row in found.rows}
    assert found.rows[0]["metric"] == Probes().primary.name
    names = ["number", "negation", "length in words"]
    for metric in Probes.metrics:
        every = [rows[metric.name, name]["value"] for name in names]
        assert rows[metric.name, ""]["value"] == pytest.approx(np.mean(every))
    for row in found.rows:
        assert row["low"] <= row["value"] <= row["high"]
        assert row["n"] == 80
    accuracy, margin = rows["probe accuracy", "number"], rows["accuracy above majority", "number"]
    assert margin["value"] == pytest.approx(accuracy["value"] - accuracy["control"])
    assert abs(margin["control"]) < 0.2
    settings = found.tables["probes"][0]
    assert (settings["label"], settings["classes"], settings["train"]) == ("number", 2, 240)
    assert "labels left out" not in found.tables
    assert Probes(resamples=50)(Planted(corpus), labels) == found


@pytest.mark.parametrize("limit", [None, 400, 200])
def test_a_file_sorted_by_label_is_not_split_by_label(corpus, limit):
    rows = sorted(zip(corpus["number"], corpus["text"], strict=True))
    labels, texts = ([row[i] for row in rows] for i in range(2))
    found = Probes(limit=limit, resamples=10)(
        Planted(corpus), EvaluationData(texts, {"number": labels})
    )
    row = next(
        row for row in found.rows if (row["metric"], row["group"]) == ("probe accuracy", "number")
    )
    assert row["value"] == 1
    share = labels.count("plural") / len(labels)  # both labels are in each part
    assert row["control"] == pytest.approx(max(share, 1 - share), abs=0.15)


def test_control_moves(corpus):
    labels = data(corpus, "number")
    other = EvaluationData(labels.texts, {"number": [*labels.labels["number"][1:], "plural"]})
    found = Probes(resamples=10)(Planted(corpus), other)
    assert abs(found.value("accuracy above majority", "number")) < 0.2


def test_without_labels_the_length_is_probed():
    texts = [f"{sentence} {i}" for i, sentence in enumerate(tiny.SENTENCES * 4)]
    labels = {"id": list(range(32)), "same": [0] * 32}
    found = Probes(resamples=10)(tiny.vae(), EvaluationData(texts, labels))
    assert {row["group"] for row in found.rows} == {"", "id", "length in words"}
    assert found.tables["labels left out"] == [{"label": "same", "reason": "one label only"}]


def test_senteval(tmp_path, corpus):
    words = {"singular": "NN", "plural": "NNS"}
    rows = list(zip(corpus["text"], corpus["number"], strict=True))
    parts = ["tr"] * 200 + ["va"] * 100 + ["te"] * 100
    lines = [f"{p}\t{words[n]}\t{text}\n" for p, (text, n) in zip(parts, rows, strict=True)]
    (tmp_path / "subj_number.txt").write_text("".join(lines))
    found = Probes(["SubjNumber"], tmp_path, resamples=50)(Planted(corpus), data(corpus))
    assert found.value("probe accuracy", "SentEval SubjNumber") == 1
    settings = found.tables["probes"][-1]
    assert (settings["train"], settings["validation"], settings["test"]) == (200, 100, 100)
    assert next(row for row in found.rows if row["group"] == "")["n"] == 180
    few = Probes(["SubjNumber"], tmp_path, limit=50, resamples=9)(Planted(corpus), data(corpus))
    assert [row["train"] for row in few.tables["probes"]] == [30, 50]


def test_of_all_tasks_those_that_are_found_are_probed(tmp_path, corpus, caplog):
    parts = ["tr"] * 200 + ["va"] * 100 + ["te"] * 100
    lines = [
        f"{p}\t{n}\t{text}\n"
        for p, n, text in zip(parts, corpus["number"], corpus["text"], strict=True)
    ]
    (tmp_path / "subj_number.txt").write_text("".join(lines))
    found = Probes(["all"], tmp_path, resamples=9)(Planted(corpus), data(corpus))
    assert found.value("probe accuracy", "SentEval SubjNumber") == 1
    assert len(found.not_found) == len(caplog.messages) == 9
    reason = found.not_found["SentEval Depth"]
    assert f"no file {tmp_path / 'tree_depth.txt'}" in reason
    assert "github.com/facebookresearch/SentEval" in reason
    with pytest.raises(MissingData, match=r"no file .*tree_depth"):
        Probes(["all", "Depth"], tmp_path)(Planted(corpus), data(corpus))


def test_without_sentevals_files_the_rest_is_probed(corpus, caplog, monkeypatch):
    monkeypatch.delenv("LLAMAVAE_SENTEVAL", raising=False)
    found = Probes(["all"], resamples=9)(Planted(corpus), data(corpus))
    assert found.rows == Probes(resamples=9)(Planted(corpus), data(corpus)).rows
    assert [f"SentEval {task}" for task in senteval.TASKS] == list(found.not_found)
    assert len(caplog.messages) == 1
    assert "not measured: Length; WordContent; " in caplog.text


def test_errors(corpus, tmp_path):
    with pytest.raises(UserError, match="unknown SentEval task"):
        Probes(["Dept"])
    with pytest.raises(UserError, match=r"no file .*tree_depth"):
        Probes(["Depth"], tmp_path)(Planted(corpus), data(corpus))
    same = EvaluationData([f"sentence {i}" for i in range(9)])
    with pytest.raises(
        UserError, match=r"found none\. length in words: expected at least 2 distinct"
    ):
        Probes()(tiny.vae(), same)
    with pytest.raises(UserError, match="needs a system that encodes"):
        Probes()(tiny.vae(sentence_encoder=None), same)
