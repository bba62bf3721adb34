"""Generated sentences of a model as tidy rows: reconstructions and interpolations.

Each function returns a list of rows, dictionaries with the same keys, for `write_csv` and the
report.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import sacrebleu

from llamavae.errors import UserError
from llamavae.files import replacing
from llamavae.metrics.metric import Rows
from llamavae.modeling import LlaMaVAE


def reconstructions(model: LlaMaVAE, texts: Sequence[str]) -> Rows:
    """Each text, its greedy reconstruction from the posterior mean, and a shuffled control.

    Row: `text`, `reconstruction`, `bleu` (sentence BLEU of the two, 0 to 100), and `shuffled`: the
    reconstruction of the next text, and of the first text for the last one.

    Args:
        model: The VAE, with its encoder.
        texts: At least two sentences.
    """
    if len(texts) < 2:
        raise UserError(f"expected at least 2 sentences to reconstruct; got {len(texts)}")
    mean = model.encode(list(texts)).mean
    right = model.decode(mean)
    return [
        {
            "text": text,
            "reconstruction": predictions,
            "bleu": round(sacrebleu.sentence_bleu(predictions, [text]).score, 1),
            "shuffled": other,
        }
        for text, predictions, other in zip(texts, right, right[1:] + right[:1], strict=True)
    ]


def interpolations(model: LlaMaVAE, pairs: Sequence[tuple[str, str]], steps: int = 9) -> Rows:
    """Sentences on the straight lines between the posterior means of pairs of sentences.

    Row: `pair` (from 1), `position` on the line (0 to 1), `text`.
    """
    return [
        {"pair": number, "position": round(step / (steps - 1), 3), "text": text}
        for number, (a, b) in enumerate(pairs, 1)
        for step, text in enumerate(model.interpolate(a, b, steps))
    ]


def write_csv(rows: Rows, path: Path) -> Path:
    """Save rows as a CSV file with a header line; missing values are empty."""
    if not rows:
        raise UserError(f"there are no rows to write to {path}")
    with replacing(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path
