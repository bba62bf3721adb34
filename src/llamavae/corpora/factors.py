"""Labelled English sentences from a small grammar, for tutorials, tests and disentanglement.

A sentence is one choice for each of eleven factors:

    the old bakers | did not carry | boxes | at the market
    adjective old, subject baker, number plural, definiteness definite, tense past,
    negation negative, verb carry, object box, object_number plural, place market, order place_last

All factors are free except that a verb takes four plausible objects and three plausible places.
Text is lower case without a full stop, 7 to 11 words. The grammar is unambiguous: `parse` is the
inverse of `realise`, and `generate` numbers all `SIZE` sentences, so that a corpus of any size is
drawn without replacement.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from functools import lru_cache

from datasets import Dataset

from llamavae.corpora.corpus import Corpus, Request
from llamavae.errors import UserError, unknown

Labels = dict[str, str]

_ADJECTIVES = (
    *("old", "young", "tall", "tired", "happy", "angry"),
    *("clever", "quiet", "honest", "famous", "hungry", "lazy"),
)


def _table(text: str) -> dict[str, str]:
    """Entries "key value", separated by commas."""
    return dict(entry.split(maxsplit=1) for entry in text.split(","))


# singular -> plural
_SUBJECTS = _table(
    "baker bakers, teacher teachers, farmer farmers, nurse nurses, sailor sailors,"
    "painter painters, doctor doctors, student students, soldier soldiers, lawyer lawyers,"
    "singer singers, woman women, fisherman fishermen, waitress waitresses"
)
_OBJECTS = _table(
    "letter letters, poem poems, story stories, report reports, map maps, picture pictures,"
    "key keys, coin coins, watch watches, umbrella umbrellas, box boxes, basket baskets,"
    "lamp lamps, chair chairs, boat boats, horse horses, apple apples, orange oranges,"
    "cake cakes, egg eggs, knife knives"
)

# place -> preposition
_PLACES = _table(
    "kitchen in, garden in, library in, market at, beach on, station at,"
    "school at, barn in, office in, park in, harbor at, attic in"
)
_PLACES = {place: f"{preposition} the {place}" for place, preposition in _PLACES.items()}

# verb -> third person singular, past, the objects it takes, the places where it happens.
# No verb whose past equals its plain form ("read", "cut"): the tense would be ambiguous.
_VERBS: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {
    verb: (third, past, tuple(objects.split()), tuple(places.split()))
    for verb, third, past, objects, places in (
        ("write", "writes", "wrote", "letter poem story report", "library school office"),
        ("copy", "copies", "copied", "poem story map report", "library school office"),
        ("hide", "hides", "hid", "letter key coin box", "garden attic barn"),
        ("find", "finds", "found", "coin watch umbrella map", "beach park attic"),
        ("lose", "loses", "lost", "letter key watch umbrella", "station market park"),
        ("buy", "buys", "bought", "apple cake basket lamp", "market station harbor"),
        ("sell", "sells", "sold", "orange basket picture horse", "market harbor beach"),
        ("eat", "eats", "ate", "apple orange cake egg", "kitchen park garden"),
        ("wash", "washes", "washed", "apple knife basket egg", "kitchen garden barn"),
        ("draw", "draws", "drew", "map picture horse boat", "school beach park"),
        ("paint", "paints", "painted", "picture chair boat horse", "barn harbor garden"),
        ("repair", "repairs", "repaired", "lamp chair watch umbrella", "office attic barn"),
        ("carry", "carries", "carried", "basket box chair lamp", "station beach market"),
        ("drop", "drops", "dropped", "egg knife coin cake", "kitchen school library"),
    )
}
_DEFAULT_SIZE = 20_000
_OBJECTS_PER_VERB = 4
_PLACES_PER_VERB = 3

FACTORS: dict[str, tuple[str, ...]] = {
    "adjective": _ADJECTIVES,
    "subject": tuple(_SUBJECTS),
    "number": ("singular", "plural"),
    "definiteness": ("definite", "indefinite"),
    "tense": ("past", "present", "future"),
    "negation": ("affirmative", "negative"),
    "verb": tuple(_VERBS),
    "object": tuple(_OBJECTS),
    "object_number": ("singular", "plural"),
    "place": tuple(_PLACES),
    "order": ("place_last", "place_first"),
}
"""Factor name -> its values, in the order of the label columns."""

_RADIX = {
    name: {"object": _OBJECTS_PER_VERB, "place": _PLACES_PER_VERB}.get(name, len(values))
    for name, values in FACTORS.items()
}

SIZE = math.prod(_RADIX.values())
"""Number of distinct sentences."""

_AN = frozenset(word for word in (*_ADJECTIVES, *_OBJECTS) if word[0] in "aeiou") | {"honest"}


def generate(index: int) -> tuple[str, Labels]:
    """Sentence number `index` and its labels; a bijection from `range(SIZE)` to the sentences."""
    if not 0 <= index < SIZE:
        raise UserError(
            f"sentence {index} does not exist: the grammar has sentences 0 to {SIZE - 1}"
        )
    digits: dict[str, int] = {}
    for name, radix in _RADIX.items():
        index, digits[name] = divmod(index, radix)
    labels = {name: FACTORS[name][digit] for name, digit in digits.items()}
    _, _, objects, places = _VERBS[labels["verb"]]
    labels["object"] = objects[digits["object"]]
    labels["place"] = places[digits["place"]]
    return _words(labels), labels


def realise(labels: Mapping[str, str]) -> str:
    """The sentence that has these labels.

    Args:
        labels: One value for each factor of `FACTORS`; other keys are ignored, so a row of the
            corpus can be passed as it is.

    Raises:
        UserError: A factor is missing, a value is unknown, or the verb does not take this object
            or place.

    Example:
        >>> text, labels = generate(0)
        >>> text
        'the old baker wrote a letter in the library'
        >>> realise({**labels, "tense": "future", "negation": "negative"})
        'the old baker will not write a letter in the library'
    """
    for name, values in FACTORS.items():
        if name not in labels:
            raise UserError(
                f"labels lack the factor {name!r}; a sentence needs {', '.join(FACTORS)}"
            )
        if labels[name] not in values:
            raise unknown(name, str(labels[name]), values)
    _, _, objects, places = _VERBS[labels["verb"]]
    for name, allowed in (("object", objects), ("place", places)):
        if labels[name] not in allowed:
            raise UserError(
                f"the verb {labels['verb']!r} does not take the {name} {labels[name]!r}; "
                f"it takes {', '.join(allowed)}"
            )
    return _words(labels)


def parse(text: str) -> Labels | None:
    """The labels of a sentence, or None when `text` is not a sentence of the grammar.

    Case and punctuation count; only the amount of white space does not.
    """
    words = text.split()
    if not 7 <= len(words) <= 11:
        return None
    found: Labels = {}

    first = words[2] in _PLACES and " ".join(words[:3]) == _PLACES[words[2]]
    place, words = (words[:3], words[3:]) if first else (words[-3:], words[:-3])
    found["order"] = "place_first" if first else "place_last"
    found["place"] = place[2]

    found["definiteness"] = "definite" if words[0] == "the" else "indefinite"
    if words[0] in ("the", "a", "an"):
        words = words[1:]
    if len(words) < 4 or words[1] not in _SUBJECT_FORMS or words[-1] not in _OBJECT_FORMS:
        return None
    found["adjective"] = words[0]
    found["subject"], found["number"] = _SUBJECT_FORMS[words[1]]
    found["object"], found["object_number"] = _OBJECT_FORMS[words[-1]]

    verb = words[2:-1] if found["object_number"] == "plural" else words[2:-2]
    predicate = _predicates(found["number"]).get(" ".join(verb))
    if predicate is None:
        return None
    found["verb"], found["tense"], found["negation"] = predicate

    labels = {name: found[name] for name in FACTORS}
    try:
        return labels if realise(labels) == " ".join(text.split()) else None
    except UserError:
        return None


def load(size: int = _DEFAULT_SIZE, seed: int = 0) -> Dataset:
    """A corpus of `size` different sentences: column `text` and one string column per factor."""
    if not 0 < size <= SIZE:
        raise UserError(f"size must be between 1 and {SIZE} (all sentences), not {size}")
    columns: dict[str, list[str]] = {"text": [], **{name: [] for name in FACTORS}}
    for index in random.Random(seed).sample(range(SIZE), size):
        text, labels = generate(index)
        columns["text"].append(text)
        for name, value in labels.items():
            columns[name].append(value)
    return Dataset.from_dict(columns)


def _words(labels: Mapping[str, str]) -> str:
    adjective, plural = labels["adjective"], labels["number"] == "plural"
    noun = _SUBJECTS[labels["subject"]] if plural else labels["subject"]
    subject = f"{adjective} {noun}"
    if labels["definiteness"] == "definite":
        subject = f"the {subject}"
    elif not plural:
        subject = f"{_article(adjective)} {subject}"

    obj = labels["object"]
    obj = _OBJECTS[obj] if labels["object_number"] == "plural" else f"{_article(obj)} {obj}"

    verb = _conjugate(labels["verb"], labels["tense"], labels["negation"], labels["number"])
    clause = f"{subject} {verb} {obj}"
    place = _PLACES[labels["place"]]
    return f"{place} {clause}" if labels["order"] == "place_first" else f"{clause} {place}"


def _article(word: str) -> str:
    return "an" if word in _AN else "a"


def _conjugate(verb: str, tense: str, negation: str, number: str) -> str:
    third, past, _, _ = _VERBS[verb]
    singular, negative = number == "singular", negation == "negative"
    if tense == "future":
        return f"will not {verb}" if negative else f"will {verb}"
    if tense == "past":
        return f"did not {verb}" if negative else past
    if negative:
        return f"does not {verb}" if singular else f"do not {verb}"
    return third if singular else verb


@lru_cache
def _predicates(number: str) -> dict[str, tuple[str, str, str]]:
    """Verb phrase -> (verb, tense, negation), for one number of the subject."""
    return {
        _conjugate(verb, tense, negation, number): (verb, tense, negation)
        for verb in FACTORS["verb"]
        for tense in FACTORS["tense"]
        for negation in FACTORS["negation"]
    }


def _forms(nouns: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Word form -> (noun, number)."""
    singular = {noun: (noun, "singular") for noun in nouns}
    return singular | {plural: (noun, "plural") for noun, plural in nouns.items()}


_SUBJECT_FORMS = _forms(_SUBJECTS)
_OBJECT_FORMS = _forms(_OBJECTS)


def _load(request: Request) -> Dataset:
    return load(min(max(_DEFAULT_SIZE, request.rows or 0), SIZE), request.seed)


CORPORA = (
    Corpus(
        "factors",
        f"generated sentences with {len(FACTORS)} labelled factors, {_DEFAULT_SIZE} by default",
        "Apache-2.0 (made by this package)",
        _load,
    ),
)
