"""What is left of a sentence that goes through its point: encoded, decoded freely, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from llamavae.errors import UserError
from llamavae.evaluation.encoders import EncoderSource, sentence_encoder
from llamavae.evaluation.evaluator import (
    Evaluation,
    EvaluationData,
    Evaluator,
    can_encode,
    latent_codes,
    system_fingerprint,
)
from llamavae.metrics import semantic
from llamavae.metrics.bootstrap import bootstrap_sums, percentile_interval
from llamavae.metrics.control import derangement
from llamavae.metrics.metric import Items, Metric, Rows
from llamavae.metrics.ngrams import bleu_1, bleu_counts, bleu_of_counts, rouge, token_f1
from llamavae.modeling import LlaMaVAE

Values = NDArray[Any]


class Decoder(Protocol):
    """Anything that writes a text for each point, such as a `LlaMaVAE`."""

    def decode(self, z: Tensor, /) -> list[str]:
        """One text for each point (B, D)."""
        ...


def decode_by_length(
    system: Decoder,
    z: Tensor,
    lengths: Sequence[int],
    batch_size: int = 64,
    progress: bool = False,
) -> list[str]:
    """The text that is written from each point, in the order of the points.

    A batch takes as long as its longest text, so points of texts of similar length are decoded
    together; the longest come first, so that a lack of memory shows at once.

    Args:
        system: Decodes points.
        z: Points (N, D).
        lengths: About how long each of the N texts will be, in any unit.
        batch_size: Points that are decoded together.
        progress: Show a progress bar on stderr.
    """
    order = np.argsort([-length for length in lengths], kind="stable")
    predictions = [""] * len(z)
    with tqdm(total=len(z), desc="decoding", disable=not progress, leave=False) as bar:
        for start in range(0, len(z), batch_size):
            rows = order[start : start + batch_size]
            for row, text in zip(rows, system.decode(z[torch.from_numpy(rows)]), strict=True):
                predictions[row] = text
            bar.update(len(rows))
    return predictions


_EDGES = (0, 5, 10, 20, 40)


def length_groups(texts: Sequence[str]) -> dict[str, NDArray[np.intp]]:
    """Which texts have which length, in words by white space; ranges without texts are left out.

    Example:
        >>> length_groups(["robots paint", "an owl reads letters under the moon", "a dog barks"])
        {'words 1 to 5': array([0, 2]), 'words 6 to 10': array([1])}
    """
    words = np.array([len(text.split()) for text in texts])
    ranges = {f"words {a + 1} to {b}": (words > a) & (words <= b) for a, b in pairwise(_EDGES)}
    ranges[f"words over {_EDGES[-1]}"] = words > _EDGES[-1]
    return {name: np.flatnonzero(inside) for name, inside in ranges.items() if inside.any()}


# ------------------------------------------------------------------------------- the evaluator

_CONTROL = (
    "the same when each sentence is held against the text from another's point; of many sentences "
    "a random sample, at most 1,000 unless set"
)

_MEASURES = (
    Metric(
        "BLEU",
        "0 to 100",
        "higher",
        "sacrebleu corpus BLEU (13a tokenisation, cased) of greedy texts from posterior means",
        _CONTROL,
        "BLEU",
    ),
    Metric(
        "BLEU-1",
        "0 to 1",
        "higher",
        "unigram BLEU of each sentence with brevity penalty, mean over items, as the "
        "reconstruction tables of 2311.08579 have it",
        _CONTROL,
    ),
    Metric(
        "exact match",
        "0 to 1",
        "higher",
        "share of texts that equal their sentence, white space aside",
        _CONTROL,
    ),
    Metric(
        "token F1",
        "0 to 1",
        "higher",
        "F1 of the bags of words of text and sentence, mean over items (1606.05250, without its "
        "normalisation)",
        _CONTROL,
    ),
    *(
        Metric(
            f"ROUGE-{kind}",
            "0 to 1",
            "higher",
            f"F1 of {what}, letters and digits in lower case without stemming, mean over items "
            "(W04-1013)",
            _CONTROL,
        )
        for kind, what in (
            ("1", "words"),
            ("2", "pairs of words"),
            ("L", "the longest common subsequence of words"),
        )
    ),
    Metric(
        "encoder cosine",
        "−1 to 1",
        "higher",
        "cosine of the sentence vectors of text and sentence, 0 if one is empty, mean over "
        "items, of many over a random sample; by the system's own encoder unless another is named",
        _CONTROL,
    ),
    Metric(
        "BERTScore",
        "−1 to 1",
        "higher",
        "F measure of the best cosines of contextual token vectors, no idf, not rescaled, mean "
        "over items (1904.09675); state model and layer with it",
        _CONTROL,
    ),
    Metric(
        "BLEURT",
        "about 0 to 1",
        "higher",
        "human rating of text against sentence as predicted by a trained BERT, mean over items "
        "(2004.04696); state the checkpoint with it",
        _CONTROL,
    ),
)

_ROUGE = ("ROUGE-1", "ROUGE-2", "ROUGE-L")
_BY_LENGTH = ("BLEU", "exact match", "token F1")


class Reconstruction(Evaluator):
    """How much of a sentence comes back from its point, by free-running greedy decoding.

    Greedy decoding writes one text for each point, whatever stands beside it in a batch. So the
    control needs no decoding: what would be written from the shuffled points are the same texts,
    shuffled. Sentences that occur twice never get the text of their own kind.

    Args:
        batch_size: Points that are decoded together.
        encoder: For the cosine: a hub id, a folder or anything with `encode`; None takes the
            system's own sentence encoder, if it has one.
        bleurt: Checkpoint for BLEURT; None leaves it out.
        bertscore: Encoder for BERTScore, such as `roberta-large`; None leaves it out.
        bertscore_layer: Its layer, see `bert_score`.
        sample: Most sentences, drawn at random, for controls and the cosine.
        resamples: Bootstrap samples of an interval.
    """

    name = "reconstruction"
    needs = frozenset({"encode", "decode"})
    metrics = _MEASURES

    def __init__(
        self,
        batch_size: int = 64,
        encoder: EncoderSource | None = None,
        bleurt: semantic.Scorer | None = None,
        bertscore: semantic.Scorer | None = None,
        bertscore_layer: int = 17,
        sample: int = 1000,
        resamples: int = 1000,
    ) -> None:
        if sample < 1:
            raise UserError(f"controls need a sample of at least 1 sentence; got {sample}")
        self.batch_size, self.encoder, self.bleurt = batch_size, encoder, bleurt
        self.bertscore, self.bertscore_layer = bertscore, bertscore_layer
        self.sample, self.resamples = sample, resamples

    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """All measures, the main ones also by length, and the table `reconstructions`.

        Row of the table: `text`, `reconstruction`, `bleu` (sentence BLEU, 0 to 100), the other
        measures of single items (the cosine outside of the sample is None), and `shuffled`, the
        text it is held against as control. The row of the cosine has `judge`, the fingerprint of
        the encoder.

        Raises:
            UserError: A model that is asked for cannot be found, read or reached.
        """
        bleurt = None if self.bleurt is None else semantic.load_bleurt(self.bleurt)
        bert = (
            None if self.bertscore is None else semantic.load_encoder(self.bertscore, "BERTScore")
        )
        encoder = getattr(system, "encoder", None)
        if self.encoder is not None:
            encoder = sentence_encoder(self.encoder)
        texts, generator = list(data.texts), data.generator()
        known: dict[str, Tensor] = {}  # sentence vectors, so that no text is encoded twice
        if isinstance(system, LlaMaVAE) and encoder is system.encoder:
            vectors = latent_codes(encoder, texts)
            known.update(zip(texts, vectors, strict=True))
            z = system.encode(vectors).mean
        else:
            z = latent_codes(system, texts)
        lengths = _lengths(system, texts)
        predictions = decode_by_length(system, z, lengths, self.batch_size, data.progress)
        shuffled = [predictions[i] for i in derangement(len(texts), generator, texts)]
        sample = torch.randperm(len(texts), generator=generator)[: self.sample].sort().values
        held, exchanged = ([of[i] for i in sample] for of in (texts, shuffled))

        items, control = self._items(predictions, texts, bert), self._items(exchanged, held, bert)
        rows: Rows = []
        for group, part in {"": np.arange(len(texts)), **length_groups(texts)}.items():
            names, inside = _BY_LENGTH if group else items, np.isin(sample, part)
            ours = {name: items[name][part] for name in names}
            theirs = {name: control[name][inside] for name in names}
            rows += self._rows(ours, theirs, data.seed, group)
        bleu = [bleu_of_counts(row[None], effective_order=True) for row in items.pop("BLEU")]
        columns: dict[str, list[Any]] = {
            "text": texts,
            "reconstruction": predictions,
            "bleu": np.round(bleu, 1).tolist(),
            **{name: values[:, 0].round(4).tolist() for name, values in items.items()},
        }
        if can_encode(encoder):
            ours, theirs = (
                {"encoder cosine": _cosines(encoder, known, side, held)}
                for side in ([predictions[i] for i in sample], exchanged)
            )
            judge = {"judge": system_fingerprint(encoder)}
            rows += [row | judge for row in self._rows(ours, theirs, data.seed)]
            cosines = ours["encoder cosine"][:, 0].round(4).tolist()
            found = dict(zip(sample.tolist(), cosines, strict=True))
            columns["encoder cosine"] = [found.get(i) for i in range(len(texts))]
        columns["shuffled"] = shuffled
        if bleurt is not None:
            value = semantic.bleurt(predictions, texts, bleurt)
            low = semantic.bleurt(exchanged, held, bleurt)
            rows.append(self.metric("BLEURT").row(value, len(texts), control=low))
        order = [metric.name for metric in self.metrics]
        rows.sort(key=lambda row: order.index(row["metric"]))

        table = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        return Evaluation(rows, {"reconstructions": table})

    def _items(
        self, predictions: list[str], texts: list[str], bert: semantic.Loaded | None
    ) -> dict[str, Values]:
        """What each of N items adds to each measure: n-gram counts (N, 10), or a value (N, 1)."""
        pairs = list(zip(predictions, texts, strict=True))
        values = {
            "BLEU-1": [bleu_1(*pair) for pair in pairs],
            "exact match": [a.split() == b.split() for a, b in pairs],
            "token F1": [token_f1(*pair) for pair in pairs],
            **dict(zip(_ROUGE, zip(*(rouge(*pair) for pair in pairs), strict=True), strict=True)),
        }
        if bert is not None:
            scores = semantic.bert_score(predictions, texts, bert, self.bertscore_layer)
            values["BERTScore"] = scores.tolist()
        columns = {name: np.array(each, dtype=float)[:, None] for name, each in values.items()}
        return {"BLEU": bleu_counts(predictions, texts), **columns}

    def _rows(
        self, items: dict[str, Values], control: dict[str, Values], seed: int, group: str = ""
    ) -> Rows:
        """A row of each measure of the same N items; those of the control may be fewer, or none."""
        drawn = bootstrap_sums(np.hstack([*items.values()]), resamples=self.resamples, seed=seed)
        edges = np.cumsum([values.shape[1] for values in items.values()])[:-1]
        rows = []
        for name, sums in zip(items, np.split(drawn, edges, axis=1), strict=True):
            n, others = len(items[name]), control[name]
            row = self.metric(name).row(
                _of_sums(name, items[name].sum(0), n),
                n,
                control=_of_sums(name, others.sum(0), len(others)) if len(others) else None,
                interval=percentile_interval([_of_sums(name, each, n) for each in sums]),
                group=group,
                items=Items(*(x if name == "BLEU" else x[:, 0] for x in (items[name], others))),
            )
            rows.append(row)
        return rows


def _of_sums(name: str, sums: Values, n: int) -> float:
    """A measure of what n items add up to."""
    return bleu_of_counts(sums[None].astype(int)) if name == "BLEU" else float(sums[0]) / n


def _lengths(system: Any, texts: list[str]) -> list[int]:
    """How long the texts are: in tokens of the decoder, if it is known, or in letters."""
    rows = system.decoder.tokenize(texts)[0] if isinstance(system, LlaMaVAE) else texts
    return [len(row) for row in rows]


def _cosines(
    encoder: Any, known: dict[str, Tensor], predictions: list[str], texts: list[str]
) -> Values:
    """Cosine of the vectors of each of N texts and its sentence (N, 1); 0 where one is empty.

    Vectors that are not yet `known` are added there. Not every encoder reads empty texts.
    """
    if new := [text for text in dict.fromkeys(predictions + texts) if text and text not in known]:
        known.update(zip(new, latent_codes(encoder, new), strict=True))
    known[""] = torch.zeros_like(next(iter(known.values())))
    a, b = (torch.stack([known[text] for text in side]).double() for side in (predictions, texts))
    return F.cosine_similarity(a, b)[:, None].numpy()
