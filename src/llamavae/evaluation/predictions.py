"""Files of predictions: one format for the generated texts of any system.

A file holds the texts of one system for the items of one split, one JSON object per line:

    {"id": "7", "reference": "a dog is an animal", "prediction": "a dog is a kind of animal"}

`llamavae.evaluation.scoring` computes metrics from such files alone. Submissions for CODWOE's task
of definition modelling are read and written as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamavae.corpora.codwoe import read_items, write_definitions
from llamavae.corpora.files import parse_json
from llamavae.corpora.lines import read_lines
from llamavae.errors import UserError
from llamavae.files import write_text

PREDICTIONS = "predictions"
"""Name of the table of an evaluator that has the fields of this format."""

_ABOUT = ("system", "task", "benchmark", "split")
_ALL_OR_NONE = ("control", "lemma")
_EXPECTED = 'an object such as {"id": "7", "reference": "a sentence", "prediction": "a text"}'


@dataclass(frozen=True)
class Prediction:
    """The text of a system for one item.

    Attributes:
        id: Identifies the item within its split; the same for all systems.
        prediction: The generated text; it may be empty.
        references: One or more correct texts.
        control: The text that the system generates for another item's latent code or condition
            (shuffled z); None if unknown.
        lemma: In definition modelling, the defined word, for CODWOE with its part of speech. Items
            with the same lemma are senses of one word.
        senses: Further definitions of the lemma that are not references of any item.
    """

    id: str
    prediction: str
    references: tuple[str, ...]
    control: str | None = None
    lemma: str | None = None
    senses: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        """The fields of a line, without those that are unknown."""
        one = len(self.references) == 1
        known = {
            "id": self.id,
            "reference" if one else "references": self.references[0] if one else self.references,
            "prediction": self.prediction,
            "control": self.control,
            "lemma": self.lemma,
            "senses": self.senses or None,
        }
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Predictions:
    """The texts of one system for the items of one split.

    Attributes:
        items: The texts, at least one, with different ids. All of them have a control or a lemma,
            or none has.
        system: Name of the system.
        task: What was generated, such as `reconstruction` or `definitions`.
        benchmark: Name of the data.
        split: Its split.

    Raises:
        UserError: There is no item, an id is repeated, an item has no reference or a blank one, or
            only some items have a control or a lemma.
    """

    items: Sequence[Prediction]
    system: str = ""
    task: str = ""
    benchmark: str = ""
    split: str = ""

    def __post_init__(self) -> None:
        if not self.items:
            raise UserError("expected at least one prediction; got none")
        seen: set[str] = set()
        for item in self.items:
            _check(item, self.items[0], seen, f"item {item.id!r}")

    def lines(self) -> Iterable[dict[str, Any]]:
        """The fields of each line of the file."""
        about = {name: getattr(self, name) for name in _ABOUT if getattr(self, name)}
        return ({**item.fields(), **about} for item in self.items)


def _check(item: Prediction, first: Prediction, seen: set[str], where: str) -> None:
    """Check an item and add its id to `seen`."""
    if item.id in seen:
        raise UserError(
            f"{where}: the id {item.id!r} is repeated; expected a different id for each item. "
            "Senses of one word have ids of their own and the same lemma"
        )
    seen.add(item.id)
    if not item.references or not all(text.strip() for text in item.references):
        raise UserError(f"{where}: expected at least one reference, and none of them blank")
    for name in _ALL_OR_NONE:
        if (getattr(item, name) is None) != (getattr(first, name) is None):
            has, first_has = ("no", "one") if getattr(item, name) is None else ("a", "none")
            raise UserError(
                f"{where}: this item has {has} {name}, but the first item has {first_has}; "
                "expected it for all items or for none"
            )


# ------------------------------------------------------------------------------- reading


def read_predictions(path: str | os.PathLike[str]) -> Predictions:
    """Read a file of predictions.

    Args:
        path: A file with one JSON object per line, also compressed (.gz). Required fields: `id`
            (text or an integer), `reference` (text) or `references` (a list of texts), and
            `prediction`. Optional fields: those of `Prediction`, and `system`, `task`, `benchmark`
            and `split`, each with the same value on all lines. Further fields and blank lines are
            ignored.

    Raises:
        UserError: There is no such file, it holds no prediction, or a line is not valid; the
            message names the file, the line and what was expected.
    """
    path = Path(path).expanduser()
    items: list[Prediction] = []
    seen: set[str] = set()
    about: dict[str, str] = {}
    for number, text in read_lines(path):
        if not text.strip():
            continue
        where = f"{path}:{number}"
        fields = parse_json(path, text.rstrip(), number, expected=_EXPECTED)
        if not isinstance(fields, dict):
            raise UserError(f"{where}: expected {_EXPECTED}; got {text.strip()!r:.40}")
        item = parse_prediction(fields, where)
        _check(item, items[0] if items else item, seen, where)
        items.append(item)
        found = {name: _text(fields, name, where) or "" for name in _ABOUT}
        for name, value in (about := about or found).items():
            if found[name] != value:
                raise UserError(
                    f"{where}: expected the {name} of the lines before, {value!r:.60}; got "
                    f"{found[name]!r:.60}. Write one file for each {name}"
                )
    if not items:
        raise UserError(f"{path} holds no predictions; expected {_EXPECTED} on each line")
    return Predictions(items, **about)


def parse_prediction(fields: Mapping[str, Any], where: str) -> Prediction:
    """A prediction from the fields of a line.

    Args:
        fields: The fields, see `read_predictions`.
        where: Where they are from, for messages.

    Raises:
        UserError: A field is missing or is not valid.
    """
    name = fields.get("id")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: expected an id, text or an integer; got {name!r:.40}")
    prediction = _text(fields, "prediction", where)
    if prediction is None:
        raise UserError(f"{where}: expected a prediction; the line has {', '.join(fields)}")
    if ("reference" in fields) == ("references" in fields):
        raise UserError(
            f"{where}: expected either a reference or a list of references; the line has "
            f"{', '.join(fields)}"
        )
    reference = _text(fields, "reference", where)
    return Prediction(
        name,
        prediction,
        _texts(fields, "references", where) if reference is None else (reference,),
        _text(fields, "control", where),
        _text(fields, "lemma", where),
        _texts(fields, "senses", where),
    )


def _text(fields: Mapping[str, Any], name: str, where: str) -> str | None:
    """A field that holds text; None if it is missing or null."""
    value = fields.get(name)
    return None if value is None else _checked(value, name, where)


def _texts(fields: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = fields.get(name) or []
    if not isinstance(value, list):
        raise UserError(f"{where}: expected {name} to be a list of texts; got {value!r:.40}")
    return tuple(_checked(text, name, where) for text in value)


def _checked(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: expected {name} to be text; got {value!r:.40}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: {name} has the character {value[error.start]!r}, half of a surrogate pair; "
            "replace it"
        ) from error
    return value


def write_predictions(predictions: Predictions, path: str | os.PathLike[str]) -> None:
    """Write or replace a file of predictions.

    Raises:
        DiskError: The file cannot be written; an existing file is unchanged.
    """
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in predictions.lines())
    write_text(Path(path).expanduser(), "".join(lines))


# ------------------------------------------------------------------------------- CODWOE


def read_submission(
    path: str | os.PathLike[str], references: str | os.PathLike[str]
) -> Predictions:
    """Read a submission for CODWOE's definition modelling together with the official file.

    Args:
        path: The submission, a JSON array of objects with `id` and `gloss`; its name without the
            suffix is the name of the system.
        references: The complete official file, with the `word`, `pos` and `gloss` of each item.

    Returns:
        The predictions in the order of the official file. The lemma of an item is its word and part
        of speech, and the split is the part of the ids before the number, such as `en.test`.

    Raises:
        UserError: A file is not valid, the official file lacks a word or a definition, or the two
            files do not have the same ids.
    """
    path, references = Path(path).expanduser(), Path(references).expanduser()
    official = read_items(references)
    glosses = {item.id: item.gloss for item in read_items(path)}
    for item in official:
        if item.word is None or not (item.gloss or "").strip():
            raise UserError(
                f"{references}: item {item.id!r} has no word or no gloss; expected a complete file "
                "of CODWOE, such as en.test.defmod.complete.json"
            )
        if glosses.get(item.id) is None:
            raise UserError(f"{path}: expected a gloss for the item {item.id!r} of {references}")
    if others := glosses.keys() - {item.id for item in official}:
        raise UserError(f"{path}: the item {min(others)!r} does not occur in {references}")
    items = [
        Prediction(
            item.id,
            glosses[item.id] or "",
            (item.gloss or "",),
            lemma=f"{item.word} ({item.pos})" if item.pos else item.word,
        )
        for item in official
    ]
    split = official[0].id.rpartition(".")[0]
    return Predictions(items, path.stem, "definitions", "CODWOE", split)


def write_submission(predictions: Predictions, path: str | os.PathLike[str]) -> None:
    """Write or replace a submission for CODWOE's definition modelling.

    Raises:
        DiskError: The file cannot be written; an existing file is unchanged.
    """
    items = predictions.items
    write_definitions(path, [item.id for item in items], [item.prediction for item in items])
