"""The page of results: one table for each claim, from the files of the experiments alone."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean
from typing import Any

from pydantic import BaseModel, ConfigDict

from llamavae.errors import UserError
from llamavae.markdown import markdown_table
from llamavae.parsing import read_yaml
from results.experiments import HERE, find_lines, read_results

PAGE = HERE / "README.md"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Part):
    """A column: a metric of each row's experiment.

    Attributes:
        title: Heading.
        metric: Name of the metric.
        digits: Number of digits after the point.
        interval: Show the 95 % interval, or the range of several seeds. Of a paired test, also
            show p.
        control: Show the control's value instead.
        group: Group of the values, if not that of the row or of the view.
    """

    title: str
    metric: str
    digits: int = 2
    interval: bool = False
    control: bool = False
    group: str | None = None


class Row(_Part):
    """A row: a system, with an experiment or the reason why there is none.

    Attributes:
        system: Name of the system.
        experiment: Name of the experiment.
        seeds: Names of the same experiment with other seeds; those with a value are shown together.
        group: Group of the values, if not that of the view.
        not_measured: Why the row is empty.
    """

    system: str
    experiment: str | None = None
    seeds: list[str] = []
    group: str | None = None
    not_measured: str = ""

    @property
    def experiments(self) -> list[str]:
        """The experiment and those with other seeds; empty without an experiment."""
        return [] if self.experiment is None else [self.experiment, *self.seeds]


class View(_Part):
    """Columns of the same rows, from one source.

    Attributes:
        about: What is shown.
        source: Predictions or evaluator that the values come from.
        group: Group of the values.
        columns: Columns.
    """

    about: str
    source: str
    group: str = ""
    columns: list[Column]


class Published(_Part):
    """A row of figures that others have published; they are never in a table of ours.

    Attributes:
        system: Name of the system.
        values: Maps titles of columns to figures.
    """

    system: str
    values: dict[str, str]


class Table(_Part):
    """A claim, a verdict on it, and the numbers that it rests on.

    Attributes:
        title: Heading.
        claim: The claim.
        verdict: Whether it holds, in one sentence; empty if it has not been tested.
        discussion: The evidence for the verdict, and what limits it.
        about: How the values are measured.
        views: Columns of the rows, one table each. A row without values is not in a table.
        rows: Rows.
        plots: What each plot shows, by its name in `results.plots`; shown if a row is measured.
        published: Published figures for comparison.
        published_in: Their source, and how they were measured.
    """

    title: str
    claim: str
    verdict: str = ""
    discussion: str = ""
    about: str
    views: list[View]
    rows: list[Row]
    plots: dict[str, str] = {}
    published: list[Published] = []
    published_in: str = ""


def tables() -> list[Table]:
    """The tables of `tables.yaml`."""
    text = (HERE / "tables.yaml").read_text(encoding="utf-8")
    return [Table.model_validate(values) for values in read_yaml(text, "tables.yaml", aliases=True)]


def cell(row: Row, view: View, column: Column) -> dict[str, Any] | None:
    """The line of an experiment's file that a cell shows; None if there is none.

    The values of several seeds are shown as one line: their mean, with the lowest and the highest
    value as the interval.

    Raises:
        UserError: Several lines match, and their seeds are not different.
    """
    runs = _matching(row, view, column).values()
    for found in runs:
        if len({line.get("seed") for line in found}) < len(found):
            raise UserError(f"{row.system}, {column.title}: {len(found)} lines match; expected one")
    lines = [line for found in runs for line in found]
    return _over_seeds(lines) if len(lines) > 1 else next(iter(lines), None)


def _matching(row: Row, view: View, column: Column) -> dict[str, list[dict[str, Any]]]:
    """The lines with a value of a cell, by experiment; without those that have no line."""
    group = next(one.group for one in (column, row, view) if one.group is not None)
    wanted = view.source, column.metric, group
    return {name: found for name in row.experiments if (found := find_lines(name, *wanted))}


def _over_seeds(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean, the lowest and the highest value of several seeds, and the mean control.

    `seeds` is the number of seeds, by which it differs from an interval over items.
    """
    values = [line["value"] for line in lines]
    controls = [line["control"] for line in lines if line.get("control") is not None]
    control = {"control": mean(controls)} if len(controls) == len(lines) else {}
    found = {"value": mean(values), "low": min(values), "high": max(values), "seeds": len(lines)}
    return found | control


