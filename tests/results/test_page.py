"""The page of results: it is what the files say, and every number can be traced."""

from __future__ import annotations

import re
from itertools import product

import pytest
from results import experiments, page
from results.page import Column, Row, View

from llamavae.errors import UserError

COLUMN = Column(title="BLEU", metric="BLEU", digits=1)
VIEW = View(about="All.", source="encoder", group="all", columns=[COLUMN])
LINES = [
    {"source": "encoder", "group": "all", "metric": "BLEU", "value": 12.34, "control": 1.0},
    {"source": "encoder", "group": "new", "metric": "BLEU", "value": 9.0, "low": 8.0, "high": 10.0},
]


@pytest.fixture
def measured(tmp_path, monkeypatch) -> str:
    """The name of an experiment with two values."""
    monkeypatch.setattr(experiments, "HERE", tmp_path)
    experiments.write_results("mine", {"experiment": "mine"}, LINES)
    return "mine"


def test_the_page_is_what_the_files_say():
    assert page.PAGE.read_text(encoding="utf-8") == page.render(), "run make results"


def test_every_row_is_an_experiment_or_has_a_reason():
    known = experiments.experiments()
    for table in page.tables():
        for row in table.rows:
            assert (row.experiment in known) != bool(row.not_measured), row
            assert known.keys() >= set(row.experiments), row


def test_results_are_those_of_the_listed_commands():
    known = experiments.experiments()
    for file in experiments.HERE.glob("*.jsonl"):
        results = experiments.read_results(file.stem)
        assert results is not None
        assert results[0]["commands"] == known[file.stem].commands, file


def test_numbers_of_verdicts_are_values_of_their_tables():
    """Verdicts are written by hand; measuring again must not leave an old number in them."""
    for table in page.tables():
        known = {figure for one in table.published for figure in one.values.values()}
        for row, view in product(table.rows, table.views):
            for column in view.columns:
                line = page.cell(row, view, column) or {}
                shown = ("value", "control", "low", "high")
                values = [line[key] for key in shown if line.get(key) is not None]
                for digits in (2, column.digits):
                    known |= {f"{abs(value):.{digits}f}" for value in values}
                known |= {f"{line['p']:.2g}"} if "p" in line else set()
        text = f"{table.verdict} {table.discussion}"
        assert set(re.findall(r"\d+\.\d+", text)) <= known, table.title


def test_results_have_no_texts():
    fields = {"source", "metric", "group", "value", "control", "low", "high", "n", "unit"}
    fields |= {"benchmark", "direction", "signature", "seed", "step", "p"}
    for file in experiments.HERE.glob("*.jsonl"):
        results = experiments.read_results(file.stem)
        assert results is not None
        assert all(set(line) <= fields for line in results[1]), file


def test_a_cell_is_the_value_of_its_line(measured):
    row = Row(system="mine", experiment=measured)
    assert page.cell(row, VIEW, COLUMN) == LINES[0]
    assert page.cell_text(row, VIEW, COLUMN) == "12.3"
    assert page.cell_text(row, VIEW, COLUMN.model_copy(update={"control": True})) == "1.0"
    other = row.model_copy(update={"group": "new"})
    interval = COLUMN.model_copy(update={"interval": True})
    assert page.cell_text(other, VIEW, interval) == "9.0 (8.0 to 10.0)"


def test_a_missing_value_is_an_empty_cell(measured):
    row = Row(system="mine", experiment=measured)
    chrf = COLUMN.model_copy(update={"metric": "chrF"})
    assert page.cell_text(row, VIEW, chrf) == ""
    assert page.cell_text(Row(system="x", experiment="not-there"), VIEW, COLUMN) == ""


def test_a_cell_with_two_values_is_an_error(measured):
    experiments.write_results(measured, {"experiment": measured}, [LINES[0], LINES[0]])
    with pytest.raises(UserError, match="mine, BLEU: 2 lines match"):
        page.cell(Row(system="mine", experiment=measured), VIEW, COLUMN)


def test_a_cell_of_several_seeds_is_their_mean_and_range(measured):
    lines = [
        {**LINES[0], "value": value, "control": 1.0, "seed": seed}
        for seed, value in enumerate((1.0, 2.0, 6.0))
    ]
    experiments.write_results(measured, {"experiment": measured}, lines)
    row = Row(system="mine", experiment=measured)
    interval = COLUMN.model_copy(update={"interval": True})
    assert page.cell_text(row, VIEW, interval) == "3.0 (3 seeds: 1.0 to 6.0)"
    assert page.cell_text(row, VIEW, COLUMN.model_copy(update={"control": True})) == "1.0"


def test_experiments_that_differ_in_their_seed_are_one_row(measured):
    interval = COLUMN.model_copy(update={"interval": True})
    row = Row(system="mine", experiment=measured, seeds=["mine-1"])
    assert page.cell(row, VIEW, interval) == LINES[0], "the other seed is not measured"
    experiments.write_results("mine-1", {"experiment": "mine-1"}, [{**LINES[0], "value": 14.34}])
    assert page.cell_text(row, VIEW, interval) == "13.3 (2 seeds: 12.3 to 14.3)"
    assert page.cell(row.model_copy(update={"group": "new"}), VIEW, COLUMN) == LINES[1]
    table = page.Table(title="T", claim="C", about="A", views=[VIEW], rows=[row])
    assert "[mine](mine.jsonl), [mine-1](mine-1.jsonl)" in "\n".join(page._table_lines(table))
    other = VIEW.model_copy(update={"group": "new"})  # the other seed has no value there
    assert page._links(row, other) == "[mine](mine.jsonl)"


def test_the_group_of_a_column_comes_first(measured):
    row = Row(system="mine", experiment=measured, group="nothing")
    column = COLUMN.model_copy(update={"group": "new"})
    assert page.cell(row, VIEW, column) == LINES[1]


def test_a_row_that_is_newer_than_its_results_is_not_measured(measured):
    rows = [
        Row(system="old", experiment=measured),
        Row(system="new", experiment=measured, group="x"),
    ]
    table = page.Table(title="T", claim="C", about="A", views=[VIEW], rows=rows)
    text = "\n".join(page._table_lines(table))
    assert "| old | 12.3 |" in text
    assert "Not measured:\n\n- new: for lack of processor time" in text
