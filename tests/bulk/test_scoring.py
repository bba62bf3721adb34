from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import tiny

from llamavae.bulk import score_file, scoring
from llamavae.errors import UserError
from llamavae.evaluation.predictions import Prediction, Predictions, read_predictions
from llamavae.evaluation.scoring import Scorer

TEXTS = [f"{text} {number}" for number in range(3) for text in tiny.SENTENCES]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "PART_SIZE", 5)


def write(path: Path, references: bool = False) -> Path:
    """Predictions, each with the reference of another item or with two."""
    rows = [
        {
            "id": str(i),
            "prediction": a,
            **({"references": [a, b]} if references else {"reference": b}),
        }
        for i, (a, b) in enumerate(zip(TEXTS, [*TEXTS[1:], TEXTS[0]], strict=True))
    ]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_metrics_are_those_of_the_scorer(tmp_path: Path, kind: str, references: bool) -> None:
    source = write(tmp_path / f"a.{kind}", references)
    report = score_file(source, tmp_path / "scores.parquet")
    lines = write(tmp_path / "same.jsonl", references)
    rows = Scorer(resamples=1).score(read_predictions(lines)).rows
    expected = {row["metric"]: row["value"] for row in rows if "distinct" not in row["metric"]}
    assert report.metrics == pytest.approx(expected)
    assert report.items == len(TEXTS)
    table = pq.read_table(report.output)
    assert table.column_names == ["id", *report.metrics]
    assert table["id"].to_pylist() == [str(i) for i in range(len(TEXTS))]


def test_a_row_has_the_metrics_of_its_item(tmp_path: Path) -> None:
    report = score_file(write(tmp_path / "a.parquet"), tmp_path / "scores.parquet")
    row = pq.read_table(report.output).to_pylist()[3]
    alone = Scorer(resamples=1).score(Predictions([Prediction("3", TEXTS[3], (TEXTS[4],))]))
    expected = {r["metric"]: r["value"] for r in alone.rows if "distinct" not in r["metric"]}
    assert {name: value for name, value in row.items() if name != "id"} == pytest.approx(expected)


def test_a_wrong_row_is_named(tmp_path: Path) -> None:
    source = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["1", "2"], "reference": ["a", None]}), source)
    with pytest.raises(UserError, match=r"a.parquet:1: expected a prediction"):
        score_file(source, tmp_path / "scores.parquet")
    rows = {"id": ["1", "2"], "reference": ["a", " "], "prediction": ["a", "b"]}
    pq.write_table(pa.table(rows), source)
    with pytest.raises(UserError, match=r"a.parquet:2: expected at least one reference"):
        score_file(source, tmp_path / "scores.parquet")
