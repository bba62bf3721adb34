"""Definitions of Wiktionary, from the JSON lines that Wiktextract makes of it (Ylonen, LREC 2022).

The English dictionary at kaikki.org is streamed by default; a downloaded copy, also compressed
with gzip, is read with path=.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from llamavae.corpora import files, hub
from llamavae.corpora.corpus import Corpus, Request, Sentences

URL = "https://kaikki.org/dictionary/English/kaikki.org-dictionary-English.jsonl"

_NO_DEFINITION = frozenset({"form-of", "alt-of", "no-gloss"})  # "plural of ..." and the like


def senses(line: str) -> Iterator[dict[str, str]]:
    """Rows (text, word, pos) of one entry.

    A sense lists its glosses from the general one to its own; the last is taken. Senses that
    only name a form of another word are left out.
    """
    entry = json.loads(line)
    for sense in entry.get("senses", ()):
        glosses = sense.get("glosses")
        if glosses and _NO_DEFINITION.isdisjoint(sense.get("tags", ())):
            text = " ".join(glosses[-1].split())
            if text:
                yield {"text": text, "word": entry.get("word", ""), "pos": entry.get("pos", "")}


def _batch(batch: Mapping[str, list[str]]) -> dict[str, list[Any]]:
    rows = [row for line in batch["text"] if line.strip() for row in senses(line)]
    return {name: [row[name] for row in rows] for name in ("text", "word", "pos")}


def _load(request: Request) -> Sentences:
    if request.path is not None:
        files.check_file(request.path)
    source = URL if request.path is None else str(request.path)
    lines = hub.open_splits("text", data_files=source, streaming=True)["train"]
    return lines.map(_batch, batched=True, remove_columns=["text"])


CORPUS = Corpus(
    "wiktionary",
    "definitions of the English Wiktionary, streamed from kaikki.org",
    "CC BY-SA 4.0 and GFDL",
    _load,
    frozenset({"path"}),
)
