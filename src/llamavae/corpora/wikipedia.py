"""Sentences of Wikipedia, streamed from the hub's `wikimedia/wikipedia`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from datasets import Features, Value

from llamavae.corpora import hub
from llamavae.corpora.corpus import Corpus, Request, Sentences
from llamavae.corpora.splits import take_split

HUB_ID = "wikimedia/wikipedia"
CONFIG = "20231101.en"  # date of the dump and language

_BOUNDARY = re.compile(r"""(?<=[.!?])(["')\]]*)\s+(?=["'(\[]?[A-Z0-9])""")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|[A-Za-z]\.[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|cf|ca|c|no|No|vol|pp|Inc|Ltd"
    r"|Co|Corp|Gen|Col|Capt|Lt|Sgt|Rev|Hon|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec))\.$"
)


def sentences(article: str) -> Iterator[str]:
    r"""The sentences of an article's running text.

    Paragraphs that do not end like a sentence (headings, list items) are excluded. The splitter
    is a rule on punctuation with a list of English abbreviations, not a parser.

    Example:
        >>> list(sentences("History\nDr. Fox was born in the U.S. army camp. He died young."))
        ['Dr. Fox was born in the U.S. army camp.', 'He died young.']
    """
    for line in article.split("\n"):
        paragraph = " ".join(line.split())
        if not re.search(r"""[.!?]["')\]]*$""", paragraph):
            continue
        start = 0
        for match in _BOUNDARY.finditer(paragraph):
            if not _ABBREVIATION.search(paragraph, start, match.start()):
                yield paragraph[start : match.end(1)]
                start = match.end()
        yield paragraph[start:]


def _batch(batch: Mapping[str, list[str]]) -> dict[str, list[str]]:
    titles = zip(batch["title"], batch["text"], strict=True)
    rows = [(text, title) for title, article in titles for text in sentences(article)]
    return {"text": [text for text, _ in rows], "title": [title for _, title in rows]}


def _load(request: Request) -> Sentences:
    splits = hub.open_splits(
        HUB_ID if request.path is None else str(request.path),
        config=(request.config or CONFIG) if request.path is None else request.config,
        revision=request.revision,
        streaming=True,
    )
    articles = take_split(splits, None)
    names = articles.column_names or list(next(iter(articles)))
    features = Features({"text": Value("string"), "title": Value("string")})
    return articles.map(_batch, batched=True, remove_columns=names, features=features)


CORPORA = (
    Corpus(
        "wikipedia",
        f"sentences of Wikipedia, streamed from the hub ({CONFIG})",
        "CC BY-SA 3.0 and GFDL",
        _load,
        frozenset({"path", "config", "revision"}),
    ),
)
