"""Analogies a - b + c with known answers, made of sentences of the grammar `factors`.

b has one value of a factor, and a is the same sentence with another value; c is another sentence
with b's value. The answer is c with a's value, which is exactly one sentence:

    b  the old baker wrote a letter in the library         tense past
    a  the old baker will write a letter in the library    tense future
    c  young nurses did not eat the cake ...               tense past
    ?  young nurses will not eat the cake ...              tense future
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamavae.corpora.factors import FACTORS, Labels, parse, realise
from llamavae.errors import UserError
from llamavae.metrics.metric import Rows

FREE = tuple(name for name in FACTORS if name not in ("verb", "object", "place"))
"""Factors that can take any value in any sentence; a verb limits its objects and places."""


class Analogy(NamedTuple):
    """a is to b as the answer is to c."""

    factor: str
    value: str
    a: str
    b: str
    c: str
    answer: str


class Scores(NamedTuple):
    """How well N texts answer N analogies, each (N,).

    Attributes:
        exact: 1 where the text is the answer.
        changed: 1 where the text is a sentence of the grammar and the factor has a's value.
        kept: Proportion of the other factors that are as in c; 0 for a text outside the grammar.
    """

    exact: NDArray[np.float64]
    changed: NDArray[np.float64]
    kept: NDArray[np.float64]


def has_factors(labels: Mapping[str, Sequence[Hashable]], texts: Sequence[str]) -> bool:
    """Whether these are sentences of the grammar with all of its labels."""
    return set(FACTORS) <= set(labels) and all(
        parse(text) == {name: labels[name][i] for name in FACTORS} for i, text in enumerate(texts)
    )


def draw_analogies(
    texts: Sequence[str], factors: Sequence[str], n: int, seed: int = 0
) -> list[Analogy]:
    """`n` analogies with b and c drawn from sentences of the grammar, cycling through the factors.

    Args:
        texts: Sentences of the grammar.
        factors: Names of `FREE`.
        n: Number of analogies.
        seed: Random seed.

    Raises:
        UserError: A factor is not in `FREE`, a text is not in the grammar, or no two sentences
            share a value.
    """
    for factor in factors:
        if factor not in FREE:
            raise UserError(
                f"expected a factor that is independent of the others: {', '.join(FREE)}; got "
                f"{factor!r}"
            )
    known: list[Labels] = []
    for text in texts:
        labels = parse(text)
        if labels is None:
            raise UserError(f"expected a sentence of the grammar 'factors'; got {text!r}")
        known.append(labels)
    rng = np.random.default_rng(seed)
    return [_draw(known, factors[i % len(factors)], rng) for i in range(n)]


def _draw(known: list[Labels], factor: str, rng: np.random.Generator) -> Analogy:
    for b in rng.permutation(len(known)):
        value = known[b][factor]
        others = [i for i, labels in enumerate(known) if labels[factor] == value and i != b]
        if others:
            c = known[int(rng.choice(others))]
            new = str(rng.choice([v for v in FACTORS[factor] if v != value]))
            a, answer = ({**labels, factor: new} for labels in (known[b], c))
            return Analogy(factor, new, *map(realise, (a, known[b], c, answer)))
    raise UserError(f"expected two sentences with the same {factor}; found none among {len(known)}")


def score_analogies(analogies: Sequence[Analogy], predictions: Sequence[str]) -> Scores:
    """How well each text answers its analogy."""
    rows = []
    for analogy, text in zip(analogies, predictions, strict=True):
        found, c = parse(text) or {}, parse(analogy.c) or {}
        others = [name for name in FACTORS if name != analogy.factor]
        rows.append(
            (
                text.split() == analogy.answer.split(),
                found.get(analogy.factor) == analogy.value,
                np.mean([name in found and found[name] == c[name] for name in others]),
            )
        )
    return Scores(*np.array(rows, dtype=float).T)


def analogy_rows(analogies: Sequence[Analogy], predictions: Sequence[str], scores: Scores) -> Rows:
    """The analogies as tidy rows, each with its prediction and scores."""
    return [
        {
            **{name: part for name, part in analogy._asdict().items() if name != "value"},
            "text": text,
            "exact": bool(exact),
            "changed": bool(changed),
            "kept": round(float(kept), 3),
        }
        for analogy, text, exact, changed, kept in zip(analogies, predictions, *scores, strict=True)
    ]
