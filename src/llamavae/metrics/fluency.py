"""Perplexity of texts under a pretrained language model and under an n-gram model of other texts.

Forward perplexity is that of samples under a model of real text: it is low for fluent samples, and
for samples that are all alike. Reverse perplexity is that of real text under a model that was
fitted to the samples: it is low only if the samples are also as diverse as real text (Zhao et al.,
arXiv 1706.04223; Cífka et al., arXiv 1804.07972). Both are needed.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from llamavae.errors import UserError
from llamavae.metrics.semantic import Loaded, Scorer, load_model
from llamavae.modes import evaluating

Values = NDArray[np.float64]

_START, _END = -1, -2  # ids around the tokens of a text in an n-gram model


def load_language_model(source: Scorer) -> Loaded:
    """Load a causal language model with its tokenizer once for repeated use.

    Args:
        source: A hub id, a folder, a name of the catalogue (`llamavae models`), or a loaded model.

    Raises:
        UserError: The model cannot be found, read or reached, or its tokenizer has neither bos nor
            eos.
    """
    model, tokenizer = load_model(source, AutoModelForCausalLM, "language model")
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise UserError(
            "expected a language model whose tokenizer has a bos or eos token, to predict the "
            "first token of a text from; got one without"
        )
    return model, tokenizer


def token_ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of each text, without special tokens."""
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []


@torch.no_grad()
def text_nll(texts: Sequence[str], model: Scorer, batch_size: int = 16) -> Values:
    """−log p of each text in nats, and its number of tokens, shape (N, 2).

    The first token is predicted from bos, or eos for a tokenizer without bos. The end of a text is
    not scored, since models of running text do not expect it there. Texts are cut to the context
    of the model. An empty text has 0 nats and 0 tokens.

    Args:
        texts: N texts.
        model: A causal language model, see `load_language_model`.
        batch_size: Number of texts of similar length per forward pass.

    Raises:
        UserError: The model cannot be loaded.
    """
    lm, tokenizer = load_language_model(model)
    first: Any = tokenizer.bos_token_id
    first = tokenizer.eos_token_id if first is None else first
    longest = getattr(lm.config, "max_position_embeddings", None)
    rows = [[first, *ids][:longest] for ids in token_ids(texts, tokenizer)]
    order = np.argsort([-len(row) for row in rows], kind="stable")
    result = np.array([[0.0, len(row) - 1] for row in rows]).reshape(-1, 2)
    with evaluating(lm):
        for start in range(0, len(rows), batch_size):
            batch = order[start : start + batch_size]
            lengths = torch.tensor([len(rows[i]) for i in batch])
            ids = torch.full((len(batch), int(lengths.max())), first)
            for line, i in zip(ids, batch, strict=True):
                line[: len(rows[i])] = torch.tensor(rows[i])
            mask = torch.arange(ids.shape[1]) < lengths[:, None]
            ids, mask = ids.to(lm.device), mask.to(lm.device)
            logits = lm(input_ids=ids, attention_mask=mask.long()).logits[:, :-1].float()
            nll = torch.nn.functional.cross_entropy(logits.mT, ids[:, 1:], reduction="none")
            result[batch, 0] = (nll.double() * mask[:, 1:]).sum(1).cpu().numpy()
    return result


class KneserNey:
    """An n-gram language model with interpolated Kneser–Ney smoothing (Kneser and Ney, 1995).

    p(w|h) = max(c(hw) − d, 0) / c(h) + d · t(h) / c(h) · p(w|h'), where t(h) is the number of
    distinct tokens after h, and h' is h without its first token. Counts of the highest order are
    frequencies; those of lower orders are numbers of distinct tokens before the n-gram (Chen and
    Goodman, 1999, equation 25). The lowest order is interpolated with the uniform distribution over
    the vocabulary, so every text has a positive probability. The time is linear in the number of
    tokens.

    Args:
        rows: Token ids of the texts to fit.
        vocabulary: Number V of token ids; the end of a text is one more.
        order: Largest n of the n-grams.
        discount: The discount d, between 0 and 1.
    """

    def __init__(
        self, rows: Sequence[Sequence[int]], vocabulary: int, order: int = 3, discount: float = 0.75
    ) -> None:
        if not rows or order < 1 or not 0 < discount < 1 or vocabulary < 1:
            raise UserError(
                "expected at least 1 text, an order and a vocabulary of at least 1, and a discount "
                f"between 0 and 1; got {len(rows)}, {order}, {vocabulary} and {discount}"
            )
        self.order, self.discount, self.vocabulary = order, discount, vocabulary
        counts = Counter(gram for row in rows for gram in self._ngrams(row))
        self._counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        while True:
            for gram, times in counts.items():
                self._counts[gram[:-1]][gram[-1]] += times
            if len(next(iter(counts))) == 1:
                break
            counts = Counter(gram[1:] for gram in counts)  # each with one distinct token before
        self._totals = {context: after.total() for context, after in self._counts.items()}

    def probability(self, token: int, context: Sequence[int]) -> float:
        """p(token | context), where only the last `order` − 1 tokens of the context matter."""
        p = 1 / (self.vocabulary + 1)
        context = tuple(context)
        for n in range(min(self.order - 1, len(context)) + 1):
            history = context[len(context) - n :]
            if total := self._totals.get(history):
                after = self._counts[history]
                rest = self.discount * len(after) / total
                p = max(after[token] - self.discount, 0) / total + rest * p
        return p

    def nll(self, rows: Sequence[Sequence[int]]) -> Values:
        """−log p of each text in nats and its number of tokens, both with its end, (N, 2)."""
        return np.array(
            [
                [
                    -sum(math.log(self.probability(g[-1], g[:-1])) for g in self._ngrams(row)),
                    len(row) + 1,
                ]
                for row in rows
            ]
        )

    def _ngrams(self, row: Sequence[int]) -> list[tuple[int, ...]]:
        padded = [_START] * (self.order - 1) + [*row, _END]
        return [tuple(padded[i : i + self.order]) for i in range(len(row) + 1)]