def cell_text(row: Row, view: View, column: Column) -> str:
    """A cell as text; empty if there is no value."""
    line = cell(row, view, column)
    value = None if line is None else line.get("control" if column.control else "value")
    if line is None or value is None:
        return ""
    text = f"{value:.{column.digits}f}"
    if column.interval and line.get("low") is not None:
        p = f"; p = {line['p']:.2g}" if "p" in line else ""
        seeds = f"{line['seeds']} seeds: " if "seeds" in line else ""
        text += f" ({seeds}{line['low']:.{column.digits}f} to {line['high']:.{column.digits}f}{p})"
    return text


def _table_lines(table: Table) -> Iterable[str]:
    yield f"## {table.title}\n"
    yield f"**Claim.** {table.claim.strip()}\n"
    yield f"**Verdict.** {table.verdict.strip() or 'Not tested yet.'}\n"
    if table.discussion:
        yield table.discussion.strip().replace("\n", "\n\n") + "\n"  # one line a paragraph
    yield f"**Method.** {table.about.strip()}\n"
    measured: set[str] = set()
    for view in table.views:
        cells = {
            row.system: [cell_text(row, view, one) for one in view.columns] for row in table.rows
        }
        measured |= {system for system, texts in cells.items() if any(texts)}
        rows = [
            [row.system, *cells[row.system], _links(row, view)]
            for row in table.rows
            if any(cells[row.system])
        ]
        if rows:
            head = ["system", *(column.title for column in view.columns), "results"]
            yield f"{view.about.strip()}\n"
            yield markdown_table(head, rows) + "\n"
    for name, about in table.plots.items() if measured else ():
        yield f"{about.strip()}\n"
        yield f"![{about.strip()}]({name}.svg)\n"
    gaps = [row for row in table.rows if row.system not in measured]
    if gaps:
        later = "for lack of processor time; `make results-full EXPERIMENTS={}` measures it"
        reasons = [
            f"- {row.system}: {row.not_measured or later.format(row.experiment)}" for row in gaps
        ]
        yield "Not measured:\n\n" + "\n".join(reasons) + "\n"
    if table.published:
        titles = list(dict.fromkeys(title for one in table.published for title in one.values))
        figures = [
            [p.system, *(p.values.get(title, "") for title in titles)] for p in table.published
        ]
        yield f"Published figures, not measured here. {table.published_in.strip()}\n"
        yield markdown_table(["published system", *titles], figures) + "\n"


def _links(row: Row, view: View) -> str:
    """Links to the files with the values of a row."""
    found = {name for column in view.columns for name in _matching(row, view, column)}
    return ", ".join(f"[{name}]({name}.jsonl)" for name in row.experiments if name in found)


def _experiment_lines(names: Iterable[str]) -> Iterable[str]:
    yield "## Experiments\n"
    yield (
        "Commands of each experiment, in order. `{runs}` is `runs/results`, and `{folder}` is the "
        "experiment's folder in it.\n"
    )
    for name in names:
        results = read_results(name)
        if results is None:
            continue
        about = results[0]
        minutes = about["processor_seconds"] / 60
        seeds = about.get("seeds", [about["seed"]])
        yield f"### {name}\n"
        yield (
            f"{'Seed' if len(seeds) == 1 else 'Seeds'} {', '.join(map(str, seeds))}; "
            f"commit {about['commit']}; {about['machine']}; PyTorch "
            f"{about['torch']}; {minutes:.1f} minutes of processor time."
            f"{' ' + about['note'] if 'note' in about else ''}\n"
        )
        yield "```console\n" + "\n".join(f"$ {line}" for line in about["commands"]) + "\n```\n"


def plots() -> dict[str, str]:
    """The plots of all tables as SVG, by name."""
    from results.plots import svg

    return {
        name: svg(
            name,
            [(row.system.replace("`", ""), row.experiment) for row in table.rows if row.experiment],
        )
        for table in tables()
        for name in table.plots
    }


def render() -> str:
    """The page as Markdown."""
    shown = tables()
    used = dict.fromkeys(name for table in shown for row in table.rows for name in row.experiments)
    intro = (HERE / "intro.md").read_text(encoding="utf-8")
    lines = [intro, *(line for table in shown for line in _table_lines(table))]
    return "\n".join([*lines, *_experiment_lines(used)])
