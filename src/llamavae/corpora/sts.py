"""Benchmarks of semantic textual similarity: pairs of sentences with human similarity scores."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llamavae.corpora import files, hub
from llamavae.errors import MissingData, UserError, unknown

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
    """Pairs from a file.

    Args:
        path: A .csv, .tsv or .jsonl file in UTF-8. Columns are found by name: `sentence1` and
            `sentence2` (or `sentence_A` and `sentence_B`), and `score`, `similarity_score` or
            `relatedness_score`. A .csv or .tsv file without a header has these three columns and
            no others, in this order.
        malformed: `skip` excludes rows without two sentences and a number, and records their line
            numbers; `refuse` raises an error that lists them.

    Raises:
        UserError: The file is missing, has another format or malformed rows, or has fewer than 2
            pairs.
    """
    files.check_file(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".jsonl"):
        raise UserError(f"{path}: expected a .csv, .tsv or .jsonl file with pairs of sentences")
    rows = _objects(path) if suffix == ".jsonl" else _table(path, "\t" if suffix == ".tsv" else ",")
    return _check(rows, str(path), malformed)


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
    return _check(enumerate(splits[task.split], 1), task.dataset, malformed)


_FIRST, _SECOND = ("sentence1", "sentence_a"), ("sentence2", "sentence_b")
_SCORE = ("score", "similarity_score", "relatedness_score")

_NamedRow = tuple[
    int, Mapping[str, Any] | str
]  # line number, and cells by name or an error message


def _check(rows: Iterable[_NamedRow], where: str, malformed: Malformed) -> ScoredPairs:
    pairs, wrong = ScoredPairs([], [], []), []
    for number, row in rows:
        reason = row if isinstance(row, str) else _add(pairs, row)
        if reason:
            wrong.append(f"{where}:{number}: {reason}")
    if wrong:
        shown = "; ".join(wrong[:5]) + ("; ..." if len(wrong) > 5 else "")
        message = f"{len(wrong)} malformed row(s) among {len(wrong) + len(pairs.scores)}: {shown}"
        if malformed == "refuse":
            raise UserError(
                f"{message}. Correct them, or pass malformed='skip' to leave them out "
                "(--set sts.malformed=skip)"
            )
        logger.warning("left out %s", message)
    if len(pairs.scores) < 2:
        raise UserError(f"{where}: expected at least 2 pairs; got {len(pairs.scores)}")
    return ScoredPairs(pairs.first, pairs.second, pairs.scores, tuple(wrong))


def _add(pairs: ScoredPairs, row: Mapping[str, Any]) -> str:
    """Add a row to the pairs, or return the reason why it is malformed."""
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
    try:
        number = float(score)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        return f"the score is {score!r}, which is not a number"
    pairs.first.append(first.strip())
    pairs.second.append(second.strip())
    pairs.scores.append(number)
    return ""


def _table(path: Path, delimiter: str) -> Iterator[_NamedRow]:
    header: list[str] | None = None
    lines = (line for _, line in files.read_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                names = [cell.strip().lower() for cell in cells]
                if set(names) & {*_FIRST, *_SECOND, *_SCORE}:
                    header = names
                    continue
                header = ["sentence1", "sentence2", "score"]
            if len(cells) == len(header):
                yield reader.line_num, dict(zip(header, cells, strict=True))
            else:
                yield reader.line_num, f"{len(cells)} cell(s) instead of {len(header)}"
    except csv.Error as error:
        fault = files.csv_fault(str(error), reader.line_num)
        raise UserError(f"{path}:{reader.line_num}: {fault}") from error


def _objects(path: Path) -> Iterator[_NamedRow]:
    for number, line in files.read_lines(path):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):  # also of numbers with thousands of digits
                value = None
            yield number, value if isinstance(value, dict) else "not a JSON object"
