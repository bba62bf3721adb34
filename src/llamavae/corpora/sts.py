"""Benchmarks of semantic textual similarity: pairs of sentences with human similarity scores."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from llamavae.corpora import files, hub
from llamavae.corpora.lines import check_file, read_lines
from llamavae.errors import MissingData, UserError, counted, unknown

logger = logging.getLogger(__name__)

Malformed = Literal["refuse", "skip"]
"""How malformed rows of a file are handled: an error, or a warning with their line numbers."""


@dataclass(frozen=True)
class Task:
    """Source of the pairs of a benchmark.

    Attributes:
        title: Name in tables.
        dataset: Id of its dataset on the hub.
        split: Split of the dataset.
        config: Configuration ("subset") of the dataset.
    """

    title: str
    dataset: str
    split: str = "test"
    config: str | None = None


TASKS: dict[str, Task] = {
    "stsb": Task("STS-B dev", "sentence-transformers/stsb", "validation"),
    "stsb-test": Task("STS-B test", "sentence-transformers/stsb"),
    **{f"sts{year}": Task(f"STS{year}", f"mteb/sts{year}-sts") for year in range(12, 17)},
    "sick-r": Task("SICK-R", "mteb/sickr-sts"),
    **{
        f"stsb-{language}": Task(
            f"STS-B dev ({language})", "PhilipMay/stsb_multi_mt", "dev", language
        )
        for language in ("de", "es", "fr", "it", "nl", "pl", "pt", "ru", "zh")
    },
}
"""The benchmarks by name: STS 2012 to 2016 (all pairs of a year), STS-B (1708.00055), SICK-R, and
STS-B translated into nine languages."""

_MULTILINGUAL = tuple(name for name, task in TASKS.items() if task.config)
GROUPS = {
    "english": tuple(name for name in TASKS if name not in _MULTILINGUAL),
    "multilingual": _MULTILINGUAL,
}
"""Maps group names to tasks; a group selects those of its tasks that are found."""

AVERAGED = (*(f"sts{year}" for year in range(12, 17)), "stsb-test", "sick-r")
"""The seven test sets whose mean is reported as the STS average (SimCSE, 2104.08821)."""


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of sentences with human similarity scores.

    Attributes:
        first: N sentences.
        second: N sentences.
        scores: N scores, higher is more similar; the scale does not matter.
        skipped: Excluded rows with the reason, one line per row.
    """

    first: list[str]
    second: list[str]
    scores: list[float]
    skipped: tuple[str, ...] = ()


def read_pairs(path: Path, malformed: Malformed = "refuse") -> ScoredPairs:
    """Pairs from a file, or from a folder of SemEval.

    The files of STS, STS-B and SICK are read as they are distributed. Rows without a score are
    excluded with a warning.

    Args:
        path: A file in UTF-8, in one of these forms; `.gz` may follow its name.

            - .csv, .tsv or .txt with a header: columns are found by name, `sentence1` and
              `sentence2` (or `sentence_A` and `sentence_B`), and `score`, `similarity_score` or
              `relatedness_score`.
            - The same without a header: sentence, sentence, score; or score, sentence, sentence and
              any further columns; or, as in STS-B, four columns, score, sentence, sentence and any
              further columns.
            - .jsonl: objects with the keys above.
            - STS.input.NAME.txt: two sentences per line; their scores are read from
              STS.gs.NAME.txt in the same folder. A folder stands for all such files in it.

            .tsv and .txt files, and .csv files with tabs in the first line, are separated by tabs,
            and quotation marks are text in them.
        malformed: `skip` excludes rows without two sentences and a number, and records their line
            numbers; `refuse` raises an error that lists them.

    Raises:
        UserError: The file is missing, has another format or malformed rows, or has fewer than 2
            pairs.
    """
    if path.is_dir():
        inputs = sorted(path.glob(f"{_INPUT}*.txt"))
        if not inputs:
            raise UserError(f"{path} is a folder without files {_INPUT}*.txt; expected a file")
        return _check(chain.from_iterable(map(_two_files, inputs)), malformed)
    check_file(path)
    suffix = files.format_of(path)
    if path.name.startswith(_INPUT):
        rows = _two_files(path)
    elif suffix == ".jsonl":
        rows = _objects(path)
    elif suffix in (".csv", ".tsv", ".txt"):
        rows = _table(path, suffix)
    else:
        raise UserError(f"{path}: expected a .csv, .tsv, .txt or .jsonl file of sentence pairs")
    return _check(rows, malformed)


def load_pairs(name: str, malformed: Malformed = "refuse") -> ScoredPairs:
    """The pairs of a benchmark, from the hub.

    Args:
        name: One of `TASKS`.
        malformed: As for `read_pairs`.

    Raises:
        MissingData: The hub cannot be reached, or lacks the dataset.
        UserError: Unknown name, or malformed rows.
    """
    if name not in TASKS:
        raise unknown("STS task", name, TASKS)
    task = TASKS[name]
    try:
        splits = hub.open_splits(task.dataset, config=task.config)
    except UserError as error:
        raise MissingData(
            f"{task.title} is the split {task.split!r} of {task.dataset!r} on the hub, which "
            f"cannot be loaded: {error.__cause__ or error}. To work offline, pass a file with rows "
            f"of sentence, sentence, score: files={{{name!r}: 'pairs.csv'}}, or on the command "
            f"line --set 'sts.files={{{name}: pairs.csv}}'"
        ) from error
    if task.split not in splits:
        raise unknown("split", task.split, splits, hint=f"(of {task.dataset})")
    rows = enumerate(splits[task.split], 1)
    return _check(((f"{task.dataset}:{number}", row) for number, row in rows), malformed)


