"""Linear probes: logistic regressions that predict a label from latent codes."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from llamavae.errors import UserError
from llamavae.metrics.control import label_codes

GRID = tuple(2.0**power for power in range(-2, 4))
"""Values of C, the inverse of the L2 penalty: 1/4 to 8, SentEval's with scikit-learn."""

_ITERATIONS = 200
_SHARES = (0.6, 0.8)  # ends of the training and the validation part

Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """Row indices of the three parts."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]


@dataclass(frozen=True)
class Probe:
    """A fitted probe on the test part.

    Attributes:
        correct: Whether each of N test sentences is classified correctly (N,).
        majority: The same for the most frequent training label (N,).
        strength: The C of `GRID` chosen on the validation part.
        converged: Whether the solver converged within its limit of 200 iterations.
    """

    correct: Bool
    majority: Bool
    strength: float
    converged: bool


def fit_probe(z: ArrayLike, labels: Sequence[Hashable], split: Split) -> Probe:
    """Fit a logistic regression on standardised latent codes.

    Mean and variance are those of the training part. C is chosen from `GRID` by validation
    accuracy; ties are resolved in favour of the smaller C, as in SentEval's `SplitClassifier`.
    (SentEval does not standardise.)

    Args:
        z: Latent codes (N, D).
        labels: Label of each code.
        split: Rows for training, validation and test.

    Raises:
        UserError: The training part has fewer than two distinct labels.
    """
    codes = label_codes(labels)
    y = {name: codes[rows] for name, rows in vars(split).items()}
    counts = np.bincount(y["train"])
    if np.count_nonzero(counts) < 2:
        raise UserError("expected at least 2 distinct labels in the training part of the probe")
    x = {name: np.asarray(z, dtype=float)[rows] for name, rows in vars(split).items()}
    mean, scale = x["train"].mean(0), x["train"].std(0)
    x = {name: (part - mean) / np.where(scale > 0, scale, 1) for name, part in x.items()}

    probes = [_fit(x["train"], y["train"], c) for c in GRID]
    best, converged = max(
        probes, key=lambda probe: probe[0].score(x["validation"], y["validation"])
    )
    return Probe(
        correct=np.equal(best.predict(x["test"]), y["test"]),
        majority=y["test"] == counts.argmax(),
        strength=float(best.C),
        converged=converged,
    )


def _fit(x: NDArray[Any], y: NDArray[Any], c: float) -> tuple[LogisticRegression, bool]:
    """A regression, and whether it converged; it is used in both cases."""
    model = LogisticRegression(C=c, max_iter=_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    return model, int(np.max(model.n_iter_)) < _ITERATIONS


@dataclass(frozen=True)
class CrossValidation:
    """A nested cross-validation, in which each of N sentences is tested once.

    Attributes:
        correct: Whether each sentence is classified correctly (N,).
        folds: The outer fold in which each sentence is tested (N,).
        strengths: The C of `GRID` chosen for each outer fold.
        majority: Proportion of the most frequent label.
    """

    correct: Bool
    folds: NDArray[np.intp]
    strengths: tuple[float, ...]
    majority: float

    def weighted(self) -> NDArray[np.float64]:
        """Values of sentences (N,) whose mean is the mean accuracy over folds.

        They differ from 0 and 1 where the folds differ in size.
        """
        sizes = np.bincount(self.folds)
        return self.correct * len(self.folds) / (len(sizes) * sizes[self.folds])


def cross_validate(
    z: ArrayLike, labels: Sequence[Hashable], folds: int = 10, seed: int = 0
) -> CrossValidation:
    """Classify codes in SentEval's way (`InnerKFoldClassifier`; Conneau and Kiela, 1803.05449).

    Outer and inner folds are stratified and shuffled with the same seed. For each outer fold, the C
    of `GRID` with the highest mean accuracy over the inner folds of the other codes is chosen; ties
    after rounding to 0.01 % are resolved in favour of the smaller C. Codes are not standardised.

    Args:
        z: Latent codes (N, D).
        labels: Label of each code.
        folds: Number of outer and of inner folds.
        seed: Seed of the folds.

    Raises:
        UserError: A label has fewer than `folds` + 2 codes, or there is one label only.
    """
    x, y = np.asarray(z, dtype=float), label_codes(labels)
    counts = np.bincount(y)
    if len(counts) < 2 or counts.min() < folds + 2:
        raise UserError(
            f"expected at least 2 labels with {folds + 2} sentences each for {folds} folds; got "
            f"{len(counts)} labels, the rarest with {counts.min()}"
        )
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    choose: Any = _best_rounded
    search = GridSearchCV(
        LogisticRegression(), {"C": GRID}, scoring="accuracy", cv=splitter, refit=choose
    )
    correct, where = np.zeros(len(y), dtype=bool), np.zeros(len(y), dtype=np.intp)
    strengths = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for fold, (train, test) in enumerate(splitter.split(x, y)):
            search.fit(x[train], y[train])
            correct[test], where[test] = search.predict(x[test]) == y[test], fold
            strengths.append(float(search.best_params_["C"]))
    return CrossValidation(correct, where, tuple(strengths), float(counts.max() / len(y)))


def _best_rounded(results: Mapping[str, Any]) -> int:
    return int(np.argmax(np.round(100 * results["mean_test_score"], 2)))


def random_labels(
    texts: Sequence[str], labels: Sequence[Hashable], seed: int = 0
) -> list[Hashable]:
    """Labels of a control task: each distinct sentence receives one random label.

    They are drawn from `labels`, so that the label distribution is preserved. A probe can exceed
    the majority class on them only by recognising sentences of its training part.
    """
    order = np.random.default_rng((seed, 1)).permutation(len(texts))
    drawn = {text: labels[row] for text, row in zip(texts, order, strict=True)}
    return [drawn[text] for text in texts]


def split_texts(texts: Sequence[str], seed: int = 0) -> Split:
    """Split the distinct texts: 60 % for training, 20 % for validation, 20 % for test.

    Equal texts are in the same part.
    """
    codes = label_codes(texts)
    n = int(codes.max()) + 1
    if n < 5:
        raise UserError(f"expected at least 5 distinct sentences to split into 3 parts; got {n}")
    place = np.random.default_rng(seed).permutation(n)[codes] / n
    train, validation = (place < share for share in _SHARES)
    return Split(*(np.flatnonzero(part) for part in (train, ~train & validation, ~validation)))
