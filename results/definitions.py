"""Definitions by a bundled invertible CVAE, beside the nearest training definitions.

    python -m results.definitions --model small-definitions --output FOLDER
    python -m results.definitions --model small-definitions --context context --output FOLDER
    python -m results.definitions --model small-definitions --pos noun --output FOLDER

The output has files of `llamavae study definitions`: `study.json` with the scores of each system,
and `differences.csv` with the paired tests against the nearest neighbour. With `--context`,
`differences-alone.csv` has those against the nearest neighbour by the word alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llamavae.corpora import load_corpus
from llamavae.experiments.fitted import NEAREST_ALONE, FittedStudy, study_fitted
from llamavae.experiments.study import differences
from llamavae.files import write_csv, write_json
from llamavae.guidance import InvertibleCVAE
from llamavae.metrics.semantic import load_encoder


def write_study(study: FittedStudy, folder: Path) -> None:
    """Write the scores and the paired tests.

    Args:
        study: The study.
        folder: Folder of the files, which is created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(differences(study.rows), folder / "differences.csv")
    if NEAREST_ALONE in study.texts:
        write_csv(differences(study.rows, [NEAREST_ALONE]), folder / "differences-alone.csv")
    systems = {
        system: [
            {name: value for name, value in row.items() if name != "items"}
            for row in study.rows
            if row["system"] == system
        ]
        for system in study.texts
    }
    write_json(folder / "study.json", {"systems": systems})


def main() -> None:
    """Write the scores and their paired tests."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="small-definitions")
    parser.add_argument("--context", default=None, help="column with a sentence around the word")
    parser.add_argument("--pos", nargs="+", default=None, help="parts of speech of test words")
    parser.add_argument("--mover", default=None, help="encoder of MoverScore")
    parser.add_argument("--texts", type=int, default=500, help="maximum number of words")
    parser.add_argument("--draws", type=int, default=8, help="codes per word")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()

    names = ("train", "validation", "test")
    splits = {split: load_corpus("wordnet-pairs", split, max_words=16) for split in names}
    if given.pos is not None:
        splits["test"] = splits["test"].filter(lambda row: row["pos"] in given.pos)
    study = study_fitted(
        InvertibleCVAE.from_pretrained(given.model),
        splits,
        context=given.context,
        draws=given.draws,
        seed=given.seed,
        texts=given.texts,
        mover=None if given.mover is None else load_encoder(given.mover),
    )
    write_study(study, given.output)


if __name__ == "__main__":
    main()
