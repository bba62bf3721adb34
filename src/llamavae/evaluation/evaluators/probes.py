"""Probes: linear classifiers that predict properties of a sentence from its latent code.

A probe is a logistic regression from latent codes to a label. Its accuracy is compared with that of
the majority class and with that of the same probe for random labels (the control task of Hewitt
and Liang, arXiv 1909.03368).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamavae.corpora import senteval
from llamavae.errors import UserError
from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator, latent_codes
from llamavae.evaluation.labels import classes, left_out_table, listed
from llamavae.evaluation.tasks import check_tasks, load_tasks
from llamavae.metrics.bootstrap import Statistic
from llamavae.metrics.metric import Items, Metric, Rows
from llamavae.metrics.probes import Probe, Split, fit_probe, random_labels, split_texts


def _length_classes(texts: Sequence[str]) -> list[str]:
    """Number of white-space separated words, in up to six classes of about equal size.

    SentEval's Length also has six classes, with fixed bounds (5 to 28 words).

    Example:
        >>> _length_classes(["a", "a b", "a b c", "a b c d"])
        ['1', '2', '3', '4']
    """
    lengths = np.array([len(text.split()) for text in texts])
    bounds = np.unique(np.quantile(lengths, np.arange(1, 6) / 6, method="inverted_cdf"))
    codes = np.searchsorted(bounds, lengths)
    names = {}
    for code in np.unique(codes):
        low, high = (int(f(lengths[codes == code])) for f in (np.min, np.max))
        names[code] = f"{low}" if low == high else f"{low} to {high}"
    return [names[code] for code in codes]


# ------------------------------------------------------------------------------- the evaluator

_RANDOM = "The same metric for a probe trained and tested on random labels."

MARGIN = Metric(
    "accuracy above majority",
    "−1 to 1",
    "higher",
    "Test accuracy of a logistic regression from posterior means to a label, minus that of the "
    "most frequent training label (probing; Conneau et al., 2018, arXiv 1805.01070). Without a "
    "group, it is the mean over label columns.",
    _RANDOM,
    library="scikit-learn",
)
ACCURACY = Metric(
    "probe accuracy",
    "0 to 1",
    "higher",
    "Test accuracy of the logistic regression (probing; Conneau et al., 2018, arXiv 1805.01070). "
    "Without a group, it is the mean over label columns.",
    "The accuracy of predicting the most frequent label of the training part.",
    library="scikit-learn",
)
SELECTIVITY = Metric(
    "selectivity",
    "−1 to 1",
    "higher",
    "Accuracy of the probe minus that of a probe for random labels, which are fixed for each "
    "sentence (Hewitt and Liang, 2019, arXiv 1909.03368). Without a group, it is the mean over "
    "label columns.",
    library="scikit-learn",
)


_SENTEVAL = "SentEval "  # start of the names of SentEval's tasks


@dataclass(frozen=True)
class _Source:
    """Sentences with one or more labels, and their split."""

    texts: Sequence[str]
    labels: Mapping[str, Sequence[Hashable]]
    split: Split


@dataclass(frozen=True)
class _Probed:
    """A probe and its control, on the test sentences of the source with this index."""

    probe: Probe
    control: Probe
    source: int


class Probes(Evaluator):
    """Accuracy of linear probes for the length of a sentence, its labels, and SentEval's tasks.

    Labels are the columns of the corpus with 2 to 50 classes, such as all factors of `factors`, or
    part of speech (`pos`) and semantic class (`lexname`) of `wordnet`.

    Args:
        tasks: Names of `senteval.TASKS` to probe as well; their files are required. `all` selects
            those of the ten tasks whose files are found.
        folder: Folder with SentEval's files; default: the environment variable LLAMAVAE_SENTEVAL.
        limit: Maximum number of sentences of the data, and of each part of a SentEval task, chosen
            at random.
        resamples: Number of bootstrap samples.
    """

    name = "probes"
    needs = frozenset({"encode"})
    metrics = (MARGIN, ACCURACY, SELECTIVITY)

    def __init__(
        self,
        tasks: Sequence[str] = (),
        folder: str | Path | None = None,
        limit: int | None = 2000,
        resamples: int = 1000,
    ) -> None:
        check_tasks("SentEval task", tasks, senteval.TASKS, senteval.GROUPS)
        self.tasks, self.folder = tuple(tasks), folder
        self.limit, self.resamples = limit, resamples

    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """Accuracies for each label and their means, and tables of the fits and excluded labels.

        Raises:
            MissingData: The file of a task selected by name is missing.
            UserError: A file of SentEval is malformed, or there is no usable label.
        """
        columns, left_out = classes(data.labels)
        columns["length in words"] = _length_classes(data.texts)
        chosen = replace(data, labels=columns).sample(self.limit)
        sources = [_Source(chosen.texts, chosen.labels, split_texts(chosen.texts, data.seed))]
        found, lost = load_tasks(
            self.tasks,
            senteval.GROUPS,
            lambda task: _senteval(task, self.folder, self.limit, data.seed),
            required=False,
        )
        sources += found.values()
        probed: dict[str, _Probed] = {}
        table: Rows = []
        for number, source in enumerate(sources):
            z = latent_codes(system, source.texts).numpy()
            for name, labels in source.labels.items():
                random = random_labels(source.texts, labels, data.seed)
                try:
                    probe, control = (fit_probe(z, y, source.split) for y in (labels, random))
                except UserError as error:
                    left_out[name] = str(error)
                    continue
                probed[name] = _Probed(probe, control, number)
                table.append(
                    {
                        "label": name,
                        "classes": len(set(labels)),
                        **{part: len(rows) for part, rows in vars(source.split).items()},
                        "C": probe.strength,
                        "converged": probe.converged,
                    }
                )
        if not probed:
            raise UserError(f"expected at least one usable label; found none. {listed(left_out)}")
        groups = {"": list(probed.values()), **{name: [each] for name, each in probed.items()}}
        rows = [
            self._row(metric, members, group, data.seed)
            for metric in self.metrics
            for group, members in groups.items()
        ]
        return Evaluation(
            rows,
            {"probes": table} | left_out_table(left_out),
            {f"{_SENTEVAL}{task}": reason for task, reason in lost.items()},
        )

    def _row(
        self, metric: Metric, probed: Sequence[_Probed], group: str, seed: int
    ) -> dict[str, Any]:
        """The mean over probes of the mean over their test sentences."""
        value, control = _VALUES[metric.name]
        values = [value(each) for each in probed]
        statistic, n = _mean_of_means(values, [each.source for each in probed])
        return metric.bootstrap(
            statistic,
            n,
            seed,
            resamples=self.resamples,
            control=None if control is None else float(np.mean([control(p) for p in probed])),
            group=group,
            items=Items(values[0]) if len(values) == 1 else None,
            benchmark=group if group.startswith(_SENTEVAL) else "",
        )


def _mean_of_means(
    values: Sequence[NDArray[np.float64]], sources: Sequence[Hashable]
) -> tuple[Statistic, int]:
    """The mean over lists of the mean of each list, as a statistic for the bootstrap.

    Args:
        values: K lists of values, one value per test sentence.
        sources: K names of test sets. Lists of the same test set share its sentences, so each
            bootstrap sample contains a sentence for all of them or for none.

    Returns:
        The statistic, and its number of items: all sentences of all test sets.
    """
    start: dict[Hashable, int] = {}
    n = 0
    for numbers, source in zip(values, sources, strict=True):
        if source not in start:
            start[source] = n
            n += len(numbers)

    def statistic(items: NDArray[np.intp]) -> float:
        times = np.bincount(items, minlength=n)
        means = []
        for numbers, source in zip(values, sources, strict=True):
            own = times[start[source] :][: len(numbers)]
            means.append(own @ numbers / max(1, own.sum()))
        return float(np.mean(means))

    return statistic, n


def _margin(probe: Probe) -> NDArray[np.float64]:
    return probe.correct.astype(float) - probe.majority


# maps metrics to the value of each test sentence, and to the control
_VALUES: dict[str, tuple[Callable[[_Probed], Any], Callable[[_Probed], Any] | None]] = {
    MARGIN.name: (lambda p: _margin(p.probe), lambda p: _margin(p.control).mean()),
    ACCURACY.name: (lambda p: p.probe.correct.astype(float), lambda p: p.probe.majority.mean()),
    SELECTIVITY.name: (lambda p: p.probe.correct.astype(float) - p.control.correct, None),
}


def _senteval(task: str, folder: str | Path | None, limit: int | None, seed: int) -> _Source:
    parts = senteval.load_task(task, folder, limit, seed).values()
    labels = [label for part in parts for label in part.labels]
    ends = np.cumsum([len(part.texts) for part in parts])
    return _Source(
        [text for part in parts for text in part.texts],
        {f"{_SENTEVAL}{task}": labels},
        Split(*np.split(np.arange(len(labels)), ends[:-1])),
    )
