"""Definitions of Wiktionary, from the JSON lines that Wiktextract makes of it (Ylonen, LREC 2022).

The English dictionary at kaikki.org is streamed by default; a downloaded copy, also compressed
with gzip, is read with path=.
"""

from __future__ import annotations

import gzip
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from datasets import Features, IterableDataset, Value

from llamavae.corpora.corpus import Corpus, Request, Sentences
from llamavae.corpora.lines import check_file
from llamavae.errors import UserError

URL = "https://kaikki.org/dictionary/English/kaikki.org-dictionary-English.jsonl"

_NO_DEFINITION = frozenset({"form-of", "alt-of", "no-gloss"})  # "plural of ..." and the like


def senses(line: str | bytes) -> Iterator[dict[str, str]]:
    """Rows (text, word, pos) of one entry.

    A sense lists its glosses from the general one to its own; the last is taken. Senses that
    only name a form of another word are excluded.
    """
    entry = json.loads(line)
    for sense in entry.get("senses", ()):
        glosses = sense.get("glosses")
        if glosses and _NO_DEFINITION.isdisjoint(sense.get("tags", ())):
            text = " ".join(glosses[-1].split())
            if text:
                yield {"text": text, "word": entry.get("word", ""), "pos": entry.get("pos", "")}


def _rows(source: str) -> Iterator[dict[str, str]]:
    with _open(source) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield from senses(line)
                except (ValueError, AttributeError) as error:
                    raise UserError(
                        f"{source}:{number}: not an entry of Wiktextract ({error})"
                    ) from error


def _open(source: str) -> BinaryIO:
    if source != URL:
        return gzip.open(source) if source.endswith(".gz") else Path(source).open("rb")  # type: ignore
    try:
        return urllib.request.urlopen(URL, timeout=60)
    except OSError as error:
        raise UserError(
            f"cannot reach {URL} ({error}). Download it elsewhere and pass path= to the file"
        ) from error


def _load(request: Request) -> Sentences:
    if request.path is not None:
        check_file(request.path)
    source = URL if request.path is None else str(request.path)
    if next(_rows(source), None) is None:
        raise UserError(f"{source} has no definitions; expected the JSON lines of Wiktextract")
    features = Features({name: Value("string") for name in ("text", "word", "pos")})
    return IterableDataset.from_generator(_rows, features, gen_kwargs={"source": source})


CORPORA = (
    Corpus(
        "wiktionary",
        "definitions of the English Wiktionary, streamed from kaikki.org",
        "CC BY-SA 4.0 and GFDL",
        _load,
        frozenset({"path"}),
    ),
)
