"""Semantic textual similarity: agreement of latent cosines with human similarity scores.

Each pair of sentences has a human similarity score. It is compared with the cosine of the two
latent codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llamavae.corpora.sts import (
    AVERAGED,
    GROUPS,
    TASKS,
    Malformed,
    ScoredPairs,
    load_pairs,
    read_pairs,
)
from llamavae.errors import UserError
from llamavae.evaluation.evaluator import (
    Evaluation,
    EvaluationData,
    Evaluator,
    can_encode,
    latent_codes,
)
from llamavae.evaluation.tasks import Groups, check_tasks, load_tasks, task_names
from llamavae.metrics.correlation import row_cosines
from llamavae.metrics.metric import AGGREGATES, Items, Metric, Rows
from llamavae.modeling import LlaMaVAE

_CONTROL = "The same metric for the embeddings of the VAE's sentence encoder, before compression."

SPEARMAN = Metric(
    "STS Spearman",
    "−1 to 1",
    "higher",
    "Spearman correlation, over pairs of sentences, between the cosine of their posterior means "
    "and their human similarity score. Without a group, it is the value of the first benchmark, by "
    "default STS-B dev (Cer et al., 2017, arXiv 1708.00055). The STS average is the mean over "
    "seven test sets, each with all its pairs together (SimCSE, 2021, arXiv 2104.08821).",
    _CONTROL,
    "spearman",
    "scipy",
    "similarity:cosine",
)
PEARSON = Metric(
    "STS Pearson",
    "−1 to 1",
    "higher",
    "Pearson correlation, over pairs of sentences, between the cosine of their posterior means and "
    "their human similarity score.",
    _CONTROL,
    "pearson",
    settings="similarity:cosine",
)


AVERAGE = "STS average"
"""Group of the mean over the seven test sets of `AVERAGED`."""


class SemanticSimilarity(Evaluator):
    """Correlation of the cosine of posterior means with human similarity scores.

    The control is the same correlation for the sentence encoder of the VAE. The difference is the
    cost of the compression to D dimensions.

    Args:
        tasks: Names of `TASKS` or of `files`, the primary one first; their data are required. The
            name of a group in `GROUPS` selects those of its tasks that are found.
        files: Maps tasks to local files or folders, see `read_pairs`, to be used instead of the
            hub.
        malformed: See `read_pairs`.
        resamples: Number of bootstrap samples.
    """

    name = "sts"
    needs = frozenset({"encode"})
    metrics = (SPEARMAN, PEARSON)

    def __init__(
        self,
        tasks: Sequence[str] = ("stsb",),
        files: Mapping[str, str | Path] | None = None,
        malformed: Malformed = "refuse",
        resamples: int = 1000,
    ) -> None:
        self.files = {name: Path(path) for name, path in (files or {}).items()}
        self.tasks = tuple(tasks)
        self.malformed: Malformed = malformed
        self.resamples = resamples
        if not self.tasks:
            raise UserError("expected at least one STS task; got none")
        known = [*TASKS, *self.files]
        check_tasks("STS task", self.tasks, known, GROUPS, "Or pass its file in files=.")

    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """The correlations for each task, and the pairs with their cosines.

        If the tasks include all of `AVERAGED`, their mean has the group `STS average`.
        If the first task is not found, there is no row without a group.

        Raises:
            MissingData: The data of a task selected by name, or of all tasks of a group, are
                missing.
            UserError: A file is malformed.
        """
        groups: Groups = {name: GROUPS[name] for name in GROUPS if name not in self.files}
        loaded, lost = load_tasks(self.tasks, groups, self._pairs)
        first, *_ = task_names(self.tasks, groups)
        rows: Rows = []
        table: Rows = []
        scored: dict[str, tuple[Any, Any]] = {}
        for task, pairs in loaded.items():
            title = TASKS[task].title if task in TASKS else task
            ours, raw = _pair_cosines(system, pairs)
            group = "" if task == first else title
            scored[task] = _beside(pairs.scores, ours), _beside(pairs.scores, raw)
            rows += self._rows(*scored[task], group, title, data.seed)
            table += [
                {"task": title, "sentence1": a, "sentence2": b, "score": score, "cosine": cosine}
                | ({} if raw is None else {"encoder cosine": float(raw[j])})
                for j, (a, b, score, cosine) in enumerate(
                    zip(pairs.first, pairs.second, pairs.scores, ours.tolist(), strict=True)
                )
            ]
        if all(task in scored for task in AVERAGED):
            ours, raw = (_average([scored[task][i] for task in AVERAGED]) for i in range(2))
            names = ", ".join(TASKS[task].title for task in AVERAGED)
            rows += self._rows(ours, raw, AVERAGE, names, data.seed)
        left_out = [{"row": line} for pairs in loaded.values() for line in pairs.skipped]
        rows.sort(key=lambda row: row["metric"] != self.primary.name)
        tables = {"pairs": table} | ({"left out": left_out} if left_out else {})
        return Evaluation(
            rows, tables, {TASKS[task].title: reason for task, reason in lost.items()}
        )

    def _pairs(self, task: str) -> ScoredPairs:
        if task in self.files:
            return read_pairs(self.files[task], self.malformed)
        return load_pairs(task, self.malformed)

    def _rows(
        self,
        ours: NDArray[np.float64],
        raw: NDArray[np.float64] | None,
        group: str,
        benchmark: str,
        seed: int,
    ) -> Rows:
        """Rows of a benchmark, from human scores and cosines (N, 2), see `mean_correlation`."""
        return [
            metric.bootstrap(
                lambda i, f=AGGREGATES[metric.aggregate]: f(ours[i]),
                len(ours),
                seed,
                resamples=self.resamples,
                control=None if raw is None else AGGREGATES[metric.aggregate](raw),
                group=group,
                items=Items(ours, raw),
                benchmark=benchmark,
            )
            for metric in self.metrics
        ]


def _beside(
    scores: Sequence[float], cosines: NDArray[np.float64] | None
) -> NDArray[np.float64] | None:
    """Human scores and cosines as columns (N, 2); None without cosines."""
    return None if cosines is None else np.stack([scores, cosines], 1)


def _average(parts: Sequence[Any]) -> Any:
    """The pairs of several sets with the number of their set as a third column, if all exist."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return np.vstack([np.insert(part, 2, number, axis=1) for number, part in enumerate(known)])


@torch.no_grad()
def _pair_cosines(
    system: Any, pairs: ScoredPairs
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Cosines of the latent codes of N pairs, and those of the system's sentence encoder, if any.

    Returns:
        Two arrays (N,); the second is None for a system without its own sentence encoder.
    """
    texts = [*pairs.first, *pairs.second]
    half = len(pairs.first)
    encoder = getattr(system, "encoder", None)
    if not can_encode(encoder):
        ours = latent_codes(system, texts)
        return row_cosines(ours[:half], ours[half:]).numpy(), None
    raw = latent_codes(encoder, texts)
    # the posterior is a function of the encoder's embeddings, so these are computed only once
    ours = system.encode(raw).mean if isinstance(system, LlaMaVAE) else latent_codes(system, texts)
    theirs = row_cosines(raw[:half], raw[half:]).numpy()
    return row_cosines(ours[:half], ours[half:]).numpy(), theirs
