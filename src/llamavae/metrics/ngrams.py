"""N-gram metrics: BLEU, ROUGE, exact match, token F1 and the diversity and novelty of texts.

Throughout, `predictions` and `references` are N texts each, one pair per item; `prediction` and
`reference` are one pair.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sacrebleu
from numpy.typing import NDArray
from sacrebleu import BLEU

from llamavae.errors import UserError

Values = NDArray[np.float64]

_BLOCK = 32  # number of texts compared with all training texts at a time


def bleu_counts(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.int64]:
    """Per-item counts for corpus BLEU, shape (N, 10).

    The columns are the length of the prediction, that of the reference, the numbers of matching
    n-grams and the numbers of all n-grams, n from 1 to 4, as sacrebleu counts them (13a
    tokenisation, cased).
    """
    metric = BLEU(effective_order=True)
    scores = [metric.sentence_score(w, [r]) for w, r in zip(predictions, references, strict=True)]
    return np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scores])


def bleu_of_counts(counts: NDArray[np.int64], *, effective_order: bool = False) -> float:
    """BLEU, 0 to 100, of the sum of counts (N, 10) of items.

    Args:
        counts: Rows of `bleu_counts`.
        effective_order: Use only the orders for which the text is long enough, as sacrebleu does
            for single sentences.

    Example:
        >>> counts = bleu_counts(["a kind of dog", "a cat"], ["a kind of big dog", "a cat"])
        >>> round(bleu_of_counts(counts), 2)
        55.7
    """
    length, expected, *ngrams = counts.sum(0).tolist()
    options: dict[str, Any] = {"smooth_method": "exp", "effective_order": effective_order}
    return BLEU.compute_bleu(ngrams[:4], ngrams[4:], length, expected, **options).score


_CHRF_ORDER = 6  # largest n of character n-grams


def chrf_counts(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.int64]:
    """Per-item counts for corpus chrF, shape (N, 18).

    The columns are, for each n from 1 to 6, the numbers of character n-grams of the prediction, of
    the reference, and of both, as sacrebleu counts them (without white space, cased).
    """
    rows = [
        [
            value
            for n in range(1, _CHRF_ORDER + 1)
            for value in _chrf_counts("".join(a.split()), "".join(b.split()), n)
        ]
        for a, b in zip(predictions, references, strict=True)
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 3 * _CHRF_ORDER)


def _chrf_counts(a: str, b: str, n: int) -> tuple[int, int, int]:
    ours, theirs = max(len(a) - n + 1, 0), max(len(b) - n + 1, 0)
    # as sacrebleu, the prediction's n-grams do not count if the reference has none
    return ours if theirs else 0, theirs, _common(a, b, n)


def chrf_of_counts(counts: NDArray[np.int64]) -> float:
    """chrF, 0 to 100, of the sum of counts (N, 18) of items (Popović, 2015, W15-3049), beta 2.

    Args:
        counts: Rows of `chrf_counts`.

    Example:
        >>> counts = chrf_counts(["a kind of dog", "a cat"], ["a kind of big dog", "a cat"])
        >>> round(chrf_of_counts(counts), 2)
        56.24
    """
    ours, theirs, common = counts.sum(0).reshape(-1, 3).T.tolist()
    orders = [n for n in range(_CHRF_ORDER) if ours[n] > 0 and theirs[n] > 0]
    if not any(common[n] for n in orders):
        return 0.0
    precision = sum(common[n] / ours[n] for n in orders) / len(orders)
    recall = sum(common[n] / theirs[n] for n in orders) / len(orders)
    return 100 * 5 * precision * recall / (4 * precision + recall)


def bleu_1(prediction: str, reference: str) -> float:
    """Unigram BLEU of one sentence with brevity penalty, 0 to 1, words split at white space.

    Equal to nltk's `sentence_bleu` with weights (1, 0, 0, 0). The reconstruction tables of Zhang
    et al. (arXiv 2311.08579) report its mean over sentences.

    Example:
        >>> bleu_1("a kind of dog", "a dog is a kind of animal")
        0.472...
    """
    a, b = prediction.split(), reference.split()
    if not a:
        return 0.0
    penalty = min(1.0, math.exp(1 - len(b) / len(a)))
    return penalty * _common(a, b, 1) / len(a)


def nltk_bleu(prediction: str, reference: str) -> float:
    """BLEU of one sentence by nltk's `sentence_bleu` with its defaults, 0 to 1.

    BLEU-4 without smoothing, words split at white space: a text without a common n-gram of some
    order scores almost 0. Its mean over sentences is not comparable with corpus BLEU.

    Example:
        >>> nltk_bleu("a kind of big dog", "a kind of big cat")
        0.668...
    """
    from nltk.translate.bleu_score import sentence_bleu  # slow import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of missing n-grams
        score: Any = sentence_bleu([reference.split()], prediction.split())
        return float(score)


def token_f1(prediction: str, reference: str) -> float:
    """F1 of the bags of words of two texts, 0 to 1.

    The F1 of SQuAD (Rajpurkar et al., arXiv 1606.05250) without its normalisation: words are split
    at white space, and case, articles and punctuation are kept.

    Example:
        >>> token_f1("a kind of dog", "a dog of a kind")
        0.888...
    """
    a, b = prediction.split(), reference.split()
    return 1.0 if a == b else _f1(_common(a, b, 1), len(a), len(b))


def rouge(prediction: str, reference: str) -> tuple[float, float, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L of two texts: F1 values, 0 to 1 (Lin 2004, W04-1013).

    Computed as in the package rouge-score without stemming. Words are maximal sequences of the
    letters a to z and digits in the lower-cased text. ROUGE-L uses the longest common subsequence
    of the whole texts. Texts in other scripts have no such words and score 0.

    Example:
        >>> rouge("the cat sat on the mat", "a cat sat, on a Mat!")
        (0.666..., 0.4, 0.666...)
    """
    a, b = (re.findall("[a-z0-9]+", x.lower()) for x in (prediction, reference))
    return (
        _f1(_common(a, b, 1), len(a), len(b)),
        _f1(_common(a, b, 2), len(a) - 1, len(b) - 1),
        _f1(_longest_common_subsequence(a, b), len(a), len(b)),
    )


