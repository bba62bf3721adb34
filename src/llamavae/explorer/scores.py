"""Scores of texts on the page, computed where the models are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llamavae.serving.models import Models

_ORDERS = 20  # random orders of a path's inner texts, for its control


def path_smoothness(models: Models, along: Sequence[str]) -> tuple[float, float]:
    """Smoothness of a path, and its mean over random orders of the inner texts."""
    from llamavae.evaluation.paths import sentence_vectors
    from llamavae.metrics.smoothness import SentenceAngle, smoothness

    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(along) - 2) + 1 for _ in range(_ORDERS)]
    controls = [[along[0], *(along[i] for i in order), along[-1]] for order in orders]
    encode, _ = sentence_vectors(models.vae, None)
    value, *others = smoothness([list(along), *controls], SentenceAngle(encode)).tolist()
    return value, float(np.mean(others))


def text_changes(models: Models, ends: Sequence[str], text: str) -> list[float]:
    """Mean of 1 - token F1 with a text, over the two texts at the ends of each coordinate."""
    from llamavae.metrics.ngrams import token_f1

    changes = [1 - token_f1(end, text) for end in ends]
    return [(low + high) / 2 for low, high in zip(changes[::2], changes[1::2], strict=True)]
