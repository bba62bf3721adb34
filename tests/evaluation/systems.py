"""A system and evaluators that need no model, and a check of per-item values."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence

import pytest
import torch

from llamavae.corpora import factors
from llamavae.errors import UserError
from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator
from llamavae.metrics.metric import AGGREGATES, Metric

DATA = EvaluationData(
    ["a dog", "two cats", "an owl <b>", "the fox"],
    {"number": ["one", "two", "one", "one"]},
    ["a dog barks"],
)


def check_items(evaluator: Evaluator, found: Evaluation, untested: Collection[str] = ()) -> None:
    """Values and controls follow from the per-item values, which only `untested` metrics lack."""
    lacking = set()
    for row in found.rows:
        items = found.items.get((row["metric"], row["group"]))
        if items is None:
            lacking.add(row["metric"])
            continue
        of = AGGREGATES[evaluator.metric(row["metric"]).aggregate]
        assert len(items.values) == row["n"]
        assert items.values.dtype.kind in "if"
        assert of(items.values) == pytest.approx(row["value"], rel=1e-12)
        control = None if items.control is None else of(items.control)
        assert control == (row["control"] and pytest.approx(row["control"], rel=1e-12))
    assert lacking == set(untested)


class Letters:
    """Encodes a text as its numbers of letters and words, and writes numbers."""

    def encode(self, texts):
        return torch.tensor([[len(text), len(text.split())] for text in texts], dtype=torch.float)

    def decode(self, z):
        return [" ".join(f"{value:g}" for value in row) for row in z.tolist()]


_VALUES = [(name, value) for name, values in factors.FACTORS.items() for value in values]


class Grammar:
    """A perfect space: a coordinate for each value of each factor, written by the largest.

    Where they would be no sentence, since a verb limits its objects and places, it writes them
    as a list of words. What is no sentence has a point by chance.
    """

    def encode(self, texts):
        return torch.stack([self.latent_code(text) for text in texts])

    def latent_code(self, text):
        labels = factors.parse(text)
        if labels is None:
            return torch.randn(
                len(_VALUES), generator=torch.Generator().manual_seed(zlib.crc32(text.encode()))
            )
        return torch.tensor([float(labels[name] == value) for name, value in _VALUES])

    def decode(self, z):
        texts = []
        for point in z:
            best: dict[str, tuple[float, str]] = {}
            for coordinate, (name, value) in zip(point.tolist(), _VALUES, strict=True):
                if name not in best or coordinate > best[name][0] + 1e-4:
                    best[name] = (coordinate, value)
            labels = {name: value for name, (_, value) in best.items()}
            try:
                texts.append(factors.realise(labels))
            except UserError:
                texts.append(" ".join(labels.values()))
        return texts


class Deaf(Grammar):
    """Writes the same whatever the point."""

    def decode(self, z):
        return ["the dog barks"] * len(z)


class Length(Evaluator):
    """Mean number of letters, times `factor`."""

    name = "length"
    needs = frozenset({"encode"})
    metrics = (
        Metric(
            "letters",
            "letters",
            "higher",
            "Mean number of letters per text.",
            "The metric without letters.",
        ),
        Metric("words", "words", "", "Mean number of words per text."),
    )

    def __init__(self, factor=1.0):
        self.factor = factor
        self._calls = 0

    def evaluate(self, system, data):
        self._calls += 1
        points = system.encode(data.texts) * self.factor
        letters, words = points.mean(0).tolist()
        n = len(points)
        table = [
            {"text": text, "letters": row[0], "words": row[1], "vector": row}
            for text, row in zip(data.texts, points, strict=True)
        ]
        return Evaluation(
            [
                self.metric("letters").row(letters, n, control=0.0, interval=(3.5, 9.0)),
                self.metric("letters").row(letters, n, group="short"),
                self.metric("words").row(words, n),
            ],
            {"per text": table},
        )


class Fails(Length):
    name = "fails"

    def evaluate(self, system, data):
        raise UserError("there is no file x.csv; get it from y")


class Partly(Length):
    """Measures what it finds: all but the tasks that are lost, or nothing where `lost` is None."""

    name = "partly"

    def __init__(self, factor=1.0, lost: Sequence[str] | None = ("task 2",)):
        super().__init__(factor)
        self._lost = lost

    def evaluate(self, system, data):
        if self._lost is None:
            raise UserError("the hub is down")
        found = super().evaluate(system, data)
        reason = "there is no file y.csv; get it from z"
        return Evaluation(found.rows, {}, dict.fromkeys(self._lost, reason))


class Crashes(Length):
    name = "crashes"

    def evaluate(self, system, data):
        raise RuntimeError("a mistake of ours")


class Likely(Length):
    name = "likely"
    needs = frozenset({"likelihood", "training texts"})
