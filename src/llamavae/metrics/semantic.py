"""Similarity of texts by pretrained models: embedding cosine, MoverScore, BLEURT, BERTScore, MAUVE.

Throughout, `predictions` and `references` are N texts each, one pair per item.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import ot
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llamavae.errors import UserError
from llamavae.metrics.correlation import row_cosines
from llamavae.modes import evaluating
from llamavae.pretrained import resolve
from llamavae.pretrained.loading import hub_errors, load_tokenizer, load_whole, model_folder

MOVER_MODEL = "distilbert-base-multilingual-cased"
"""The encoder that CODWOE's scorer names for MoverScore."""

BLEURT_MODEL = "Elron/bleurt-base-512"
"""A BLEURT checkpoint of its authors, converted for transformers."""

Loaded: TypeAlias = tuple[PreTrainedModel, PreTrainedTokenizerBase]
"""A transformers model with its tokenizer."""

Scorer: TypeAlias = str | Path | Loaded
"""A model that scores texts: a hub id, a folder, or a loaded model."""


@runtime_checkable
class Encoder(Protocol):
    """Any object that encodes texts as vectors, such as `llamavae.modeling.SentenceEncoder`."""

    def encode(self, texts: list[str], /) -> Tensor:
        """One vector for each text, shape (N, H)."""
        ...


def encoder_cosines(
    predictions: Sequence[str], references: Sequence[str], encoder: Encoder
) -> Tensor:
    """Cosine of the sentence embeddings of each text and its reference, -1 to 1, shape (N,)."""
    _check(predictions, references)
    ours, theirs = encoder.encode(list(predictions)), encoder.encode(list(references))
    return row_cosines(ours, theirs)


@torch.no_grad()
def mover_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    model: Scorer = MOVER_MODEL,
    batch_size: int = 64,
) -> Tensor:
    """1 - earth mover's distance between the token vectors of each text and its reference, (N,).

    MoverScore (Zhao et al., arXiv 1909.02622) as in CODWOE's scorer: moverscore_v2 1.0.3 with
    unigrams of equal weight, the vectors of the last layer normalised to length 1, and Euclidean
    distances. Tokens that continue a word ("##") and single punctuation marks are excluded
    (independently of `remove_subwords` there); the special tokens around a text are included.

    CODWOE's scorer names `distilbert-base-multilingual-cased`, but moverscore 1.0.3, to which it
    is pinned, ignores that name and loads `distilbert-base-uncased`. Later versions of moverscore
    return 1 / (1 + distance), which is a different scale.

    Args:
        predictions: N texts.
        references: N definitions.
        model: A transformers encoder whose tokenizer adds special tokens around a text.
        batch_size: Number of pairs per forward pass of the encoder.

    Raises:
        UserError: The model cannot be found, read or reached.
    """
    _check(predictions, references)
    encoder, tokenizer = load_encoder(model)
    scores: list[float] = []
    with evaluating(encoder):
        for start in range(0, len(predictions), batch_size):
            batch = slice(start, start + batch_size)
            ours = _token_vectors(predictions[batch], encoder, tokenizer)
            theirs = _token_vectors(references[batch], encoder, tokenizer)
            scores += [1 - _distance(a, b) for a, b in zip(ours, theirs, strict=True)]
    return torch.tensor(scores, dtype=torch.float64)


