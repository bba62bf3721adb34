"""Sentences and labels of public datasets, prepared as files that the experiments read.

    LLAMAVAE_EVIDENCE=FOLDER python -m results.data

The folder contains the datasets as their publishers distribute them:

    wikisplit/sentences.txt                    a sentence per line (CC BY-SA 4.0)
    dailydialog/{valid,test}.{utts,act}.txt    a dialogue per line
    rocstories/roc_valid.json                  a list with one story per line
    yelp-sentiment/{dev,test}.{0,1}            a sentence per line; 0 is negative, 1 is positive
    yelp-sentiment/reference.{0,1}             sentences of a style transfer test, not to be used
    stsb-dev/stsb-en-dev.csv                   pairs of sentences with scores (CC BY-SA 4.0)
    reverse-dictionary/*.csv                   words with descriptions

The prepared files are written to `runs/results/data`; none of them is part of the repository.
White space is normalised, sentences of more than 40 words are excluded, and of sentences that
differ only in case the first is kept. Larger datasets are sampled with a seed. Files that exist are
not written again.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from llamavae.errors import UserError
from llamavae.files import write_text

DATA = Path("runs/results/data")
FOLDER = "LLAMAVAE_EVIDENCE"
LONGEST = 40
"""Maximum number of words of a sentence."""
LINES, LABELLED = 20_000, 4_000
"""Maximum number of sentences of a text file, and of a file with labels."""
SENTIMENTS = {"0": "negative", "1": "positive"}
ACTS = {"1": "inform", "2": "question", "3": "directive", "4": "commissive"}
"""Dialogue acts by their numbers in DailyDialog (Li et al., 2017, arXiv 1710.03957)."""

Labelled = Iterable[tuple[str, str]]
"""Sentences with their labels."""


def wikipedia(folder: Path) -> Iterator[str]:
    """Sentences of Wikipedia."""
    yield from _lines(folder / "wikisplit/sentences.txt")


def rocstories(folder: Path) -> Iterator[str]:
    """Sentences of five-sentence stories, split after a full stop, question or exclamation mark."""
    path = folder / "rocstories/roc_valid.json"
    for number, line in enumerate(_lines(path), 1):
        try:
            (story,) = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: expected a list with one story") from error
        yield from re.split(r"(?<=[.!?])\s+", story)


def dialogue_acts(folder: Path) -> Iterator[tuple[str, str]]:
    """Utterances of DailyDialog with their dialogue acts."""
    for part in ("valid", "test"):
        texts, acts = (folder / f"dailydialog/{part}.{kind}.txt" for kind in ("utts", "act"))
        for number, (dialogue, numbers) in enumerate(_together(texts, acts), 1):
            utterances = [text for text in dialogue.split("__eou__") if text.strip()]
            labels = numbers.split()
            if len(utterances) != len(labels) or not set(labels) <= ACTS.keys():
                raise UserError(
                    f"{acts}:{number}: expected a number from 1 to 4 for each of the "
                    f"{len(utterances)} utterances; got {numbers.strip()!r:.60}"
                )
            yield from ((text, ACTS[label]) for text, label in zip(utterances, labels, strict=True))


def sentiments(folder: Path) -> Iterator[tuple[str, str]]:
    """Sentences of Yelp with their sentiment, without those of the style transfer test."""
    place = folder / "yelp-sentiment"
    held_out = {
        _key(line.split("\t")[0])
        for label in SENTIMENTS
        for line in _lines(place / f"reference.{label}")
    }
    for part in ("dev", "test"):
        for label, name in SENTIMENTS.items():
            for line in _lines(place / f"{part}.{label}"):
                if _key(line) not in held_out:
                    yield line, name


def sentences(texts: Iterable[str], seed: int = 0) -> str:
    """A text file: a seeded sample of the distinct sentences, in their order."""
    chosen = _sample(((text, "") for text in texts), LINES, seed)
    return "".join(f"{text}\n" for text, _ in chosen)


def labelled(rows: Labelled, seed: int = 0) -> str:
    """A CSV file with the columns `text` and `label`: a seeded sample of the distinct sentences."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([("text", "label"), *_sample(rows, LABELLED, seed)])
    return file.getvalue()


FILES: Mapping[str, Callable[[Path], str]] = {
    "wikipedia.txt": lambda folder: sentences(wikipedia(folder)),
    "dailydialog.txt": lambda folder: sentences(text for text, _ in dialogue_acts(folder)),
    "rocstories.txt": lambda folder: sentences(rocstories(folder)),
    "yelp.txt": lambda folder: sentences(text for text, _ in sentiments(folder)),
    "yelp.csv": lambda folder: labelled(sentiments(folder)),
    "dailydialog-acts.csv": lambda folder: labelled(dialogue_acts(folder)),
    "stsb-dev.csv": lambda folder: _read(folder / "stsb-dev/stsb-en-dev.csv"),
    "multird.csv": lambda folder: _read(folder / "reverse-dictionary/MultiRD_test.csv"),
    "hei.csv": lambda folder: _read(folder / "reverse-dictionary/Hei++.csv"),
}
"""Maps the prepared files to functions that return their contents."""


def prepare(folder: Path, output: Path = DATA) -> dict[str, int]:
    """Write the files that do not exist; returns the number of lines of each.

    Args:
        folder: Folder of the datasets.
        output: Folder of the prepared files, created if it does not exist.

    Raises:
        UserError: A file of a dataset is missing or malformed; the files before it are written.
    """
    output.mkdir(parents=True, exist_ok=True)
    counts = {}
    for name, contents in FILES.items():
        path = output / name
        if not path.is_file():
            write_text(path, contents(folder))
        counts[name] = path.read_bytes().count(b"\n")
    return counts


def _sample(rows: Labelled, limit: int, seed: int) -> list[tuple[str, str]]:
    """At most `limit` distinct sentences of 1 to `LONGEST` words, in their order."""
    found: dict[str, tuple[str, str]] = {}
    for text, label in rows:
        words = text.split()
        if 0 < len(words) <= LONGEST:
            found.setdefault(_key(text), (" ".join(words), label))
    known = list(found.values())
    chosen = range(len(known))
    if len(known) > limit:
        chosen = sorted(random.Random(seed).sample(chosen, limit))
    return [known[i] for i in chosen]


def _key(text: str) -> str:
    return " ".join(text.split()).casefold()


def _read(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"no such file: {path}. Set {FOLDER} to the folder of the datasets")
    return path.read_text(encoding="utf-8")


def _lines(path: Path) -> list[str]:
    return _read(path).rstrip("\n").split("\n")


def _together(first: Path, second: Path) -> Iterable[tuple[str, str]]:
    """The lines of two files, which have the same number of lines."""
    a, b = _lines(first), _lines(second)
    if len(a) != len(b):
        raise UserError(f"{second}: expected {len(a)} lines as in {first.name}; got {len(b)}")
    return zip(a, b, strict=True)


def main() -> None:
    """Prepare the files and print their numbers of lines."""
    if FOLDER not in os.environ:
        raise UserError(
            f"set {FOLDER} to the folder of the datasets, see python -m pydoc results.data"
        )
    for name, lines in prepare(Path(os.environ[FOLDER])).items():
        print(f"{DATA / name}: {lines:,} lines")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
