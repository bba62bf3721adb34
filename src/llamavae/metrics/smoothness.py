"""Smoothness of the texts along a latent path under a distance between texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
import ot
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llamavae.errors import UserError

Distance: TypeAlias = Callable[[Sequence[str], Sequence[str]], NDArray[np.float64]]
"""Distances (N,) of N texts and N others. The distance must satisfy the triangle inequality, as the
two in this module do; the maximum smoothness is then 1."""


def smoothness(paths: Sequence[Sequence[str]], distance: Distance) -> NDArray[np.float64]:
    """Distance between the ends over the length of the path, 0 to 1, for P paths, shape (P,).

    The interpolation smoothness of LangSpace (arXiv 2505.00004). It is 1 if the path makes no
    detour. Repeated texts add nothing to the length. A path whose ends are the same text scores 0,
    even if all its texts are equal, so a decoder that ignores z does not count as smooth.

    Args:
        paths: P paths of at least 2 texts each.
        distance: A distance between texts that satisfies the triangle inequality.

    Example:
        >>> letters = lambda a, b: np.array([abs(len(x) - len(y)) for x, y in zip(a, b)])
        >>> smoothness([["a", "aa", "aaa"], ["a", "aaa", "aa"], ["a", "aa", "a"]], letters)
        array([1.        , 0.33333333, 0.        ])
    """
    if not paths or min(map(len, paths)) < 2:
        raise UserError("expected at least one path, and at least 2 texts on each path")
    steps = np.array([len(path) - 1 for path in paths])
    left = [text for path in paths for text in path[:-1]]
    right = [text for path in paths for text in path[1:]]
    ends = distance([path[0] for path in paths], [path[-1] for path in paths])
    length = np.add.reduceat(distance(left, right), np.cumsum(steps) - steps)
    return np.where(length > 0, ends / np.where(length > 0, length, 1), 0.0)


def content_words(text: str) -> list[str]:
    """Lower-cased words of a text without stop words, split at white space.

    Example:
        >>> content_words("The owl reads a letter")
        ['owl', 'reads', 'letter']
    """
    return [word for word in text.lower().split() if word not in ENGLISH_STOP_WORDS]


class WordMover:
    """Word mover's distance of texts (Kusner et al., ICML 2015), in the unit of the vectors.

    The earth mover's distance between the token vectors of two texts, weighted by relative
    frequency, with Euclidean costs. Stop words are tokens like others, except in `of_words`. An
    empty text is treated as one token with a zero vector.

    Args:
        tokens: Splits a text into tokens.
        vectors: Returns the vectors (V, H) of V tokens.
    """

    def __init__(
        self,
        tokens: Callable[[str], Sequence[Hashable]],
        vectors: Callable[[list[Any]], Tensor],
    ) -> None:
        self.tokens, self.vectors = tokens, vectors

    @classmethod
    def of_model(cls, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> WordMover:
        """Use the input embeddings of a model, which are static like those of word2vec."""
        embedding = lm.get_input_embeddings()
        return cls(
            lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
            lambda ids: embedding.weight[torch.tensor(ids)].detach(),  # pyright: ignore
        )

    @classmethod
    def of_words(cls, vector: Callable[[str], NDArray[Any] | None]) -> WordMover:
        """Use word vectors, as in the tables of papers that name word2vec.

        As in gensim's `wmdistance`, words without a vector are ignored and vectors have length 1.
        Texts are lower-cased and split at white space, and stop words (scikit-learn's
        `ENGLISH_STOP_WORDS`) are removed, as in Kusner et al. gensim returns an infinite distance
        for a text without known words; here such a text is empty.

        Args:
            vector: The vector (C,) of a word, or None.
        """

        def unit(word: str) -> Tensor:
            return torch.nn.functional.normalize(torch.as_tensor(np.array(vector(word))), dim=0)

        return cls(
            lambda text: [word for word in content_words(text) if vector(word) is not None],
            lambda words: torch.stack([unit(word) for word in words]),
        )

    def __call__(self, texts: Sequence[str], others: Sequence[str]) -> NDArray[np.float64]:
        """Distances (N,) of N texts and N others."""
        bags = {text: Counter(self.tokens(text)) for text in dict.fromkeys([*texts, *others])}
        known = list(dict.fromkeys(token for bag in bags.values() for token in bag))
        if not known:
            return np.zeros(len(texts))
        vectors = self.vectors(known).cpu().double()
        vectors = torch.cat([vectors, torch.zeros_like(vectors[:1])])  # the last row: an empty text
        row = {token: i for i, token in enumerate(known)}
        placed = {
            text: (
                vectors[[row[token] for token in bag] or [-1]],
                np.array(list(bag.values()) or [1]) / (bag.total() or 1),
            )
            for text, bag in bags.items()
        }
        pairs = list(zip(texts, others, strict=True))
        cost = {pair: _moved(*placed[pair[0]], *placed[pair[1]]) for pair in dict.fromkeys(pairs)}
        return np.array([cost[pair] for pair in pairs])


def _moved(
    a: Tensor, share_a: NDArray[np.float64], b: Tensor, share_b: NDArray[np.float64]
) -> float:
    cost = (a[:, None] - b[None]).norm(dim=-1).numpy()  # exactly 0 between equal vectors
    return max(0.0, float(ot.emd2(share_a, share_b, cost)))  # pyright: ignore[reportArgumentType]


class SentenceAngle:
    """Angle between the sentence embeddings of texts, in radians, 0 to pi.

    The angle satisfies the triangle inequality; 1 - cosine does not. The sum of 1 - cosine over n
    small steps decreases as 1 / n, so smoothness would increase with the number of steps.

    Args:
        encode: Returns the sentence embeddings (N, H) of N texts.
    """

    def __init__(self, encode: Callable[[Sequence[str]], Tensor]) -> None:
        self.encode = encode

    def __call__(self, texts: Sequence[str], others: Sequence[str]) -> NDArray[np.float64]:
        """Distances (N,) of N texts and N others."""
        different = list(dict.fromkeys([*texts, *others]))
        unit = torch.nn.functional.normalize(self.encode(different).double(), dim=1)
        row = {text: i for i, text in enumerate(different)}
        u, v = unit[[row[t] for t in texts]], unit[[row[t] for t in others]]
        # acos(u.v) loses precision near 0; this form does not
        return (2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))).cpu().numpy()
