"""Interpolation: how smoothly the text changes along a latent path between two sentences."""

from __future__ import annotations

from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from llamavae.errors import UserError
from llamavae.evaluation.encoders import EncoderSource
from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator, Need, latent_codes
from llamavae.evaluation.paths import (
    decode_paths,
    named_word_mover,
    sentence_vectors,
    word_mover,
)
from llamavae.latent.paths import PATHS
from llamavae.metrics.metric import Metric, Rows
from llamavae.metrics.smoothness import SentenceAngle, smoothness

BETWEEN = "inner texts of other paths"
"""Group of the smoothness of paths whose inner texts come from other paths."""


class Interpolation(Evaluator):
    """Smoothness of the texts along paths between sentences, under two distances.

    Word mover's distance uses the word vectors of `vectors`, or the input embeddings of the
    system's decoder as token vectors. For a system without them (`decoder.lm` and its tokenizer),
    each word is encoded as a separate text. The angle uses the sentence embeddings of `encoder`, or
    of the system's own sentence encoder. Two systems are comparable only if these are the same; the
    table `settings` names them.

    Intervals are bootstrap intervals over paths.

    Args:
        limit: Maximum number of sentences, chosen at random.
        pairs: Maximum number of pairs of sentences; at most half the number of sentences.
        steps: Number of codes on a path, including its ends.
        path: `linear` or `slerp`.
        encoder: Sentence encoder: a hub id, a folder or any object with `encode`. None uses the
            system's own.
        vectors: File of word vectors (word2vec, GloVe or fastText) for word mover's distance, see
            `WordMover.of_words`. Published values often use word2vec-google-news-300.
    """

    name = "interpolation"
    needs: ClassVar[frozenset[Need]] = frozenset({"encode", "decode"})
    metrics = (
        Metric(
            "interpolation smoothness",
            "0 to 1",
            "higher",
            "Word mover's distance between the two ends of a path, divided by the sum of the "
            "distances between consecutive texts, averaged over paths; 0 if both ends are the same "
            "text (LangSpace, 2025, arXiv 2505.00004).",
            "The same metric with the inner texts of each path in random order.",
            library="POT",
        ),
        Metric(
            "sentence smoothness",
            "0 to 1",
            "higher",
            "Interpolation smoothness with the angle between sentence embeddings as the distance.",
            "The same metric with the inner texts of each path in random order.",
        ),
        Metric(
            "degenerate paths",
            "0 to 1",
            "lower",
            "Proportion of paths between different sentences whose ends decode to the same text.",
        ),
        Metric(
            "repeated steps",
            "0 to 1",
            "",
            "Proportion of steps along the paths that do not change the text.",
        ),
    )

    def __init__(
        self,
        limit: int = 500,
        pairs: int = 50,
        steps: int = 9,
        path: Literal["linear", "slerp"] = "linear",
        encoder: EncoderSource | None = None,
        vectors: str | Path | None = None,
    ) -> None:
        if pairs < 1 or steps < 3 or limit < 2:
            raise UserError(
                "expected at least 2 sentences, 1 pair and 3 steps; got "
                f"{limit}, {pairs} and {steps}"
            )
        if path not in PATHS:
            raise UserError(f"unknown path {path!r}. Use 'linear' or 'slerp'")
        self.limit = limit
        self.pairs, self.steps, self.path = pairs, steps, path
        self.encoder, self.vectors = encoder, vectors

    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """The smoothness of the paths with its controls, and the decoded texts.

        Row of `interpolations`: `pair` (from 1), `position` (0 to 1), `text`. Row of `settings`:
        `setting`, `value`.

        Raises:
            UserError: The encoder or the word vectors cannot be read, or have no word of the texts.
        """
        x = latent_codes(system, data.sample(self.limit).texts)
        encode, encoder_name = sentence_vectors(system, self.encoder)
        paths = decode_paths(system, x, self.pairs, self.steps, self.path, data.seed)
        if self.vectors is None:
            mover, mover_name = word_mover(system, encode, encoder_name)
        else:
            texts = chain.from_iterable(paths.predictions)
            mover, mover_name = named_word_mover(self.vectors, texts)
        rows: Rows = []
        for metric, distance in zip(self.metrics[:2], (mover, SentenceAngle(encode)), strict=True):
            predictions, mixed, foreign = (
                smoothness(texts, distance)
                for texts in (paths.predictions, paths.mixed, paths.foreign)
            )
            rows += [
                metric.mean(predictions, data.seed, control=mixed),
                metric.mean(foreign, data.seed, group=BETWEEN),
            ]
        same = np.array([path[0] == path[-1] for path in paths.predictions], dtype=float)
        repeated = np.array([[x == y for x, y in pairwise(path)] for path in paths.predictions])
        rows += [
            self.metric("degenerate paths").mean(same, data.seed),
            self.metric("repeated steps").mean(repeated.mean(1), data.seed),
        ]
        table: Rows = [
            {"pair": pair, "position": round(step / (self.steps - 1), 3), "text": text}
            for pair, path in enumerate(paths.predictions, 1)
            for step, text in enumerate(path)
        ]
        settings: Rows = [
            {"setting": "token vectors of word mover's distance", "value": mover_name},
            {"setting": "sentence vectors", "value": encoder_name},
            {"setting": "path", "value": self.path},
        ]
        return Evaluation(rows, {"interpolations": table, "settings": settings})
