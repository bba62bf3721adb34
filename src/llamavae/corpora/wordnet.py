"""WordNet, read from its own `data.*` files (the format is described in wndb(5WN)).

Four views: definitions (one row per synset), examples, pairs of word and definition, words.
Nothing is downloaded: WordNet is searched in the folders of the operating system and of nltk.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from llamavae.corpora.corpus import Corpus, Request
from llamavae.corpora.text import from_rows
from llamavae.errors import UserError

Folder = Path | zipfile.Path

_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
_POS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}

# Lexicographer files by their number (lexnames(5WN)): broad classes of meaning.
_LEXNAMES = (
    *("adj.all", "adj.pert", "adv.all"),
    *("noun.Tops", "noun.act", "noun.animal", "noun.artifact", "noun.attribute", "noun.body"),
    *("noun.cognition", "noun.communication", "noun.event", "noun.feeling", "noun.food"),
    *("noun.group", "noun.location", "noun.motive", "noun.object", "noun.person"),
    *("noun.phenomenon", "noun.plant", "noun.possession", "noun.process", "noun.quantity"),
    *("noun.relation", "noun.shape", "noun.state", "noun.substance", "noun.time"),
    *("verb.body", "verb.change", "verb.cognition", "verb.communication", "verb.competition"),
    *("verb.consumption", "verb.contact", "verb.creation", "verb.emotion", "verb.motion"),
    *("verb.perception", "verb.possession", "verb.social", "verb.stative", "verb.weather"),
    "adj.ppl",
)

_INSTALL = (
    "Install it with `apt install wordnet-base` (Debian, Ubuntu) or `brew install wordnet` or "
    "`python -c \"import nltk; nltk.download('wordnet')\"`, or pass path= or set LLAMAVAE_WORDNET "
    "to a folder with data.noun, data.verb, data.adj and data.adv"
)


@dataclass(frozen=True, slots=True)
class Synset:
    """A set of synonyms with one meaning.

    Attributes:
        id: Offset in its file and part-of-speech letter; unique.
        pos: noun, verb, adjective or adverb.
        lexname: Its lexicographer file, a broad class of meaning such as noun.animal.
        lemmas: The words, with spaces for underscores.
        definition: The gloss without its examples.
        examples: Quoted sentences of the gloss.
    """

    id: str
    pos: str
    lexname: str
    lemmas: list[str]
    definition: str
    examples: list[str]


def _load(view: str, request: Request) -> Dataset:
    """One view of WordNet.

    Args:
        view: `definitions` (text, word, pos, lexname, synset, lemmas), `examples` (text, word,
            pos, lexname, synset; the word is the synset's first, not always the one in the
            sentence) or `pairs` (text, word, pos, lexname, synset, context; the text is the
            definition, the context the first example of the synset that contains this word, or
            None) or `words` (text; each word and phrase of WordNet once).
        request: Its path is a folder with the `data.*` files, or nltk's wordnet.zip; by default
            it is searched for.

    Raises:
        UserError: WordNet is not found, or a file of it is malformed.
    """
    folder = find(request.path)
    if view == "words":
        lemmas = dict.fromkeys(lemma for synset in read(folder) for lemma in synset.lemmas)
        return from_rows(({"text": lemma} for lemma in lemmas), str(folder))
    return from_rows((row for synset in read(folder) for row in _VIEWS[view](synset)), str(folder))


def find(path: Path | None = None) -> Folder:
    """The folder with WordNet's data files.

    Searches `path`; the environment variables LLAMAVAE_WORDNET, WNSEARCHDIR and WNHOME; the usual
    folders of operating systems; the folders of nltk's data.

    Raises:
        UserError: WordNet is not found.
    """
    stated = [
        ("path", str(path) if path else None),
        *((name, os.environ.get(name)) for name in ("LLAMAVAE_WORDNET", "WNSEARCHDIR", "WNHOME")),
    ]
    for name, value in stated:
        if value:
            found = _data_folder(Path(value).expanduser())
            if found is None:
                raise UserError(
                    f"no WordNet in {value} (from {name}): a file data.noun is missing. {_INSTALL}"
                )
            return found
    for place in _usual_places():
        found = _data_folder(place)
        if found is not None:
            return found
    raise UserError(f"WordNet is not installed. {_INSTALL}")


def read(folder: Folder) -> Iterator[Synset]:
    """All synsets, file by file in WordNet's order."""
    for name in _FILES:
        file = folder / name
        if not file.is_file():
            raise UserError(f"{folder} has data.noun but no {name}; WordNet is incomplete there")
        with file.open("r", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.startswith("  "):  # the licence at the head of each file
                    try:
                        yield _parse_line(line)
                    except (ValueError, IndexError, KeyError) as error:
                        raise UserError(
                            f"{folder}/{name}:{number}: not a line of WordNet's format (wndb 5WN)"
                        ) from error


def _parse_line(line: str) -> Synset:
    """One line of a `data.*` file.

    Its fields: offset, number of the lexicographer file, type, number of words in hexadecimal,
    then word and sense id for each word, then pointers and verb frames (not read), a bar, and
    the gloss.
    """
    data, gloss = line.split(" | ", 1) if " | " in line else line.split("|", 1)
    fields = data.split()
    count = int(fields[3], 16)
    words = fields[4 : 4 + 2 * count : 2]
    # without the marker of an adjective's position: "galore(ip)" is "galore"
    lemmas = [re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ") for word in words]
    if len(lemmas) != count:
        raise ValueError(f"{count} words are announced, {len(lemmas)} found")
    definition, examples = _split_gloss(gloss)
    return Synset(
        f"{fields[0]}-{fields[2]}",
        _POS[fields[2]],
        _LEXNAMES[int(fields[1])],
        lemmas,
        definition,
        examples,
    )


def _split_gloss(gloss: str) -> tuple[str, list[str]]:
    """Definition and quoted examples of a gloss.

    Examples start at the first double quote that follows a semicolon, comma or colon outside
    brackets; other quotes ('as in "..."') belong to the definition. Text around
    the quotes of the examples (authors, remarks) is excluded; a quote that is never closed
    ends with the gloss.

    Example:
        >>> _split_gloss('a loud sound; "the din of traffic"; "a din"--A. Writer')
        ('a loud sound', ['the din of traffic', 'a din'])
    """
    start = _start_of_examples(gloss)
    definition = gloss[:start].strip(" \n;,:")
    if definition.count('"') % 2:  # the opening quote was forgotten
        definition = definition.removesuffix('"')
    examples = (quoted.strip(" \n;") for quoted in re.findall(r'"([^"]*)(?:"|$)', gloss[start:]))
    return definition, [example for example in examples if example]


def _start_of_examples(gloss: str) -> int:
    for match in re.finditer(r'[;,:]\s*"', gloss):
        before = gloss[: match.start()]
        if before.count("(") <= before.count(")") and before.count('"') % 2 == 0:
            return match.start()
    return len(gloss)


def _definitions(synset: Synset) -> Iterator[dict[str, Any]]:
    if synset.definition:
        word, lemmas = synset.lemmas[0], synset.lemmas
        yield _row(synset, synset.definition, word) | {"lemmas": lemmas}


def _examples(synset: Synset) -> Iterator[dict[str, Any]]:
    for example in synset.examples:
        yield _row(synset, example, synset.lemmas[0])


def _pairs(synset: Synset) -> Iterator[dict[str, Any]]:
    if synset.definition:
        for lemma in synset.lemmas:
            yield _row(synset, synset.definition, lemma) | {"context": _context(synset, lemma)}


def _context(synset: Synset, lemma: str) -> str | None:
    """The first example with this lemma as a whole word or phrase."""
    near = [example for example in synset.examples if lemma.casefold() in example.casefold()]
    whole = rf"(?<![\w-]){re.escape(lemma)}(?![\w-])"
    return next((text for text in near if re.search(whole, text, re.IGNORECASE)), None)


def _row(synset: Synset, text: str, word: str) -> dict[str, Any]:
    return {
        "text": text,
        "word": word,
        "pos": synset.pos,
        "lexname": synset.lexname,
        "synset": synset.id,
    }


_VIEWS: dict[str, Callable[[Synset], Iterator[dict[str, Any]]]] = {
    "definitions": _definitions,
    "examples": _examples,
    "pairs": _pairs,
}


def _data_folder(place: Path) -> Folder | None:
    """`place`, its `dict` folder, or a zipped copy: the first that holds the data files."""
    if place.suffix == ".zip" and place.is_file():
        inside = zipfile.Path(place)
        candidates: list[Folder] = [inside, *(p for p in inside.iterdir() if p.is_dir())]
    else:
        candidates = [place, place / "dict"]
    return next((folder for folder in candidates if (folder / "data.noun").is_file()), None)


def _usual_places() -> Iterator[Path]:
    yield Path("/usr/share/wordnet")
    for prefix in ("/usr/local", "/opt/homebrew/opt/wordnet", "/usr/local/opt/wordnet", "/opt"):
        yield Path(prefix) / "dict"
        yield Path(prefix) / "WordNet-3.0"
    prefix = Path(sys.prefix)
    roots = [
        *(Path(p) for p in os.environ.get("NLTK_DATA", "").split(os.pathsep) if p),
        *(base / "nltk_data" for base in (Path.home(), prefix, prefix / "share", prefix / "lib")),
        *(Path(base) / "nltk_data" for base in ("/usr/share", "/usr/local/share", "/usr/lib")),
        Path("/usr/local/lib/nltk_data"),
        *(Path(p) / "nltk_data" for p in [os.environ.get("APPDATA")] if p),
    ]
    for root in roots:
        yield root / "corpora" / "wordnet"
        yield root / "corpora" / "wordnet.zip"


CORPORA = tuple(
    Corpus(
        name,
        description,
        "WordNet licence (Princeton University; free for any use, with its notice)",
        partial(_load, view),
        frozenset({"path"}),
    )
    for name, view, description in (
        ("wordnet", "definitions", "definitions of WordNet, one row per synset"),
        ("wordnet-examples", "examples", "example sentences of WordNet"),
        (
            "wordnet-pairs",
            "pairs",
            "word, definition and example, one row for each word of a synset",
        ),
        ("wordnet-words", "words", "words and phrases of WordNet, each once"),
    )
)
