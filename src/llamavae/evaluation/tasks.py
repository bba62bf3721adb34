"""Benchmarks of several tasks, of which some may not be at hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from llamavae.errors import MissingData, unknown

logger = logging.getLogger(__name__)

T = TypeVar("T")

Groups = Mapping[str, Sequence[str]]
"""Name of a group -> its tasks."""


def check_tasks(
    kind: str, names: Sequence[str], tasks: Iterable[str], groups: Groups, hint: str = ""
) -> None:
    """Refuse names that are neither a task's nor a group's."""
    known = [*tasks, *groups]
    for name in names:
        if name not in known:
            raise unknown(kind, name, known, hint)


def task_names(names: Sequence[str], groups: Groups) -> list[str]:
    """Names of tasks and of groups as those of tasks alone, each once.

    Example:
        >>> task_names(["b", "all"], {"all": ["a", "b", "c"]})
        ['b', 'a', 'c']
    """
    return list(dict.fromkeys(task for name in names for task in groups.get(name, [name])))


def load_tasks(
    names: Sequence[str], groups: Groups, load: Callable[[str], T], *, required: bool = True
) -> tuple[dict[str, T], dict[str, str]]:
    """The data of tasks; of a group, those that are found.

    Args:
        names: Of tasks, which have to be there, and of groups.
        groups: The groups.
        load: Reads a task's data.
        required: Whether one task at least has to be found, since nothing else is measured.

    Returns:
        Task -> its data, and task -> why it was not found; each of these is warned of too.

    Raises:
        MissingData: A task that is named is not there, or none is where one is required.
    """
    loaded: dict[str, T] = {}
    lost: dict[str, MissingData] = {}
    for task in task_names(names, groups):
        try:
            loaded[task] = load(task)
        except MissingData as error:
            if task in names:
                raise
            lost[task] = error
    if required and lost and not loaded:
        raise next(iter(lost.values()))
    not_found = {task: str(error) for task, error in lost.items()}
    for tasks, reason in by_reason(not_found).items():
        logger.warning("not measured: %s: %s", tasks, reason)
    return loaded, not_found


def by_reason(not_found: Mapping[str, str]) -> dict[str, str]:
    """What has the same reason, together: names -> the reason.

    Example:
        >>> by_reason({"a": "no file", "b": "no network", "c": "no file"})
        {'a; c': 'no file', 'b': 'no network'}
    """
    reasons: dict[str, list[str]] = {}
    for name, reason in not_found.items():
        reasons.setdefault(reason, []).append(name)
    return {"; ".join(names): reason for reason, names in reasons.items()}
