"""Reconstruction: a sentence is encoded, decoded by free-running generation, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
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
from llamavae.evaluation.predictions import PREDICTIONS, Prediction
from llamavae.metrics import semantic
from llamavae.metrics.bootstrap import bootstrap_sums, percentile_interval
from llamavae.metrics.control import derangement
from llamavae.metrics.correlation import row_cosines
from llamavae.metrics.metric import Items, Metric, Rows
from llamavae.metrics.ngrams import (
    bleu_1,
    bleu_counts,
    bleu_of_counts,
    chrf_counts,
    chrf_of_counts,
    nltk_bleu,
    rouge,
    token_f1,
)
from llamavae.modeling import LlaMaVAE

Values = NDArray[Any]


class Decoder(Protocol):
    """Any object that decodes latent codes to texts, such as a `LlaMaVAE`."""

    def decode(self, z: Tensor, /) -> list[str]:
        """One text for each latent code (B, D)."""
        ...


def decode_by_length(
    system: Decoder,
    z: Tensor,
    lengths: Sequence[int],
    batch_size: int = 64,
    progress: bool = False,
) -> list[str]:
    """Decode latent codes in batches of similar length; texts are returned in the original order.

    The time of a batch depends on its longest text, so codes of texts of similar length are
    decoded together. The longest come first, so that an out-of-memory error occurs at once.

    Args:
        system: Decodes latent codes.
        z: Latent codes (N, D).
        lengths: Approximate length of each of the N texts, in any unit.
        batch_size: Number of codes per batch.
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
    """Indices of texts by range of length in white-space separated words; empty ranges are omitted.

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
    "The same metric when each sentence is compared with the text decoded from another sentence's "
    "code, for a random sample of at most 1,000 sentences by default."
)

_METRICS = (
    Metric(
        "BLEU",
        "0 to 100",
        "higher",
        "Corpus BLEU of the texts, computed by sacrebleu (13a tokenisation, cased; Post, 2018, "
        "W18-6319).",
        _CONTROL,
        "BLEU",
        "sacrebleu",
        "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp",
    ),
    Metric(
        "chrF",
        "0 to 100",
        "higher",
        "Corpus chrF of the texts: the F2 of character n-grams, n from 1 to 6, without white "
        "space, cased, equal to that of sacrebleu (Popović, 2015, W15-3049). It does not depend on "
        "a tokenisation: use it in place of BLEU for languages without spaces between words, such "
        "as Chinese, Japanese and Thai, and for texts of fewer than four tokens.",
        _CONTROL,
        "chrF",
        settings="nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no",
    ),
    Metric(
        "BLEU-1",
        "0 to 1",
        "higher",
        "Mean over sentences of nltk's sentence BLEU with weights 1, 0, 0, 0: unigram precision "
        "with brevity penalty, words split at white space. It is the BLEU of the reconstruction "
        "tables of Zhang et al. (2023, arXiv 2311.08579), and not comparable with corpus BLEU.",
        _CONTROL,
        settings="nrefs:1|case:mixed|tok:split|weights:1,0,0,0|smooth:none",
    ),
    Metric(
        "nltk BLEU",
        "0 to 1",
        "higher",
        "Mean over sentences of nltk's sentence BLEU with its default weights: n-grams of 1 to 4 "
        "words, split at white space, without smoothing. It is not comparable with corpus BLEU.",
        _CONTROL,
        library="nltk",
        settings="nrefs:1|case:mixed|tok:split|weights:.25,.25,.25,.25|smooth:none",
    ),
    Metric(
        "exact match",
        "0 to 1",
        "higher",
        "Proportion of texts that equal their sentence up to white space.",
        _CONTROL,
    ),
    Metric(
        "token F1",
        "0 to 1",
        "higher",
        "Mean over sentences of the F1 between the bags of words of text and sentence, without "
        "normalisation (Rajpurkar et al., 2016, arXiv 1606.05250).",
        _CONTROL,
    ),
    *(
        Metric(
            f"ROUGE-{kind}",
            "0 to 1",
            "higher",
            f"Mean over sentences of the F1 of {what} between text and sentence, lower-cased and "
            "without stemming (Lin, 2004, W04-1013).",
            _CONTROL,
        )
        for kind, what in (
            ("1", "words"),
            ("2", "bigrams of words"),
            ("L", "the longest common subsequence of words"),
        )
    ),
    Metric(
        "encoder cosine",
        "−1 to 1",
        "higher",
        "Mean over sentences, or over a random sample of them, of the cosine between the sentence "
        "embeddings of text and sentence; 0 if one is empty. The encoder is the system's own "
        "unless another is given.",
        _CONTROL,
    ),
    Metric(
        "BERTScore",
        "−1 to 1",
        "higher",
        "Mean over sentences of the BERTScore F measure, without idf weights and without rescaling "
        "(Zhang et al., 2020, arXiv 1904.09675). Model and layer must be reported with it.",
        _CONTROL,
        library="transformers",
    ),
    Metric(
        "BLEURT",
        "about 0 to 1",
        "higher",
        "Mean over sentences of the human rating that a fine-tuned BERT predicts for the text "
        "given the sentence (Sellam et al., 2020, arXiv 2004.04696). The checkpoint must be "
        "reported with it.",
        _CONTROL,
        library="transformers",
    ),
)

_ROUGE = ("ROUGE-1", "ROUGE-2", "ROUGE-L")
_BY_LENGTH = ("BLEU", "exact match", "token F1")
_OF_COUNTS = {"BLEU": bleu_of_counts, "chrF": chrf_of_counts}


class Reconstruction(Evaluator):
    """Reconstruction of sentences from their latent codes by free-running greedy decoding.

    Greedy decoding of a code does not depend on the other codes of the batch. The control
    therefore needs no further decoding: the texts of the shuffled codes are the shuffled texts.
    Sentences that occur twice never receive the text of an equal sentence.

    Args:
        batch_size: Number of codes per batch.
        encoder: For the cosine: a hub id, a folder or any object with `encode`; None uses the
            system's own sentence encoder, if it has one.
        bleurt: Checkpoint for BLEURT; None skips it.
        bertscore: Encoder for BERTScore, such as `roberta-large`; None skips it.
        bertscore_layer: Its layer, see `bert_score`.
        sample: Maximum number of sentences, chosen at random, for controls and the cosine.
        resamples: Number of bootstrap samples.
    """

    name = "reconstruction"
    needs = frozenset({"encode", "decode"})
    metrics = _METRICS

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
            raise UserError(
                f"expected a sample of at least 1 sentence for the controls; got {sample}"
            )
        self.batch_size, self.encoder, self.bleurt = batch_size, encoder, bleurt
        self.bertscore, self.bertscore_layer = bertscore, bertscore_layer
        self.sample, self.resamples = sample, resamples

    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """All metrics, the main ones also by length, and the table `predictions`.

        Row of the table: `id`, `reference` (the sentence), `prediction` and `control` (the text of
        a shuffled code), see `llamavae.evaluation.predictions`; then `bleu` and `chrF` (0 to 100)
        and the other per-sentence metrics (the cosine outside the sample is None). The row of the
        cosine has `judge`, the fingerprint of the encoder.

        Raises:
            UserError: A requested model cannot be found, read or reached.
        """
        bleurt = None if self.bleurt is None else semantic.load_bleurt(self.bleurt)
        bert = (
            None if self.bertscore is None else semantic.load_encoder(self.bertscore, "BERTScore")
        )
        encoder = getattr(system, "encoder", None)
        if self.encoder is not None:
            encoder = sentence_encoder(self.encoder)
        texts, generator = list(data.texts), data.generator()
        known: dict[str, Tensor] = {}  # cache of sentence embeddings
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

        items, control = (
            pair_items(*pair, bert=bert, bert_layer=self.bertscore_layer, bleurt=bleurt)
            for pair in ((predictions, texts), (exchanged, held))
        )
        chrf, chrf_control = chrf_counts(predictions, texts), chrf_counts(exchanged, held)
        rows: Rows = []
        for group, part in {"": np.arange(len(texts)), **length_groups(texts)}.items():
            names, inside = _BY_LENGTH if group else items, np.isin(sample, part)
            ours = {name: items[name][part] for name in names}
            theirs = {name: control[name][inside] for name in names}
            rows += self._rows(ours, theirs, data.seed, group)
            counts, others = ({"chrF": x} for x in (chrf[part], chrf_control[inside]))
            rows += self._rows(counts, others, data.seed, group)
        bleu = [bleu_of_counts(row[None], effective_order=True) for row in items.pop("BLEU")]
        columns: dict[str, list[Any]] = {
            "bleu": np.round(bleu, 1).tolist(),
            **{name: values[:, 0].round(4).tolist() for name, values in items.items()},
            "chrF": [round(chrf_of_counts(row[None]), 1) for row in chrf],
        }
        if can_encode(encoder):
            ours, theirs = (
                {"encoder cosine": cached_cosines(encoder, known, side, held)}
                for side in ([predictions[i] for i in sample], exchanged)
            )
            judge = {"judge": system_fingerprint(encoder)}
            rows += [row | judge for row in self._rows(ours, theirs, data.seed)]
            cosines = ours["encoder cosine"][:, 0].round(4).tolist()
            found = dict(zip(sample.tolist(), cosines, strict=True))
            columns["encoder cosine"] = [found.get(i) for i in range(len(texts))]
        order = [metric.name for metric in self.metrics]
        rows.sort(key=lambda row: order.index(row["metric"]))

        scores = (
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        )
        table = [
            Prediction(id, prediction, (text,), control).fields() | row
            for id, prediction, text, control, row in zip(
                data.ids, predictions, texts, shuffled, scores, strict=True
            )
        ]
        return Evaluation(rows, {PREDICTIONS: table})

    def _rows(
        self, items: dict[str, Values], control: dict[str, Values], seed: int, group: str = ""
    ) -> Rows:
        """A row for each metric of the same N items; the control may have fewer items, or none."""
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
                items=Items(*(x if name in _OF_COUNTS else x[:, 0] for x in (items[name], others))),
            )
            rows.append(row)
        return rows


def pair_items(
    predictions: Sequence[str],
    texts: Sequence[str],
    *,
    bert: semantic.Loaded | None = None,
    bert_layer: int = 17,
    bleurt: semantic.Loaded | None = None,
) -> dict[str, Values]:
    """Per-item values of the metrics of N predictions and their texts.

    Args:
        predictions: N generated texts.
        texts: N reference texts.
        bert: Encoder of BERTScore; None skips it.
        bert_layer: Its layer, see `bert_score`.
        bleurt: Model of BLEURT; None skips it.

    Returns:
        Maps names of metrics to n-gram counts (N, 10) for BLEU, or to values (N, 1).
    """
    pairs = list(zip(predictions, texts, strict=True))
    values = {
        "BLEU-1": [bleu_1(*pair) for pair in pairs],
        "nltk BLEU": [nltk_bleu(*pair) for pair in pairs],
        "exact match": [a.split() == b.split() for a, b in pairs],
        "token F1": [token_f1(*pair) for pair in pairs],
        **dict(zip(_ROUGE, zip(*(rouge(*pair) for pair in pairs), strict=True), strict=True)),
    }
    if bert is not None:
        values["BERTScore"] = semantic.bert_score(predictions, texts, bert, bert_layer).tolist()
    if bleurt is not None:
        values["BLEURT"] = semantic.bleurt_scores(predictions, texts, bleurt).tolist()
    columns = {name: np.array(each, dtype=float)[:, None] for name, each in values.items()}
    return {"BLEU": bleu_counts(predictions, texts), **columns}


def _of_sums(name: str, sums: Values, n: int) -> float:
    """A metric from the sums of the values of n items."""
    if name in _OF_COUNTS:
        return _OF_COUNTS[name](sums[None].astype(int))
    return float(sums[0]) / n


def _lengths(system: Any, texts: list[str]) -> list[int]:
    """Lengths of the texts in tokens of the decoder, if it is known, or in characters."""
    rows = system.decoder.tokenize(texts)[0] if isinstance(system, LlaMaVAE) else texts
    return [len(row) for row in rows]


def cached_cosines(
    encoder: Any, known: dict[str, Tensor], predictions: list[str], texts: list[str]
) -> Values:
    """Cosine between the embeddings of each of N texts and its sentence (N, 1); 0 if one is empty.

    New embeddings are added to `known`. Not every encoder accepts empty texts.
    """
    if new := [text for text in dict.fromkeys(predictions + texts) if text and text not in known]:
        known.update(zip(new, latent_codes(encoder, new), strict=True))
    known[""] = torch.zeros_like(next(iter(known.values())))
    a, b = (torch.stack([known[text] for text in side]) for side in (predictions, texts))
    return row_cosines(a, b)[:, None].numpy()