_FIRST, _SECOND = ("sentence1", "sentence_a"), ("sentence2", "sentence_b")
_SCORE = ("score", "similarity_score", "relatedness_score")
_INPUT, _GOLD = "STS.input.", "STS.gs."  # beginnings of SemEval's file names
_UNSCORED = "no score"

_NamedRow = tuple[str, Mapping[str, Any] | str]
"""Place of a row, and its cells by name or an error message."""


def _check(rows: Iterable[_NamedRow], malformed: Malformed) -> ScoredPairs:
    pairs, wrong, unscored, where = ScoredPairs([], [], []), [], [], ""
    for where, row in rows:
        reason = row if isinstance(row, str) else _add(pairs, row)
        if reason:
            (unscored if reason == _UNSCORED else wrong).append(f"{where}: {reason}")
    if unscored:
        count = counted(len(unscored), "row")
        logger.warning("left out %s without a score, %s ...", count, unscored[0])
    if wrong:
        shown = "; ".join(wrong[:5]) + ("; ..." if len(wrong) > 5 else "")
        total = len(wrong) + len(pairs.scores)
        message = f"{counted(len(wrong), 'malformed row')} among {total}: {shown}"
        if malformed == "refuse":
            raise UserError(
                f"{message}. Correct them, or pass malformed='skip' to leave them out "
                "(--set sts.malformed=skip)"
            )
        logger.warning("left out %s", message)
    if len(pairs.scores) < 2:
        place = where.rpartition(":")[0]
        raise UserError(f"{place}: expected at least 2 pairs; got {len(pairs.scores)}")
    return ScoredPairs(pairs.first, pairs.second, pairs.scores, (*wrong, *unscored))


def _add(pairs: ScoredPairs, row: Mapping[str, Any]) -> str:
    """Add a row to the pairs, or return the reason why it is excluded."""
    cells = {str(name).strip().lower(): value for name, value in row.items()}
    values = []
    for names in (_FIRST, _SECOND, _SCORE):
        name = next((name for name in names if name in cells), None)
        if name is None:
            return f"no {' or '.join(names)}, only {', '.join(cells) or 'nothing'}"
        values.append(cells[name])
    first, second, score = values
    if not all(isinstance(text, str) and text.strip() for text in (first, second)):
        return "a sentence is missing"
    if score is None or not str(score).strip():
        return _UNSCORED
    number = _number(score)
    if number is None:
        return f"the score is {score!r}, which is not a number"
    pairs.first.append(first.strip())
    pairs.second.append(second.strip())
    pairs.scores.append(number)
    return ""


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _table(path: Path, suffix: str) -> Iterator[_NamedRow]:
    rows = [row for row in _cells(path, suffix) if any(cell.strip() for cell in row[1])]
    if not rows:
        raise UserError(f"{path} is empty; expected pairs of sentences with scores")
    names = [cell.strip().lower() for cell in rows[0][1]]
    if set(names) & {*_FIRST, *_SECOND, *_SCORE}:
        columns, exact = dict(zip(names, range(len(names)), strict=True)), len(names)
        rows = rows[1:]
    else:
        columns, exact = _layout([cells for _, cells in rows])
    for line, cells in rows:
        place = f"{path}:{line}"
        if len(cells) <= max(columns.values()) or (exact and len(cells) != exact):
            expected = exact or max(columns.values()) + 1
            yield place, f"{counted(len(cells), 'cell')} instead of {expected}"
        else:
            yield place, {name: cells[i] for name, i in columns.items()}


def _layout(rows: Sequence[Sequence[str]]) -> tuple[dict[str, int], int]:
    """The columns of a table without a header, and the exact number of columns or 0.

    It is the first of three layouts in which the score is a number in most rows.
    """

    def scored(column: int) -> int:
        return sum(len(cells) > column and _number(cells[column]) is not None for cells in rows)

    names = ("score", "sentence1", "sentence2")
    if len(rows[0]) >= 7 and scored(4) > len(rows) / 2:  # STS-B: genre, file, year, number
        return dict(zip(names, (4, 5, 6), strict=True)), 0
    if len(rows[0]) >= 3 and scored(0) > max(scored(2), len(rows) / 2):
        return dict(zip(names, (0, 1, 2), strict=True)), 0
    return dict(zip(names, (2, 0, 1), strict=True)), 3


def _cells(path: Path, suffix: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line with its number."""
    lines = list(read_lines(path))
    first = next((line for _, line in lines if line.strip()), "")
    if suffix != ".csv" or first.count("\t") > 1:  # STS-B has tabs in a .csv file
        for number, line in lines:
            yield number, line.rstrip("\r\n").split("\t")
        return
    reader = csv.reader((line for _, line in lines), strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        fault = files.csv_fault(str(error), reader.line_num)
        raise UserError(f"{path}:{reader.line_num}: {fault}") from error


def _two_files(path: Path) -> Iterator[_NamedRow]:
    """The pairs of STS.input.NAME.txt with the scores of STS.gs.NAME.txt."""
    gold = path.with_name(_GOLD + path.name.removeprefix(_INPUT))
    check_file(gold)
    pairs, scores = (list(read_lines(each)) for each in (path, gold))
    if len(pairs) != len(scores):
        raise UserError(
            f"{gold}: expected a line for each of the {len(pairs)} lines of {path.name}; got "
            f"{len(scores)}"
        )
    for (number, line), (_, score) in zip(pairs, scores, strict=True):
        first, *rest = line.rstrip("\r\n").split("\t")
        second = rest[0] if rest else ""
        yield f"{path}:{number}", {"sentence1": first, "sentence2": second, "score": score}


def _objects(path: Path) -> Iterator[_NamedRow]:
    for number, line in read_lines(path):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):  # also of numbers with thousands of digits
                value = None
            yield f"{path}:{number}", value if isinstance(value, dict) else "not a JSON object"
