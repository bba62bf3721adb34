"""Disentanglement metrics: whether single latent dimensions encode labelled factors.

Throughout, `codes` are N latent codes (N, D) and `factors` are the values of K factors for each,
as integers from 0, shape (N, K); `code_factors` converts labels to this form. Scores are between
0 and 1; higher is better.
Here are those of *information* (MIG, modularity) and *prediction* (DCI, SAP), in the terms of
Zaidi et al., arXiv 2012.09276; those of *intervention* are in `interventions`.

All scores are above 0 for random labels; report this control with them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from llamavae.errors import UserError

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

BINS = 20
"""Number of bins of a dimension or of a continuous label, as in disentanglement_lib."""

_PER_VALUE = 5
"""Minimum mean number of sentences per value; with fewer, the estimate is mostly bias."""


# ------------------------------------------------------------------------------- labels


class Factors(NamedTuple):
    """Labels as integer codes.

    Attributes:
        codes: Value of each factor as an integer from 0 (N, K).
        names: Names of the K factors.
        left_out: Maps the name of each excluded label to the reason.
    """

    codes: Integers
    names: list[str]
    left_out: dict[str, str]


def code_factors(labels: Mapping[str, Sequence[Hashable]], bins: int = BINS) -> Factors:
    """Convert labels to integer codes.

    `float` labels are continuous: their range is divided into bins of equal width, as that of a
    dimension is. All other labels, integers included, are categorical. A label is excluded if it
    has only one value, if values are missing, if its values are lists, or if it has fewer than 5
    sentences per value on average.

    Args:
        labels: Maps the name of each label to its values for N sentences.
        bins: Number of bins of a continuous label.

    Example:
        >>> found = code_factors({"tense": ["past", "future"] * 5, "language": ["en"] * 10})
        >>> found.names, found.codes[:3, 0].tolist(), found.left_out
        (['tense'], [1, 0, 1], {'language': 'all sentences have the value en'})
    """
    codes, left_out = {}, {}
    for name, column in labels.items():
        coded = _code(column, bins)
        if isinstance(coded, str):
            left_out[name] = coded
        else:
            codes[name] = coded
    table = np.column_stack(list(codes.values())) if codes else np.empty((0, 0), dtype=int)
    return Factors(table, list(codes), left_out)


def _code(column: Sequence[Hashable], bins: int) -> Integers | str:
    """Integer codes of the values, or the reason why the label is excluded."""
    if not all(isinstance(value, Hashable) for value in column):
        return "the values are lists, not single labels"
    missing = sum(value is None or value != value for value in column)
    if missing:
        return f"{missing} of {len(column)} sentences have no value"
    if any(isinstance(value, float) for value in column):
        values = _discretise(np.array(column, dtype=float)[:, None], bins)[:, 0]
    else:
        order = {value: i for i, value in enumerate(sorted(set(column), key=str))}
        values = np.array([order[value] for value in column])
    values = np.unique(values, return_inverse=True)[1]
    count = int(values.max()) + 1
    if count == 1:
        return f"all sentences have the value {column[0]}"
    if count * _PER_VALUE > len(column):
        return f"{count} values for {len(column)} sentences: fewer than {_PER_VALUE} to a value"
    return values


# ------------------------------------------------------------------------------- information


def information_matrix(codes: Floats, factors: Integers, bins: int = BINS) -> Floats:
    """Mutual information of each dimension and each factor in nats, shape (D, K).

    The range of a dimension is divided into bins of equal width, and probabilities are estimated
    by relative frequencies, as in disentanglement_lib. The estimate has an upward bias of about
    (bins - 1)(values - 1) / 2N nats. Chen et al. integrate over the posterior instead.
    """
    codes, factors = check(codes, factors)
    cells = _discretise(codes, bins)
    dimension = np.arange(codes.shape[1])
    result = np.empty((codes.shape[1], factors.shape[1]))
    for k, values in enumerate(factors.T):
        count = int(values.max()) + 1
        cell = (dimension * bins + cells) * count + values[:, None]
        joint = np.bincount(cell.ravel(), minlength=len(dimension) * bins * count)
        joint = joint.reshape(-1, bins, count) / len(codes)
        result[:, k] = (
            entr(joint.sum(2)).sum(1) + entr(joint.sum(1)).sum(1) - entr(joint).sum((1, 2))
        )
    return result


def entropies(factors: Integers) -> Floats:
    """Entropy of each factor in nats, shape (K,)."""
    return np.array([entr(np.bincount(v) / len(v)).sum() for v in np.asarray(factors).T])


def mig(codes: Floats, factors: Integers, bins: int = BINS) -> Floats:
    """Mutual information gap of each factor, shape (K,); the score is the mean.

    Chen et al., arXiv 1802.04942, equation 6: the difference between the two highest values of
    mutual information of a dimension and the factor, divided by the entropy of the factor. See
    `information_matrix`.

    Example:
        >>> a, b = np.divmod(np.arange(400) % 4, 2)
        >>> mig(np.column_stack([a, b]), np.column_stack([a, b])).round(2).tolist()
        [1.0, 1.0]
    """
    second, first = np.sort(information_matrix(codes, factors, bins), axis=0)[-2:]
    return (first - second) / entropies(factors)


def modularity(codes: Floats, factors: Integers, bins: int = BINS) -> float:
    """Degree to which each dimension is informative about one factor only, mean over dimensions.

    Ridgeway and Mozer, arXiv 1802.05312, section 3: 1 minus the sum of the squared mutual
    information with all factors but the best, divided by (K - 1) times that with the best. A
    dimension without information scores 0, as in disentanglement_lib. Random labels score high,
    since the bias of the estimate is largest for the factor with the most values.
    """
    squared = information_matrix(codes, factors, bins) ** 2
    if squared.shape[1] < 2:
        raise UserError("modularity compares factors: expected at least 2 factors; got 1")
    best = squared.max(1)
    rest = (squared.sum(1) - best) / (squared.shape[1] - 1)
    return float(np.where(best > 1e-18, 1 - rest / np.maximum(best, 1e-18), 0.0).mean())


def _discretise(codes: Floats, bins: int) -> Integers:
    low, high = codes.min(0), codes.max(0)
    width = np.where(high > low, high - low, 1.0)
    return np.minimum(((codes - low) / width * bins).astype(np.int64), bins - 1)


# ------------------------------------------------------------------------------- prediction


class DCI(NamedTuple):
    """Scores of Eastwood and Williams.

    Attributes:
        disentanglement: Degree to which each dimension is important for one factor only.
        completeness: Degree to which each factor is predicted from one dimension only.
        informativeness: Held-out accuracy of the predictions, mean over factors.
        importance: Importance of each dimension for each factor; columns sum to 1 (D, K).
        accuracy: Held-out accuracy for each factor (K,).
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Floats
    accuracy: Floats


