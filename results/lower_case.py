"""Predictions with their references in lower case, for systems that write lower-case words only.

    python -m results.lower_case PREDICTIONS OUTPUT

The texts are not changed.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from llamavae.evaluation import Predictions, read_predictions, write_predictions


def lower_references(predictions: Predictions) -> Predictions:
    """The same texts with the references in lower case."""
    items = [
        replace(item, references=tuple(map(str.lower, item.references)))
        for item in predictions.items
    ]
    return replace(predictions, items=items)


def main() -> None:
    """Write the predictions with lower-cased references."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("predictions", type=Path)
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(lower_references(read_predictions(given.predictions)), given.output)


if __name__ == "__main__":
    main()
