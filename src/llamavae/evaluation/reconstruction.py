"""What is left of a sentence that goes through its point: encoded, decoded freely, and compared.

Throughout, `written` and `references` are N texts each, one pair an item.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sacrebleu import BLEU
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from llamavae.errors import UserError
from llamavae.evaluation import similarity
from llamavae.evaluation.bootstrap import bootstrap_interval
from llamavae.evaluation.evaluator import (
    Evaluation,
    EvaluationData,
    Evaluator,
    Measure,
    can_encode,
    points,
)
from llamavae.evaluation.examples import Rows
from llamavae.modeling import LlaMaVAE
from llamavae.modeling.backbones import evaluating
from llamavae.training.diagnostics import derangement

Values = NDArray[np.float64]


class Decoder(Protocol):
    """Anything that writes a text for each point, such as a `LlaMaVAE`."""

    def decode(self, z: Tensor, /) -> list[str]:
        """One text for each point (B, D)."""
        ...


def decode_by_length(
    system: Decoder,
    z: Tensor,
    texts: Sequence[str],
    batch_size: int = 64,
    progress: bool = False,
) -> list[str]:
    """The text that is written from each point, in the order of the points.

    A batch takes as long as its longest text, so points of texts of similar length are decoded
    together; the longest come first, so that a lack of memory shows at once.

    Args:
        system: Decodes points.
        z: Points (N, D).
        texts: N texts about as long as those that will be written.
        batch_size: Points that are decoded together.
        progress: Show a progress bar on stderr.
    """
    order = np.argsort([-len(text) for text in texts], kind="stable")
    written = [""] * len(z)
    with tqdm(total=len(z), desc="decoding", disable=not progress, leave=False) as bar:
        for start in range(0, len(z), batch_size):
            rows = order[start : start + batch_size]
            for row, text in zip(rows, system.decode(z[torch.from_numpy(rows)]), strict=True):
                written[row] = text
            bar.update(len(rows))
    return written


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


# ------------------------------------------------------------------------------- overlap


def bleu_counts(written: Sequence[str], references: Sequence[str]) -> NDArray[np.int64]:
    """What each item adds to corpus BLEU, shape (N, 10).

    Its length and its reference's, then its n-grams that the reference has and all its n-grams,
    n from 1 to 4, as sacrebleu counts them (13a tokenisation, cased).
    """
    metric = BLEU(effective_order=True)
    scores = [metric.sentence_score(w, [r]) for w, r in zip(written, references, strict=True)]
    return np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scores])


def bleu_of_counts(counts: NDArray[np.int64], *, effective_order: bool = False) -> float:
    """BLEU, 0 to 100, of the sum of counts (N, 10) of items.

    Args:
        counts: Rows of `bleu_counts`.
        effective_order: Count only the orders that the text is long enough for, as sacrebleu does
            for single sentences.

    Example:
        >>> counts = bleu_counts(["a kind of dog", "a cat"], ["a kind of big dog", "a cat"])
        >>> round(bleu_of_counts(counts), 2)
        55.7
    """
    length, expected, *ngrams = counts.sum(0).tolist()
    options: dict[str, Any] = {"smooth_method": "exp", "effective_order": effective_order}
    return BLEU.compute_bleu(ngrams[:4], ngrams[4:], length, expected, **options).score


def token_f1(text: str, reference: str) -> float:
    """F1 of the bags of words of two texts, 0 to 1.

    That of SQuAD (Rajpurkar et al., arXiv 1606.05250) without its normalisation: words are taken
    by white space, and case, articles and punctuation count.

    Example:
        >>> token_f1("a kind of dog", "a dog of a kind")
        0.888...
    """
    a, b = Counter(text.split()), Counter(reference.split())
    return 1.0 if a == b else _f1(_common(a, b), a, b)


def rouge(text: str, reference: str) -> tuple[float, float, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L of two texts: F1 values, 0 to 1 (Lin 2004, W04-1013).

    As the package rouge-score computes them without stemming: words are runs of the letters a to
    z and digits of the text in lower case; ROUGE-L takes the longest common subsequence of the
    whole texts. Texts in other scripts have no such words and score 0.

    Example:
        >>> rouge("the cat sat on the mat", "a cat sat, on a Mat!")
        (0.666..., 0.4, 0.666...)
    """
    ours, theirs = (re.findall("[a-z0-9]+", x.lower()) for x in (text, reference))
    one, two = (
        _f1(_common(a, b), a, b)
        for a, b in (
            (Counter(ours), Counter(theirs)),
            (Counter(pairwise(ours)), Counter(pairwise(theirs))),
        )
    )
    return one, two, _f1(_longest_common_subsequence(ours, theirs), Counter(ours), Counter(theirs))


def _common(a: Counter[Any], b: Counter[Any]) -> int:
    return (a & b).total()