def _token_vectors(
    texts: Sequence[str], encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[Tensor]:
    """Unit vectors (T, H) of the included tokens of each text, in float64."""
    inputs = _inputs(encoder, tokenizer, texts)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    states = F.normalize(states.double(), dim=-1).cpu()
    words = [[_counts(t) for t in tokenizer.convert_ids_to_tokens(row)] for row in ids.tolist()]
    kept = torch.tensor(words) & mask.bool().cpu()
    return [vectors[rows] for vectors, rows in zip(states, kept, strict=True)]


def _counts(token: str) -> bool:
    return "##" not in token and token not in set(string.punctuation)


def _distance(a: Tensor, b: Tensor) -> float:
    """Earth mover's distance between vectors (T, H) and (S, H) with uniform weights."""
    return float(ot.emd2([], [], torch.cdist(a, b).numpy()))  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def bert_score(
    predictions: Sequence[str],
    references: Sequence[str],
    model: Scorer,
    layer: int,
    batch_size: int = 64,
) -> Tensor:
    """BERTScore of each text, shape (N,), -1 to 1 (Zhang et al., arXiv 1904.09675).

    The F measure from the cosines of token vectors. Precision is the mean over the tokens of the
    text of the highest cosine with a token of the reference; recall is the reverse. Computed as in
    the package bert-score without idf weights and without rescaling: the special tokens around a
    text may be the best match but are excluded from the mean; an empty text scores 0.

    Args:
        predictions: N texts.
        references: N texts.
        model: A transformers encoder whose tokenizer adds special tokens around a text.
        layer: Layer whose hidden states are used, from 1. The authors chose 17 for roberta-large,
            9 for bert-base-uncased, 5 for distilbert-base-uncased.
        batch_size: Number of pairs per forward pass of the encoder.

    Raises:
        UserError: The model cannot be found, read or reached, or has no such layer.
    """
    encoder, tokenizer = load_encoder(model, "BERTScore")
    if not 1 <= layer <= encoder.config.num_hidden_layers:
        raise UserError(
            f"expected a layer of the BERTScore encoder from 1 to "
            f"{encoder.config.num_hidden_layers}; got layer {layer}"
        )

    def vectors(texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors (B, T, H), the attention mask, and the mask of averaged tokens (B, T)."""
        batch = _inputs(encoder, tokenizer, texts, return_special_tokens_mask=True)
        special = batch.pop("special_tokens_mask").bool()  # of padding too
        states = encoder(**batch, output_hidden_states=True).hidden_states[layer]
        return F.normalize(states.double(), dim=-1), batch["attention_mask"].bool(), ~special

    def mean(best: Tensor, counted: Tensor) -> Tensor:
        return (best * counted).sum(1) / counted.sum(1).clamp(min=1)

    scores = []
    with evaluating(encoder):
        for start in range(0, len(predictions), batch_size):
            batch = slice(start, start + batch_size)
            a, a_tokens, a_counted = vectors(predictions[batch])
            b, b_tokens, b_counted = vectors(references[batch])
            cosine = a @ b.mT  # (B, T, S)
            precision = mean(cosine.masked_fill(~b_tokens[:, None], -1).amax(2), a_counted)
            recall = mean(cosine.masked_fill(~a_tokens[:, :, None], -1).amax(1), b_counted)
            f = (2 * precision * recall / (precision + recall)).nan_to_num(0.0)
            scores.append(torch.where(a_counted.any(1) & b_counted.any(1), f, 0.0).cpu())
    return torch.cat(scores)


@torch.no_grad()
def bleurt_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    model: Scorer = BLEURT_MODEL,
    batch_size: int = 64,
) -> Tensor:
    """BLEURT of each text, about 0 to 1, shape (N,) (Sellam et al., arXiv 2004.04696).

    A BERT regression model, fine-tuned on human ratings, reads the reference as the first segment
    and the text as the second.

    Args:
        predictions: N texts.
        references: N definitions.
        model: A BLEURT checkpoint for transformers' sequence classification.
        batch_size: Number of pairs per forward pass of the model.

    Raises:
        UserError: The model cannot be found, read or reached, or has more than one output.
    """
    _check(predictions, references)
    scorer, tokenizer = load_bleurt(model)
    scores = []
    with evaluating(scorer):
        for start in range(0, len(predictions), batch_size):
            batch = slice(start, start + batch_size)
            inputs = _inputs(scorer, tokenizer, references[batch], predictions[batch])
            scores.append(scorer(**inputs).logits.double().flatten().cpu())
    return torch.cat(scores)


def _inputs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    second: Sequence[str] | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Texts or pairs of texts as a padded batch on the model's device, truncated to its limit."""
    limit = tokenizer.model_max_length
    batch = tokenizer(
        list(texts),
        None if second is None else list(second),
        padding=True,
        truncation=True,
        max_length=min(limit, getattr(model.config, "max_position_embeddings", limit)),
        return_tensors="pt",
        **options,
    )
    return dict(batch.to(model.device))


def mauve(vectors: NDArray[Any], references: NDArray[Any], seed: int = 0) -> float:
    """MAUVE between texts and references, 0 to 1 (Pillutla et al., arXiv 2102.01454).

    The area under the frontier of the two divergences between texts and references, which are
    represented by histograms over clusters of their embeddings. Values depend on the encoder and
    on the number of texts; compare only equal ones, with several thousand texts. The authors'
    package computes it with its own defaults.

    Args:
        vectors: Embeddings of N texts (N, H). The authors use the embedding of the last token of
            GPT-2 large.
        references: Embeddings of about as many human-written texts.
        seed: Seed of the clustering.

    Raises:
        UserError: The package is not installed.
    """
    try:
        from mauve import compute_mauve  # pyright: ignore[reportMissingImports] optional
    except ImportError as error:
        raise UserError(
            "MAUVE needs an optional package (GPL licence): pip install llamavae[mauve]"
        ) from error
    return float(compute_mauve(vectors, references, seed=seed, verbose=False).mauve)


def _check(predictions: Sequence[str], references: Sequence[str]) -> None:
    if not predictions or len(predictions) != len(references):
        raise UserError(
            "expected one text for each reference, and at least one; got "
            f"{len(predictions)} texts and {len(references)} references"
        )


def load_encoder(source: Scorer, score: str = "MoverScore") -> Loaded:
    """Load the encoder of `mover_scores` or `bert_score` once for repeated use.

    Args:
        source: The encoder.
        score: Name of the metric in error messages.

    Raises:
        UserError: The model cannot be found, read or reached.
    """
    return load_model(source, AutoModel, f"encoder of {score}")


def load_bleurt(source: Scorer) -> Loaded:
    """Load the model of `bleurt_scores` once for repeated use.

    Raises:
        UserError: The model cannot be found, read or reached, or has more than one output.
    """
    model, tokenizer = load_model(source, AutoModelForSequenceClassification, "BLEURT model")
    if model.config.num_labels != 1:
        raise UserError(
            f"expected a BLEURT model with one output; got {model.config.num_labels} outputs. Use "
            f"a checkpoint such as {BLEURT_MODEL}"
        )
    return model, tokenizer


def load_model(source: Scorer, kind: Any, name: str) -> Loaded:
    """Load a transformers model with its tokenizer; a loaded one is returned unchanged.

    Args:
        source: The model.
        kind: A class of transformers that has `from_pretrained`.
        name: What the model is, for error messages.

    Raises:
        UserError: The model cannot be found, read or reached.
    """
    if isinstance(source, tuple):
        return source
    with hub_errors(name, str(source)):
        folder = model_folder(resolve(source))
        return load_whole(kind, folder), load_tokenizer(folder)