def dci(codes: Floats, factors: Integers, *, trees: int = 20, seed: int = 0) -> DCI:
    """Disentanglement, completeness and informativeness (Eastwood and Williams, ICLR 2018).

    A random forest predicts each factor; the importance of a dimension is its impurity importance
    in the forest, as in the paper. The forest is fitted to two thirds of the codes and evaluated
    on the rest. Each split considers all dimensions, since random subsets would spread the
    importance over all of them. Other implementations differ: disentanglement_lib uses gradient
    boosting, which takes much longer; the paper tunes the depth and reports a regression error
    instead of the accuracy of a classifier. For random labels, disentanglement and completeness
    are near 0, and informativeness is at chance level.

    With one factor, `disentanglement` is undefined and returned as nan.
    """
    codes, factors = check(codes, factors)
    fitted, held_out = split(len(codes), 2 / 3, np.random.default_rng(seed))
    importance = np.empty((codes.shape[1], factors.shape[1]))
    accuracy = np.empty(factors.shape[1])
    for k, values in enumerate(factors.T):
        forest = RandomForestClassifier(
            trees,
            max_features=None,  # pyright: ignore[reportArgumentType] all of them
            random_state=seed,
        )
        forest.fit(codes[fitted], values[fitted])
        importance[:, k] = forest.feature_importances_
        accuracy[k] = np.mean(forest.predict(codes[held_out]) == values[held_out])
    return DCI(
        _concentration(importance), _concentration(importance.T), float(accuracy.mean()),
        importance, accuracy,
    )  # fmt: skip