def _common(a: Sequence[str], b: Sequence[str], n: int) -> int:
    """Number of common n-grams of two texts, with multiplicity."""
    if a == b:
        return max(len(a) - n + 1, 0)
    ours, theirs = (Counter(zip(*(x[i:] for i in range(n)), strict=False)) for x in (a, b))
    return sum(min(ours[x], theirs[x]) for x in ours.keys() & theirs.keys())


def _f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    if a == b:
        return len(a)
    row = [0] * (len(b) + 1)  # lengths for the words of `a` so far and the first j of `b`
    for word in a:
        before = 0
        for j, other in enumerate(b, 1):
            above = row[j]
            row[j] = before + 1 if word == other else max(above, row[j - 1])
            before = above
    return row[-1]


def corpus_bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU, 0 to 100: sacrebleu with its standard tokenisation (13a), cased.

    Args:
        predictions: Generated texts, one for each reference; they may be empty.
        references: Reference texts.
    """
    _check_pairs(predictions, references)
    return sacrebleu.corpus_bleu(list(predictions), [list(references)], force=True).score


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Proportion of predictions, 0 to 1, that equal their reference up to white space."""
    _check_pairs(predictions, references)
    pairs = zip(predictions, references, strict=True)
    return sum(a.split() == b.split() for a, b in pairs) / len(predictions)


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Number of distinct n-grams over the number of all n-grams; words are split at white space.

    Li et al., arXiv 1510.03055. It is 0 if there are no n-grams. It decreases with the number of
    texts, so compare equal numbers of texts.

    Example:
        >>> distinct_n(["a kind of dog", "a kind of cat"])
        0.6666666666666666
    """
    grams = [
        tuple(words[i : i + n])
        for words in (text.split() for text in texts)
        for i in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str], order: int = 4) -> Values:
    """BLEU of each text with all other texts as references, shape (N,), 0 to 1.

    Zhu et al., "Texygen" (arXiv 1802.01886); high values mean low diversity. Smoothing is the same
    as in their code: a count of 0 matching n-grams is replaced by 0.1 (method 1 of Chen and Cherry
    2014, nltk's `SmoothingFunction().method1`); without a common word the score is 0. It increases
    with N, so compare equal numbers of texts. The run time is linear in N.

    Args:
        texts: N texts, at least 2.
        order: Largest n of the n-grams.

    Example:
        >>> self_bleu(["a kind of dog", "a kind of cat", "robots paint"], order=2).round(3)
        array([0.707, 0.707, 0.   ])
    """
    if len(texts) < 2:
        raise UserError(f"self-BLEU needs at least 2 texts; got {len(texts)}")
    words = [text.split() for text in texts]
    common, total = _shared_ngrams(words, order)
    return _smoothed_bleu(common, total, _brevity([len(row) for row in words]))


def reference_bleu(texts: Sequence[str], references: Sequence[str], order: int = 4) -> Values:
    """BLEU of each text with all M references, shape (N,), 0 to 1; smoothed as in `self_bleu`.

    The BLEU of samples against held-out text (Yu et al., SeqGAN, arXiv 1609.05473; Zhu et al.,
    "Texygen", arXiv 1802.01886); high values mean that the phrases of a text are real phrases. It
    increases with M, so compare equal references. The run time is linear in N + M.

    Args:
        texts: N texts.
        references: M texts, at least one.
        order: Largest n of the n-grams.

    Example:
        >>> reference_bleu(["a kind of dog"], ["a kind of cat", "a dog barks"], order=2).round(3)
        array([0.816])
    """
    from nltk.util import ngrams  # slow import

    if not references:
        raise UserError("expected at least 1 reference; got none")
    words, others = ([text.split() for text in side] for side in (texts, references))
    common, total = np.zeros((2, order, len(words)))
    for n in range(1, order + 1):
        most: Counter[Any] = Counter()
        for row in others:
            most |= Counter(ngrams(row, n))  # the largest count in a reference
        for i, row in enumerate(words):
            count = Counter(ngrams(row, n))
            total[n - 1, i] = count.total()
            common[n - 1, i] = (count & most).total()
    lengths = sorted({len(row) for row in others})
    penalties = [_penalty(len(row), lengths) for row in words]
    return _smoothed_bleu(common, total, np.array(penalties))


def _smoothed_bleu(common: Values, total: Values, penalties: Values) -> Values:
    """BLEU (N,) of clipped matches and numbers of n-grams (order, N), by smoothing method 1."""
    precisions = np.where(common > 0, common, 0.1) / np.maximum(total, 1)
    scores = precisions.prod(0) ** (1 / len(common)) * penalties
    return np.where(common[0] > 0, scores, 0.0)


def _penalty(length: int, others: Iterable[int]) -> float:
    """Brevity penalty of a text for the closest length of other texts, the shorter one in a tie."""
    closest = min(others, key=lambda other: (abs(other - length), other))
    return min(1.0, math.exp(1 - closest / length)) if length else 0.0


def _shared_ngrams(words: Sequence[Sequence[str]], order: int) -> tuple[Values, Values]:
    """Clipped matching n-grams of each text with all others, and all its n-grams.

    Both have shape (order, N), n from 1 to `order`.
    """
    from nltk.util import ngrams  # slow import

    common, total = np.zeros((2, order, len(words)))
    for n in range(1, order + 1):
        counts = [Counter(ngrams(row, n)) for row in words]
        largest: dict[Any, tuple[int, int]] = {}  # the two largest counts of an n-gram in a text
        for count in counts:
            for gram, times in count.items():
                most, second = largest.get(gram, (0, 0))
                largest[gram] = (times, most) if times > most else (most, max(second, times))
        for i, count in enumerate(counts):
            total[n - 1, i] = count.total()
            for gram, times in count.items():
                most, second = largest[gram]
                common[n - 1, i] += times if times < most else second
    return common, total


def _brevity(lengths: Sequence[int]) -> Values:
    """Brevity penalty of each text with respect to the other text closest in length."""
    number = Counter(lengths)
    penalties = {
        length: _penalty(length, [n for n in number if n != length or times > 1])
        for length, times in number.items()
    }
    return np.array([penalties[length] for length in lengths])


def duplicates(texts: Sequence[str]) -> float:
    """Proportion of texts, 0 to 1, that equal an earlier one up to white space."""
    return 1 - len({" ".join(text.split()) for text in texts}) / len(texts)


def _check_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references) or not predictions:
        raise UserError(
            f"expected one text for each reference; got {len(predictions)} and {len(references)}"
        )


def nearest_texts(texts: Sequence[str], training: Sequence[str]) -> tuple[NDArray[np.intp], Values]:
    """The most similar training text of each text, and their similarity.

    The similarity is the Jaccard index of the sets of words, 0 to 1: the number of common words
    divided by the number of words in either text.

    Args:
        texts: N texts.
        training: M texts, at least one.

    Returns:
        Indices of training texts (N,), the first in case of ties, and similarities (N,).

    Example:
        >>> nearest_texts(["a red dog"], ["robots paint", "a big dog"])
        (array([1]), array([0.5]))
    """
    from sklearn.feature_extraction.text import CountVectorizer  # slow import

    vectorizer = CountVectorizer(token_pattern=r"\S+", lowercase=False, binary=True)
    theirs: Any = vectorizer.fit_transform(training)
    ours: Any = vectorizer.transform(texts)  # words that the training texts have
    words, training_words = (
        np.array([len(set(text.split())) for text in side]) for side in (texts, training)
    )
    index = np.empty(len(texts), np.intp)
    alike = np.empty(len(texts))
    for start in range(0, len(texts), _BLOCK):
        rows = slice(start, start + _BLOCK)
        common = (ours[rows] @ theirs.T).toarray()  # (block, M)
        either = words[rows, None] + training_words - common
        jaccard = common / np.maximum(either, 1)
        index[rows] = jaccard.argmax(1)
        alike[rows] = jaccard.max(1)
    return index, alike
