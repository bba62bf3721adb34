"""Reading JSON, YAML and texts: values of the expected form, or an instructive error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from llamavae.errors import UserError, check_types

COPY_AGAIN = "Copy the folder again"
"""What to do about a damaged file of a folder that was complete."""
_DEPTH = 100  # PyYAML takes seconds to find its own limit


@contextmanager
def damage_errors(path: Path, advice: str = COPY_AGAIN) -> Iterator[None]:
    """Raise errors that a damaged file leads to, such as a missing value, as a `UserError`.

    Args:
        path: The file.
        advice: What to do about it.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, KeyError):
            what = f"{error!s:.80} is missing"
        elif isinstance(error, RecursionError):
            what = "it is nested too deeply"
        else:
            what = " ".join(str(error).split())[:150]
        raise UserError(f"{path} is damaged: {what}. {advice}") from error


def read_json(
    path: Path, kinds: Mapping[str, Any] | None = None, advice: str = COPY_AGAIN
) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: The file.
        kinds: Type of each value that must be there, see `llamavae.errors.check_types`.
        advice: What to do if the file is damaged.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: The file is not a JSON object, or a value is missing or of another type.
    """
    with damage_errors(path, advice):
        values = _object(path.read_text(encoding="utf-8"))
        if missing := [repr(name) for name in kinds or () if name not in values]:
            raise ValueError(f"{', '.join(missing)} is missing")
        try:
            check_types(values, kinds or {})
        except UserError as error:
            raise TypeError(str(error)) from error
    return values


def read_json_lines(path: Path, advice: str = COPY_AGAIN) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines; blank lines are skipped.

    Args:
        path: The file.
        advice: What to do if the file is damaged.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: A line is not a JSON object.
    """
    with damage_errors(path, advice), path.open(encoding="utf-8") as file:
        return [_object(line) for line in file if line.strip()]


def _object(text: str) -> dict[str, Any]:
    values = json.loads(text)
    if not isinstance(values, dict):
        raise TypeError(f"expected a JSON object; got {values!r:.40}")
    return values


def read_yaml(text: str, where: str, *, aliases: bool = False) -> Any:
    """The value of a YAML text.

    Args:
        text: The text.
        where: Where it comes from, for the message.
        aliases: Also accept what no recipe has: aliases, and keys that are not text.

    Raises:
        UserError: It is not valid YAML, it is nested deeper than 100 levels, or it has an alias or
            a name twice.
    """
    try:
        return (_Loader if aliases else _PlainLoader)(text).get_single_data()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" in line {mark.line + 1}"
        problem = " ".join(str(getattr(error, "problem", None) or error).split())[:150]
        raise UserError(f"{where} is not valid YAML{line}: {problem}") from error


class _Loader(yaml.SafeLoader):
    """Reads YAML of a limited depth."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self._depth == _DEPTH:
            raise yaml.YAMLError("it is nested too deeply")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _PlainLoader(_Loader):
    """Reads YAML without aliases, since a few of them can stand for more values than fit in memory.

    NaN, infinity, and a name that occurs twice are errors as well.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported; repeat the value")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for name in names:
            if not isinstance(name, str):
                raise yaml.YAMLError(f"expected names of settings; got {name!r:.40}")
            if names.count(name) > 1:
                raise yaml.YAMLError(f"{name!r:.40} is set twice")
        return super().construct_mapping(node, deep)


def as_texts(texts: Any) -> list[str]:
    """A list of texts: from one text, or any iterable of texts, such as a list or a NumPy array.

    Raises:
        UserError: An item is not a text, or has a character that UTF-8 cannot encode; the message
            has the index of the item.
    """
    if isinstance(texts, str):
        texts = [texts]
    iterable = isinstance(texts, Iterable) and getattr(texts, "ndim", 1) > 0
    if not iterable or isinstance(texts, bytes | Mapping):
        raise UserError(f"expected a text or a list of texts; got {texts!r:.40} ({_type(texts)})")
    found = list(texts)
    for index, text in enumerate(found):
        if not isinstance(text, str):
            hint = ". Decode bytes first: text.decode()" if isinstance(text, bytes) else ""
            raise UserError(
                f"expected a list of texts; got {text!r:.40} ({_type(text)}) at index {index}{hint}"
            )
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UserError(
                    f"the text at index {index} has the character {text[error.start]!r} (a lone "
                    f"surrogate) at position {error.start + 1}, which is not Unicode text. Replace "
                    "it, for example with text.encode(errors='replace').decode()"
                ) from error
    return found


def as_full_texts(texts: Any) -> list[str]:
    """Like `as_texts`, without empty texts.

    Raises:
        UserError: A text is empty or consists of white space; the message has its index.
    """
    found = as_texts(texts)
    for index, text in enumerate(found):
        if not text.strip():
            raise UserError(f"the text at index {index} is empty. Remove empty texts")
    return found


def _type(value: Any) -> str:
    return type(value).__name__
