"""MTEB evaluates the exported sentence encoder, here on a task of its own."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import spearmanr
from tests import tiny

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    mteb = pytest.importorskip("mteb", reason="mteb is not installed")

from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

WORDS = ("a dog", "a cat", "an owl", "two bakers", "a river", "a letter")
PAIRS = [
    (a, f"{b} in a park", float(i + j)) for i, a in enumerate(WORDS) for j, b in enumerate(WORDS)
]


class Similarity(AbsTaskSTS):
    """Pairs of texts with made-up scores."""

    max_score = 10
    metadata = TaskMetadata(
        name="Similarity",
        dataset={"path": "none", "revision": "none"},
        description="Pairs of texts with made-up scores.",
        type="STS",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="cosine_spearman",
        date=None,
        domains=None,
        license=None,
        task_subtypes=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
        reference=None,
    )

    def load_data(self, *_: Any, **__: Any) -> None:
        columns = zip(*PAIRS, strict=True)
        names = ("sentence1", "sentence2", "score")
        test = Dataset.from_dict(dict(zip(names, map(list, columns), strict=True)))
        self.dataset = {"test": test}  # pyright: ignore[reportAttributeAccessIssue]
        self.data_loaded = True


@pytest.mark.filterwarnings("ignore")  # of mteb and what it imports
def test_a_task_of_mteb():
    vae = tiny.vae().eval()
    found = mteb.evaluate(
        vae.to_sentence_transformer(),
        Similarity(),
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
    )
    first, second, scores = map(list, zip(*PAIRS, strict=True))
    cosine = torch.cosine_similarity(vae.encode(first).mean, vae.encode(second).mean)
    expected = np.asarray(spearmanr(cosine.numpy(), scores))[0]
    assert found.task_results[0].get_score() == pytest.approx(expected, abs=0.01)
