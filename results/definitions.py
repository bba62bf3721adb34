"""Definitions by a bundled invertible CVAE, beside the nearest training definition.

    python -m results.definitions --model small-definitions --output FOLDER
    python -m results.definitions --model small-definitions --context context --output FOLDER

The output has the files of `llamavae study definitions` that the tables are made from: `study.json`
with the scores of each system, and `differences.csv` with their paired tests.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llamavae.baselines import NearestNeighbour
from llamavae.corpora import load_corpus
from llamavae.experiments.study import definition_task, differences
from llamavae.files import write_csv, write_json
from llamavae.guidance import InvertibleCVAE
from llamavae.metrics.definitions import SCORES, score_definitions
from llamavae.metrics.metric import Rows
from llamavae.metrics.ngrams import distinct_n
from llamavae.metrics.semantic import load_encoder

NEAREST = "nearest neighbour"


def score_systems(
    cvae: InvertibleCVAE, context: str | None, mover: str | None, texts: int, draws: int, seed: int
) -> dict[str, Rows]:
    """Scores of the definitions of held-out words of WordNet by each system.

    Args:
        cvae: The model.
        context: Column with a sentence that contains the word, or None. With a column, words with
            such a sentence are defined in it, and others are excluded.
        mover: Encoder of MoverScore; None skips it.
        texts: Maximum number of words.
        draws: Number of codes per word from which the best definition is chosen.
        seed: Seed of the draws.
    """
    names = ("train", "validation", "test")
    splits = {split: load_corpus("wordnet-pairs", split, max_words=16) for split in names}
    task = definition_task(cvae.vae, cvae.condition, splits, context=context, texts=texts)
    scorer = None if mover is None else load_encoder(mover)
    asked = task.conditions[:texts]
    written = {
        "centre of p(z|c)": cvae.generate(asked, 1, 0.0),
        f"best of {draws} draws": cvae.generate(asked, 1, 0.5, seed, draws=draws),
        NEAREST: NearestNeighbour(cvae.condition, task.train).generate(asked),
    }
    found: dict[str, Rows] = {}
    for system, definitions in written.items():
        rows = score_definitions(
            definitions,
            task.test.texts[: len(definitions)],
            task.words[: len(definitions)],
            encoder=cvae.vae.encoder,
            mover=scorer,
            senses=task.senses,
            seed=seed,
        )
        rows.append(SCORES["distinct-2"].row(distinct_n(definitions), len(definitions)))
        found[system] = [{"system": system, "seed": seed, **row} for row in rows]
    return found


def main() -> None:
    """Write the scores and their paired tests."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="small-definitions")
    parser.add_argument("--context", default=None, help="column with a sentence around the word")
    parser.add_argument("--mover", default=None, help="encoder of MoverScore")
    parser.add_argument("--texts", type=int, default=500, help="maximum number of words")
    parser.add_argument("--draws", type=int, default=8, help="codes per word")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()

    cvae = InvertibleCVAE.from_pretrained(given.model)
    found = score_systems(cvae, given.context, given.mover, given.texts, given.draws, given.seed)
    given.output.mkdir(parents=True, exist_ok=True)
    rows = [row for system in found.values() for row in system]
    write_csv(differences(rows, NEAREST), given.output / "differences.csv")
    kept = {
        name: [{k: v for k, v in row.items() if k != "items"} for row in system]
        for name, system in found.items()
    }
    write_json(given.output / "study.json", {"systems": kept})


if __name__ == "__main__":
    main()
