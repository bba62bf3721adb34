"""Definitions by a fitted invertible CVAE, beside those of the nearest training words.

`study_definitions` fits the systems that it compares; here, nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from llamavae.baselines import NearestNeighbour
from llamavae.experiments.study import NEAREST, DefinitionTask, definition_task, text_rows
from llamavae.guidance import InvertibleCVAE, make_pairs
from llamavae.metrics.metric import Rows

NEAREST_ALONE = "nearest neighbour by the word alone"


@dataclass(frozen=True)
class FittedStudy:
    """Result of `study_fitted`.

    Attributes:
        task: The task.
        texts: Maps each system to its definitions of the first words of the task.
        rows: Scores of all systems; the columns are those of `study_definitions`.
    """

    task: DefinitionTask
    texts: dict[str, list[str]]
    rows: Rows


def study_fitted(
    cvae: InvertibleCVAE,
    splits: Mapping[str, Dataset],
    *,
    context: str | None = None,
    draws: int = 8,
    spread: float = 0.5,
    seed: int = 0,
    **options: Any,
) -> FittedStudy:
    """Score the definitions of held-out words by a fitted invertible CVAE and by nearest words.

    The systems are the centre of p(z|c), the best of several draws, and the nearest neighbour,
    which copies the definition of the training word with the nearest vector. With a context, the
    vectors are those of words in their sentences. Two further systems then ignore all sentences:
    `NEAREST_ALONE`, which compares the word alone with the training words alone, and the best of
    several draws for the word alone.

    Args:
        cvae: The model.
        splits: Rows with `text` and `word`, as for `definition_task`.
        context: Column with a sentence that contains the word, as for `definition_task`.
        draws: Number of codes per word from which the best definition is chosen.
        spread: Spread of these codes, see `InvertibleCVAE.generate`.
        seed: Seed of the codes and of the shuffled controls.
        **options: Further attributes of `DefinitionTask`, such as `texts` and `mover`.

    Raises:
        UserError: Fewer than 2 words occur only in `test`, or all draws would be equal.
    """
    options |= {"draws": draws, "spread": spread}
    task = definition_task(cvae.vae, cvae.condition, splits, context=context, **options)
    asked = task.conditions[: task.texts]
    texts = {
        "centre of p(z|c)": cvae.generate(asked, 1, 0.0),
        f"best of {draws} draws": cvae.generate(asked, 1, spread, seed, draws=draws),
        NEAREST: NearestNeighbour(task.condition, task.train).generate(asked),
    }
    if context is not None:
        alone = make_pairs(splits["train"], task.condition)
        nearest = NearestNeighbour(task.condition, alone)
        words = task.words[: task.texts]
        texts[NEAREST_ALONE] = nearest.generate(words)
        texts[f"best of {draws} draws by the word alone"] = cvae.generate(
            words, 1, spread, seed, draws=draws
        )
    rows = [
        {"system": system, "seed": seed, **row}
        for system, written in texts.items()
        for row in text_rows(task, written, seed)
    ]
    return FittedStudy(task, texts, rows)