def _f1(common: int, a: Counter[Any], b: Counter[Any]) -> float:
    return 2 * common / (a.total() + b.total()) if common else 0.0


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)  # lengths for the words of `a` so far and the first j of `b`
    for word in a:
        before = 0
        for j, other in enumerate(b, 1):
            above = row[j]
            row[j] = before + 1 if word == other else max(above, row[j - 1])
            before = above
    return row[-1]


# ------------------------------------------------------------------------------- BERTScore


@torch.no_grad()
def bert_score(
    written: Sequence[str],
    references: Sequence[str],
    model: similarity.Scorer,
    layer: int,
    batch_size: int = 64,
) -> Tensor:
    """BERTScore of each text, shape (N,), -1 to 1 (Zhang et al., arXiv 1904.09675).

    The F measure, from the cosines of token vectors: precision is the mean over the text's tokens
    of the best cosine with a token of the reference, recall the reverse. As in the package
    bert-score without idf weights and without rescaling: the special tokens around a text may be
    the best match but are not averaged over; an empty text scores 0.

    Args:
        written: N texts.
        references: N texts.
        model: A transformers encoder whose tokenizer puts special tokens around a text.
        layer: Number of the layer whose vectors count, from 1. The authors chose 17 for
            roberta-large, 9 for bert-base-uncased, 5 for distilbert-base-uncased.
        batch_size: Pairs that pass the encoder together.

    Raises:
        UserError: The model cannot be found, read or reached, or has no such layer.
    """
    encoder, tokenizer = similarity.load_encoder(model)
    if not 1 <= layer <= encoder.config.num_hidden_layers:
        raise UserError(
            f"this encoder of BERTScore has layers 1 to {encoder.config.num_hidden_layers}; got "
            f"layer {layer}"
        )

    def vectors(texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors (B, T, H), which are tokens, and which of these are averaged over (B, T)."""
        limit = tokenizer.model_max_length
        batch = tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=min(limit, getattr(encoder.config, "max_position_embeddings", limit)),
            return_tensors="pt",
            return_special_tokens_mask=True,
        ).to(encoder.device)
        special = batch.pop("special_tokens_mask").bool()  # of padding too
        states = encoder(**batch, output_hidden_states=True).hidden_states[layer]
        return F.normalize(states.double(), dim=-1), batch["attention_mask"].bool(), ~special

    def mean(best: Tensor, counted: Tensor) -> Tensor:
        return (best * counted).sum(1) / counted.sum(1).clamp(min=1)

    scores = []
    with evaluating(encoder):
        for start in range(0, len(written), batch_size):
            batch = slice(start, start + batch_size)
            a, a_tokens, a_counted = vectors(written[batch])
            b, b_tokens, b_counted = vectors(references[batch])
            cosine = a @ b.mT  # (B, T, S)
            precision = mean(cosine.masked_fill(~b_tokens[:, None], -1).amax(2), a_counted)
            recall = mean(cosine.masked_fill(~a_tokens[:, :, None], -1).amax(1), b_counted)
            f = (2 * precision * recall / (precision + recall)).nan_to_num(0.0)
            scores.append(torch.where(a_counted.any(1) & b_counted.any(1), f, 0.0).cpu())
    return torch.cat(scores)


# ------------------------------------------------------------------------------- the evaluator

_CONTROL = "the same when each sentence is held against the text from another's point"

_MEASURES = (
    Measure(
        "BLEU",
        "0 to 100",
        "higher",
        "sacrebleu corpus BLEU (13a tokenisation, cased) of greedy texts from posterior means",
        _CONTROL,
    ),
    Measure(
        "exact match",
        "0 to 1",
        "higher",
        "share of texts that equal their sentence, white space aside",
        _CONTROL,
    ),
    Measure(
        "token F1",
        "0 to 1",
        "higher",
        "F1 of the bags of words of text and sentence, mean over items (1606.05250, without its "
        "normalisation)",
        _CONTROL,
    ),
    *(
        Measure(
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
    Measure(
        "encoder cosine",
        "−1 to 1",
        "higher",
        "cosine of the sentence vectors of text and sentence, 0 if one is empty, mean over items; "
        "by the system's own encoder unless another is named",
        _CONTROL,
    ),
    Measure(
        "BERTScore",
        "−1 to 1",
        "higher",
        "F measure of the best cosines of contextual token vectors, no idf, not rescaled, mean "
        "over items (1904.09675); state model and layer with it",
        _CONTROL,
    ),
    Measure(
        "BLEURT",
        "about 0 to 1",
        "higher",
        "human rating of text against sentence as predicted by a trained BERT, mean over items "
        "(2004.04696); state the checkpoint with it",
        _CONTROL,
    ),
)

_BY_LENGTH = ("BLEU", "exact match", "token F1")


class Reconstruction(Evaluator):
    """How much of a sentence comes back from its point, by free-running greedy decoding.

    Greedy decoding writes one text for each point, whatever stands beside it in a batch. So the
    control needs no decoding: what would be written from the shuffled points are the same texts,
    shuffled. Sentences that occur twice never get the text of their own kind.

    Args:
        batch_size: Points that are decoded together.
        encoder: For the cosine; None takes the system's own sentence encoder, if it has one.
        bleurt: Checkpoint for BLEURT; None leaves it out.
        bertscore: Encoder for BERTScore, such as `roberta-large`; None leaves it out.
        bertscore_layer: Its layer, see `bert_score`.
        resamples: Bootstrap samples of an interval.
    """

    name = "reconstruction"
    needs = frozenset({"encode", "decode"})
    measures = _MEASURES

    def __init__(
        self,
        batch_size: int = 64,
        encoder: similarity.Encoder | None = None,
        bleurt: similarity.Scorer | None = None,
        bertscore: similarity.Scorer | None = None,
        bertscore_layer: int = 17,
        resamples: int = 1000,
    ) -> None:
        self.batch_size, self.encoder, self.bleurt = batch_size, encoder, bleurt
        self.bertscore, self.bertscore_layer = bertscore, bertscore_layer
        self.resamples = resamples

    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """All measures, the main ones also by length, and the table `reconstructions`.

        Row of the table: `text`, `reconstruction`, `bleu` (sentence BLEU, 0 to 100), the other
        measures of single items, and `shuffled`, the text it is held against as control.

        Raises:
            UserError: A model that is asked for cannot be found, read or reached.
        """
        bleurt = None if self.bleurt is None else similarity.load_bleurt(self.bleurt)
        bert = None if self.bertscore is None else similarity.load_encoder(self.bertscore)
        texts = list(data.texts)
        encoder = self.encoder or getattr(system, "encoder", None)
        vectors = points(encoder, texts) if can_encode(encoder) else None
        if isinstance(system, LlaMaVAE) and encoder is system.encoder:
            z = system.encode(cast(Tensor, vectors)).mean  # the texts are not encoded twice
        else:
            z = points(system, texts)
        written = decode_by_length(system, z, texts, self.batch_size, data.progress)
        other = derangement(len(texts), data.generator(), texts).numpy()
        exchanged = [written[i] for i in other]
        items, control = _overlap(written, texts), _overlap(exchanged, texts)
        if vectors is not None:
            ours = torch.zeros_like(vectors)  # of empty texts, which not every encoder reads
            if full := [i for i, text in enumerate(written) if text]:
                ours[full] = points(encoder, [written[i] for i in full])
            for side, each in ((items, ours), (control, ours[torch.from_numpy(other)])):
                cosine = F.cosine_similarity(each.double(), vectors.double())
                side["encoder cosine"] = cosine.numpy()
        if bert is not None:
            for side, each in ((items, written), (control, exchanged)):
                side["BERTScore"] = bert_score(each, texts, bert, self.bertscore_layer).numpy()

        rows: Rows = []
        everything = {"": np.arange(len(texts))}
        for name, values in items.items():
            groups = everything | (length_groups(texts) if name in _BY_LENGTH else {})
            summary = bleu_of_counts if name == "BLEU" else _mean
            for group, part in groups.items():
                rows.append(
                    self.measure(name).row(
                        summary(values[part]),
                        len(part),
                        control=summary(control[name][part]),
                        interval=self._interval(summary, values[part], data.seed),
                        group=group,
                    )
                )
        if bleurt is not None:
            value, low = (similarity.bleurt(side, texts, bleurt) for side in (written, exchanged))
            rows.append(self.measure("BLEURT").row(value, len(texts), control=low))

        bleu = [bleu_of_counts(row[None], effective_order=True) for row in items.pop("BLEU")]
        table = [
            {
                "text": text,
                "reconstruction": written[i],
                "bleu": round(bleu[i], 1),
                **{name: round(float(values[i]), 4) for name, values in items.items()},
                "shuffled": exchanged[i],
            }
            for i, text in enumerate(texts)
        ]
        return Evaluation(rows, {"reconstructions": table})

    def _interval(
        self, summary: Callable[[NDArray[Any]], float], values: NDArray[Any], seed: int
    ) -> tuple[float, float]:
        return bootstrap_interval(
            lambda rows: summary(values[rows]),
            len(values),
            resamples=self.resamples,
            seed=seed,
        )


def _mean(values: Values) -> float:
    return float(values.mean())


def _overlap(written: list[str], texts: list[str]) -> dict[str, NDArray[Any]]:
    pairs = list(zip(written, texts, strict=True))
    rouges = np.array([rouge(*pair) for pair in pairs])
    return {
        "BLEU": bleu_counts(written, texts),
        "exact match": np.array([a.split() == b.split() for a, b in pairs], dtype=float),
        "token F1": np.array([token_f1(*pair) for pair in pairs]),
        **{f"ROUGE-{kind}": rouges[:, i] for i, kind in enumerate("12L")},
    }