def _concentration(importance: Floats) -> float:
    """1 - entropy of each row, normalised to 0 to 1; mean weighted by the row sums."""
    rows = importance[importance.sum(1) > 0]
    if importance.shape[1] < 2:
        return math.nan
    if not len(rows):
        return 0.0
    shares = rows / rows.sum(1, keepdims=True)
    scores = 1 - entr(shares).sum(1) / np.log(importance.shape[1])
    return float(np.average(scores, weights=rows.sum(1)))


def sap(codes: Floats, factors: Integers, *, seed: int = 0) -> Floats:
    """Separated attribute predictability of each factor, shape (K,); the score is the mean.

    Kumar et al., arXiv 1711.00848, section 3: the difference in balanced accuracy between the two
    single dimensions that predict the factor best by thresholds. The thresholds, at most one fewer
    than the number of values, are those of a decision tree fitted to half of the codes and
    evaluated on the other half. A perfect space scores 1 - 1 / (number of values), since chance
    level is 1 / (number of values). disentanglement_lib uses the accuracy of a linear support
    vector machine instead.
    """
    codes, factors = check(codes, factors)
    fitted, held_out = split(len(codes), 1 / 2, np.random.default_rng(seed))
    scores = np.empty((codes.shape[1], factors.shape[1]))
    for k, values in enumerate(factors.T):
        count = np.bincount(values[fitted])
        weight = 1 / count[values[fitted]]  # all values have equal weight
        leaves = max(2, int((count > 0).sum()))
        tree = DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=seed)
        for d, column in enumerate(codes.T[:, :, None]):
            tree.fit(column[fitted], values[fitted], weight)
            right = tree.predict(column[held_out]) == values[held_out]
            scores[d, k] = _mean_by_value(right, values[held_out])
    second, first = np.sort(scores, axis=0)[-2:]
    return first - second


# ------------------------------------------------------------------------------- helpers


def check(codes: Floats, factors: Integers, minimum: int = 1) -> tuple[Floats, Integers]:
    """Latent codes (N, D) and factors (N, K) as arrays.

    Raises:
        UserError: Shapes do not match, or there are too few dimensions, factors or codes.
    """
    codes, factors = np.asarray(codes, dtype=np.float64), np.asarray(factors)
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors):
        raise UserError(
            "expected latent codes (N, D) and the integer labels of K factors (N, K); got "
            f"{codes.shape} and {factors.shape}"
        )
    if codes.shape[1] < 2 or factors.shape[1] < minimum or len(codes) < 4:
        raise UserError(
            "a disentanglement score needs at least 2 "
            f"dimensions, {minimum} factor{'s'[: minimum > 1]} and 4 latent codes; got "
            f"{codes.shape[1]}, {factors.shape[1]} and {len(codes)}"
        )
    return codes, factors


def split(
    n: int, share: float, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """A random split of the item indices; the first part has this proportion of all items."""
    order = rng.permutation(n)
    return order[: round(share * n)], order[round(share * n) :]


def _mean_by_value(right: NDArray[np.bool_], values: Integers) -> float:
    """Balanced accuracy: the mean over the values that occur of the proportion correct."""
    count = np.bincount(values)
    return float((np.bincount(values, right)[count > 0] / count[count > 0]).mean())
