"""Texts along paths between latent codes, and the distances between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from llamavae.corpora.vectors import read_word_vectors
from llamavae.errors import UserError
from llamavae.evaluation.encoders import EncoderSource, sentence_encoder
from llamavae.evaluation.evaluator import latent_codes
from llamavae.latent.paths import PATHS
from llamavae.metrics.smoothness import WordMover, content_words


class Paths(NamedTuple):
    """Texts on P paths, and two controls with the same ends."""

    predictions: list[list[str]]
    mixed: list[list[str]]
    """The inner texts of each path in random order."""
    foreign: list[list[str]]
    """The inner texts of all paths, randomly reassigned."""


def decode_paths(
    system: Any, z: Tensor, pairs: int, steps: int, path: str = "linear", seed: int = 0
) -> Paths:
    """Decode paths between disjoint pairs of latent codes.

    Args:
        system: Any object with `decode`.
        z: Latent codes (N, D), at least 2.
        pairs: Maximum number of pairs; N / 2 at most.
        steps: Number of codes on a path, at least 2, including its ends.
        path: A name of `PATHS`.
        seed: Seed of the choice of pairs and of the controls.
    """
    rng = np.random.default_rng(seed)
    ends = rng.permutation(len(z))[: 2 * min(pairs, len(z) // 2)].reshape(-1, 2)
    between = PATHS[path]
    texts = system.decode(torch.cat([between(z[int(a)], z[int(b)], steps) for a, b in ends]))
    predictions = [texts[i : i + steps] for i in range(0, len(texts), steps)]
    inner = [each[1:-1] for each in predictions]
    mixed = [[each[i] for i in rng.permutation(len(each))] for each in inner]
    pool = [text for each in inner for text in each]
    shuffled = [pool[i] for i in rng.permutation(len(pool))]
    foreign = [shuffled[i * (steps - 2) : (i + 1) * (steps - 2)] for i in range(len(predictions))]
    return Paths(
        predictions,
        *(
            [[p[0], *texts, p[-1]] for p, texts in zip(predictions, control, strict=True)]
            for control in (mixed, foreign)
        ),
    )


def word_mover(
    system: Any, encode: Callable[[Sequence[str]], Tensor], encoder: str
) -> tuple[WordMover, str]:
    """Word mover's distance, and a description of its token vectors.

    Args:
        system: A `LlaMaVAE`, or any object with `decoder.lm` and `decoder.tokenizer`, whose input
            embeddings are used.
        encode: Encodes single words if there are no token vectors.
        encoder: Name of that encoder.
    """
    lm = getattr(getattr(system, "decoder", None), "lm", None)
    if lm is None:
        return WordMover(str.split, encode), f"each word by itself, encoded by {encoder}"
    name = f"input embeddings of the decoder, {lm.config.name_or_path or type(lm).__name__}"
    return WordMover.of_model(lm, system.decoder.tokenizer), name


def named_word_mover(path: str | Path, texts: Iterable[str]) -> tuple[WordMover, str]:
    """Word mover's distance with word vectors of a file, and a description of them.

    Args:
        path: A file of `read_word_vectors`; only the vectors of words of the texts are read.
        texts: All texts whose distances are computed.

    Raises:
        UserError: The file cannot be read, or has no word of the texts.
    """
    words = {word for text in texts for word in content_words(text)}
    vectors = read_word_vectors(path, words)
    known = sum(vectors.get(word) is not None for word in words)
    if not known:
        raise UserError(f"{path} has a vector for none of the {len(words)} words of the texts")
    return WordMover.of_words(vectors.get), (
        f"{Path(path).name}, {vectors.dim} dimensions, for {known} of {len(words)} words"
    )


def sentence_vectors(
    system: Any, encoder: EncoderSource | None
) -> tuple[Callable[[Sequence[str]], Tensor], str]:
    """A function that encodes texts as sentence embeddings, and its name.

    Args:
        system: Its own sentence encoder is used, or `encode` if it has none.
        encoder: Used instead, if given.
    """
    if encoder is None:
        own = getattr(system, "encoder", None)
        source = own if callable(getattr(own, "encode", None)) else system
        return partial(latent_codes, source), "the system's own encoder"
    loaded = sentence_encoder(encoder)
    name = type(encoder).__name__ if loaded is encoder else str(encoder)
    return partial(latent_codes, loaded), name
