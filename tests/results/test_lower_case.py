"""Scores of systems that write lower-case words only."""

from __future__ import annotations

import sys

from results import lower_case

from llamavae.evaluation import (
    Prediction,
    Predictions,
    Scorer,
    read_predictions,
    write_predictions,
)


def test_only_the_references_are_lower_cased(tmp_path, monkeypatch):
    items = [
        Prediction("3", "the Sun is a star", ("The Sun is a star",), "Mars is a planet"),
        Prediction("5", "mars is a planet", ("Mars is a planet",), "the Sun is a star"),
    ]
    about = {"system": "aae", "task": "reconstruction", "benchmark": "any", "split": "test"}
    source, output = tmp_path / "a.jsonl", tmp_path / "new" / "b.jsonl"
    write_predictions(Predictions(items, **about), source)
    monkeypatch.setattr(sys, "argv", ["lower_case", str(source), str(output)])
    lower_case.main()
    found = read_predictions(output)
    assert found == Predictions(
        [
            Prediction("3", "the Sun is a star", ("the sun is a star",), "Mars is a planet"),
            Prediction("5", "mars is a planet", ("mars is a planet",), "the Sun is a star"),
        ],
        **about,
    )


def test_capitals_no_longer_count_against_lower_case_texts():
    texts = ["the sun is a star", "one owl reads a letter"]
    items = [Prediction(str(i), text, (text.title(),)) for i, text in enumerate(texts)]
    cased = Predictions(items)
    exact = {
        name: {row["metric"]: row["value"] for row in Scorer(resamples=10).score(each).rows}
        for name, each in (("cased", cased), ("lower", lower_case.lower_references(cased)))
    }
    assert exact["cased"]["exact match"] == 0
    assert exact["lower"]["exact match"] == 1
