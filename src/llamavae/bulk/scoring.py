"""Score a file of predictions row by row, to a Parquet file of per-item values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llamavae.bulk.engine import LocalEngine
from llamavae.bulk.task import Engine, Row, Task, Tell, check_paths, run
from llamavae.corpora.files import read_records
from llamavae.errors import UserError
from llamavae.evaluation.evaluator import system_fingerprint
from llamavae.evaluation.predictions import parse_prediction
from llamavae.evaluation.scoring import METRICS, Scorer
from llamavae.metrics.metric import AGGREGATES
from llamavae.modeling.refine import Progress

PART_SIZE = 1024  # maximum number of rows lost by an interruption; one row group


@dataclass(frozen=True)
class ScoreReport:
    """Result of `score_file`.

    Attributes:
        output: The Parquet file.
        items: Rows in it.
        resumed: Number of rows from an interrupted run.
        metrics: Each metric over all items, by name.
    """

    output: Path
    items: int
    resumed: int
    metrics: dict[str, float]


def score_file(
    source: Path,
    output: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    engine: Engine | None = None,
    **models: Any,
) -> ScoreReport:
    """Score each prediction of a file to a row `id` and a column for each metric of Parquet.

    For files that are too large for `Scorer.score`: memory use does not depend on their length.
    There are no intervals and controls, nor lemma-BLEU and distinct, which compare all items. Call
    it again with the same arguments to resume a run that was interrupted. The file is the same to
    the bit for every engine and number of workers, on the same kind of processor.

    Args:
        source: Predictions, Parquet or JSON lines with the fields of `read_predictions`; ids are
            not compared with one another.
        output: The Parquet file, which is created when it is complete.
        overwrite: Replace an existing output.
        progress: Progress callback.
        engine: As for `encode_file`.
        **models: Models of `Scorer` by name: `encoder`, `mover`, `bertscore`, `bertscore_layer`,
            `bleurt`.

    Raises:
        UserError: A line is not valid, the output exists or cannot be written, another process
            writes it, or the interrupted run had another source or model.
    """
    check_paths(source, output, overwrite)
    task = Scoring(source, models)
    parts, resumed = run(task, output, engine or LocalEngine(), progress, overwrite)
    items = sum(part["rows"] for part in parts)
    parts = [part for part in parts if part["rows"]]
    metrics = {}
    for name in parts[0]["sums"]:
        total = np.sum([part["sums"][name] for part in parts], axis=0)
        counted = METRICS[name].aggregate != "mean"
        metrics[name] = _value(name, total[None]) if counted else float(total) / items
    return ScoreReport(output, items, resumed, metrics)


class Scoring(Task):
    """The task of `score_file`."""

    nothing = "has no predictions"

    def __init__(self, source: Path, models: dict[str, Any]) -> None:
        super().__init__(source, PART_SIZE)
        self.models = models

    @cached_property
    def scorer(self) -> Scorer:
        """Loads the models at the first use."""
        return Scorer(**self.models)

    def facts(self) -> dict[str, Any]:
        """See `Task`."""
        encoder = self.scorer.encoder
        judge = None if encoder is None else system_fingerprint(encoder)
        return {"models": self.models, "judge": judge}

    def read(self, first: int = 1) -> Iterator[Row]:
        """See `Task`."""
        return read_records(self.source, first)

    def compute(self, part: int, rows: list[Row], tell: Tell) -> tuple[pa.Table, dict[str, Any]]:
        """See `Task`."""
        items = []
        for number, fields in rows:
            if fields is not None:
                known = {name: value for name, value in fields.items() if value is not None}
                item = parse_prediction(known, f"{self.source}:{number}")
                if not item.references or not all(text.strip() for text in item.references):
                    raise UserError(
                        f"{self.source}:{number}: expected at least one reference, and none of "
                        "them blank"
                    )
                items.append(replace(item, lemma=None, senses=()))
        if not items:
            return pa.table({"id": pa.array([], pa.string())}), {"sums": {}}
        found = self.scorer.values(items)
        columns = {
            name: [_value(name, values[i : i + 1]) for i in range(len(items))]
            for name, values in found.items()
        }
        tell(rows[-1][0])
        sums = {name: values.sum(0).tolist() for name, values in found.items()}
        return pa.table({"id": [item.id for item in items], **columns}), {"sums": sums}


def _value(name: str, values: np.ndarray) -> float:
    """A metric over items."""
    return AGGREGATES[METRICS[name].aggregate](values)
