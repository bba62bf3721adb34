"""Metrics of files of predictions: intervals, controls, and paired tests between systems.

Nothing but the texts is needed, so any system can be scored. The functions that compute the values
are those of the evaluators and studies.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sacrebleu import BLEU, CHRF
from torch import Tensor

from llamavae.errors import UserError
from llamavae.evaluation.comparison import compare
from llamavae.evaluation.encoders import EncoderSource, sentence_encoder
from llamavae.evaluation.evaluator import Evaluation, system_fingerprint
from llamavae.evaluation.evaluators.reconstruction import (
    Reconstruction,
    cached_cosines,
    pair_items,
)
from llamavae.evaluation.evaluators.samples import Samples
from llamavae.evaluation.predictions import Prediction, Predictions
from llamavae.evaluation.results import Found, Results
from llamavae.metrics import semantic
from llamavae.metrics.control import derangement
from llamavae.metrics.definitions import SCORES, lemma_bleus
from llamavae.metrics.metric import AGGREGATES, Items, Metric, Rows
from llamavae.metrics.ngrams import chrf_counts, chrf_of_counts, distinct_n

Values = NDArray[Any]

_CONTROL = (
    "The same metric for the predictions of another item's code or condition: the field `control`, "
    "or without it the predictions, each assigned to another item."
)
_DISTINCT = {"distinct-1": 1, "distinct-2": 2}

METRICS: dict[str, Metric] = {
    **{m.name: replace(m, control=_CONTROL) for m in Reconstruction.metrics},
    **{
        name: replace(SCORES[name], control=_CONTROL)
        for name in ("sense-BLEU", "lemma-BLEU", "MoverScore")
    },
    **{
        m.name: replace(m, control="The same metric for the references.")
        for m in Samples.metrics
        if m.name in _DISTINCT
    },
}
"""Maps names to the metrics of predictions. With several references, BLEU is that of sacrebleu, and
any other metric of an item is the highest over its references."""


class Scorer:
    """Computes the metrics of predictions.

    Models are loaded once. Each is a hub id, a folder or a loaded model; None skips its metric.

    Args:
        encoder: Sentence encoder for the cosine.
        mover: Encoder for MoverScore.
        bertscore: Encoder for BERTScore, such as `roberta-large`.
        bertscore_layer: Its layer, see `llamavae.metrics.bert_score`.
        bleurt: Checkpoint for BLEURT.
        seed: Seed of the bootstrap and of the exchanged predictions.
        resamples: Number of bootstrap samples.

    Raises:
        UserError: A model cannot be found, read or reached.
    """

    def __init__(
        self,
        encoder: EncoderSource | None = None,
        mover: semantic.Scorer | None = None,
        bertscore: semantic.Scorer | None = None,
        bertscore_layer: int = 17,
        bleurt: semantic.Scorer | None = None,
        seed: int = 0,
        resamples: int = 1000,
    ) -> None:
        self.encoder = None if encoder is None else sentence_encoder(encoder)
        self.mover = None if mover is None else semantic.load_encoder(mover)
        self.bert = None if bertscore is None else semantic.load_encoder(bertscore, "BERTScore")
        self.bert_layer = bertscore_layer
        self.bleurt = None if bleurt is None else semantic.load_bleurt(bleurt)
        self.models = {
            "encoder cosine": _name(encoder),
            "MoverScore": _name(mover),
            "BERTScore": f"{_name(bertscore)}|layer:{bertscore_layer}",
            "BLEURT": _name(bleurt),
        }
        self.seed, self.resamples = seed, resamples
        self._known: dict[str, Tensor] = {}  # cache of sentence embeddings

    def score(self, predictions: Predictions) -> Evaluation:
        """All metrics over the items, with 95 % bootstrap intervals, controls and per-item values.

        sense-BLEU and lemma-BLEU are computed if the items have lemmas. distinct-1 and distinct-2
        have no interval, since a bootstrap sample repeats texts.

        Rows are those of `Metric.row`, but for distinct with a `signature`: sacrebleu's for BLEU
        and chrF, and `Metric.signature` with the model that computes the metric for the others.
        The row of the cosine has `judge`, the fingerprint of the encoder.
        """
        items = predictions.items
        texts = [item.prediction for item in items]
        control = _controls(predictions, self.seed)
        ours = self._items(texts, items)
        theirs = {} if control is None else self._items(control, items)
        rows: Rows = []
        for name in (name for name in METRICS if name in ours):
            metric, values, others = METRICS[name], ours[name], theirs.get(name)
            of = AGGREGATES[metric.aggregate]
            row = metric.bootstrap(
                lambda i, of=of, values=values: of(values[i]),
                len(items),
                self.seed,
                resamples=self.resamples,
                control=None if others is None else of(others),
                items=Items(values, others),
            )
            rows.append(row | self._about(name, items))
        references = [item.references[0] for item in items]
        for name, n in _DISTINCT.items():
            value, other = distinct_n(texts, n), distinct_n(references, n)
            rows.append(METRICS[name].row(value, len(items), control=other))
        return Evaluation(rows)

    def values(self, items: Sequence[Prediction]) -> dict[str, Values]:
        """Values of each metric by item, (N,), or counts (N, K) whose sum gives the metric.

        They depend on these items alone, and not on those of earlier calls.
        """
        self._known.clear()
        return self._items([item.prediction for item in items], items)

    def compare(self, systems: Sequence[Predictions]) -> Rows:
        """All metrics of one or more systems, with paired tests against the first system.

        Rows are those of `llamavae.evaluation.comparison.compare` without `evaluator`, and with the
        `benchmark` and `split` of the first system.

        Args:
            systems: Predictions for the same items, in any order, of systems with different names.

        Raises:
            UserError: The systems have different benchmarks, splits, items, references or lemmas,
                or two have the same name.
        """
        first, *others = systems
        if len({each.system for each in systems}) < len(systems):
            names = ", ".join(each.system for each in systems)
            raise UserError(f"expected systems with different names; got {names}")
        same = [first, *(aligned(first, other) for other in others)]
        evaluations = [self._results(each, first) for each in same]
        if others:
            rows = compare(evaluations, self.resamples)
        else:
            rows = [{"system": first.system, **row} for row in evaluations[0].rows]
        about = {"benchmark": first.benchmark, "split": first.split}
        return [
            {key: value for key, value in row.items() if key != "evaluator"} | about for row in rows
        ]

    def _results(self, predictions: Predictions, first: Predictions) -> Results:
        """The metrics of a system in the form that `compare` takes.

        Args:
            predictions: Its predictions, for the same items as those of the first system.
            first: The first system, whose names of benchmark and split are used for all.
        """
        evaluation = self.score(predictions)
        metrics = [asdict(METRICS[row["metric"]]) for row in evaluation.rows]
        items = [(item.id, item.references) for item in predictions.items]
        data = {
            "corpus": first.benchmark,
            "split": first.split,
            "hash": hashlib.blake2b(json.dumps(items).encode(), digest_size=16).hexdigest(),
            "seed": self.seed,
        }
        found = Found(evaluation, metrics, {}, 0.0, {})
        return Results(predictions.system, {}, data, {"predictions": found})

    def _about(self, name: str, items: Sequence[Prediction]) -> dict[str, str]:
        if name in _SIGNED:
            return {"signature": _signature(name, [len(item.references) for item in items])}
        settings = {"model": self.models[name]} if name in self.models else {}
        judge = {"judge": system_fingerprint(self.encoder)} if name == "encoder cosine" else {}
        return {"signature": METRICS[name].signature(settings)} | judge

    def _items(self, texts: list[str], items: Sequence[Prediction]) -> dict[str, Values]:
        """Values of each metric by item, (N,), or n-gram counts, (N, K)."""
        sizes = [len(item.references) for item in items]
        starts = [0, *accumulate(sizes)][:-1]
        references = [text for item in items for text in item.references]
        repeated = [text for text, size in zip(texts, sizes, strict=True) for _ in range(size)]
        pairs = pair_items(
            repeated, references, bert=self.bert, bert_layer=self.bert_layer, bleurt=self.bleurt
        )
        counts, chrf = pairs.pop("BLEU"), chrf_counts(repeated, references)
        values = {name: each[:, 0] for name, each in pairs.items()}
        if self.encoder is not None:
            cosines = cached_cosines(self.encoder, self._known, repeated, references)
            values["encoder cosine"] = cosines[:, 0]
        if self.mover is not None:
            movers = semantic.mover_scores(repeated, references, self.mover)
            values["MoverScore"] = movers.numpy()
        if items[0].lemma is not None:
            values["sense-BLEU"] = lemma_bleus(repeated, references, range(len(references)))
        if len(references) > len(items):
            counts, chrf = _counts(texts, items), _best_chrf(chrf, starts)
        best = {name: np.maximum.reduceat(each, starts) for name, each in values.items()}
        if items[0].lemma is not None:
            best["lemma-BLEU"] = _lemma_bleus(texts, items)
        return {"BLEU": counts, "chrF": chrf, **best}


def _name(model: EncoderSource | semantic.Scorer | None) -> str:
    """A model as it was given, or the name or type of a loaded one."""
    if isinstance(model, tuple):
        return str(model[0].config.name_or_path)
    return str(model) if isinstance(model, str | Path) else type(model).__name__


_SIGNED: Mapping[str, type[BLEU] | type[CHRF]] = {"BLEU": BLEU, "chrF": CHRF}


def _signature(name: str, sizes: Sequence[int]) -> str:
    """Settings and version of a metric of sacrebleu for items with so many references."""
    metric = _SIGNED[name]()
    metric.num_refs = sizes[0] if len(set(sizes)) == 1 else -1  # -1: their number varies
    return str(metric.get_signature())


def _counts(texts: Sequence[str], items: Sequence[Prediction]) -> Values:
    """Counts of `bleu_counts` for items with several references."""
    bleu = BLEU(effective_order=True)
    scores = (
        bleu.sentence_score(text, list(item.references))
        for text, item in zip(texts, items, strict=True)
    )
    return np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scores])


def _best_chrf(counts: Values, starts: Sequence[int]) -> Values:
    """The counts of the best reference of each item, as sacrebleu chooses it."""
    return np.stack(
        [
            max(rows, key=lambda row: chrf_of_counts(row[None]))
            for rows in np.split(counts, starts[1:])
        ]
    )


def _lemma_bleus(texts: Sequence[str], items: Sequence[Prediction]) -> Values:
    further: dict[str, list[str]] = defaultdict(list)
    lemmas = [str(item.lemma) for item in items]
    for lemma, item in zip(lemmas, items, strict=True):
        further[lemma] += [*item.references[1:], *item.senses]
    return lemma_bleus(texts, [item.references[0] for item in items], lemmas, further)


def _controls(predictions: Predictions, seed: int) -> list[str] | None:
    """The control text of each item; None if there is a single item without one."""
    items = predictions.items
    given = [item.control for item in items if item.control is not None]
    if given or len(items) < 2:
        return given or None
    labels = [[item.lemma or item.id for item in items], [item.references[0] for item in items]]
    other = derangement(len(items), torch.Generator().manual_seed(seed), *labels)
    return [items[int(i)].prediction for i in other]


def aligned(first: Predictions, other: Predictions) -> Predictions:
    """The predictions of `other` in the order of `first`.

    Raises:
        UserError: They have different benchmarks, splits, items, references, lemmas or senses.
    """
    for name in ("benchmark", "split"):
        a, b = getattr(first, name), getattr(other, name)
        if a and b and a != b:
            raise UserError(
                f"cannot compare {first.system} and {other.system}: the {name} of one is {a!r}, "
                f"that of the other {b!r}. Score them in separate commands"
            )
    ids, found = [item.id for item in first.items], {item.id: item for item in other.items}
    for lacking, lost in (
        (other, [name for name in ids if name not in found]),
        (first, sorted(found.keys() - set(ids))),
    ):
        if lost:
            raise UserError(
                f"expected predictions for the same items; {lacking.system} lacks {len(lost)} of "
                f"them, such as {lost[0]!r}"
            )
    for item in first.items:
        same = found[item.id]
        for name in ("references", "lemma", "senses"):
            a, b = getattr(item, name), getattr(same, name)
            if a != b:
                raise UserError(
                    f"expected the same {name} for the same items; item {item.id!r} has {a!r:.80} "
                    f"in {first.system} and {b!r:.80} in {other.system}"
                )
    return replace(other, items=[found[name] for name in ids])
