"""Benchmarks of several tasks, some of which may have no data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from llamavae.errors import MissingData, unknown

logger = logging.getLogger(__name__)

T = TypeVar("T")

Groups = Mapping[str, Sequence[str]]
"""Maps group names to tasks."""


def check_tasks(
    kind: str, names: Sequence[str], tasks: Iterable[str], groups: Groups, hint: str = ""
) -> None:
    """Raise an error for names that are neither tasks nor groups."""
    known = [*tasks, *groups]
    for name in names:
        if name not in known:
            raise unknown(kind, name, known, hint)


def task_names(names: Sequence[str], groups: Groups) -> list[str]:
    """Replace names of groups by their tasks, without duplicates.

    Example:
        >>> task_names(["b", "all"], {"all": ["a", "b", "c"]})
        ['b', 'a', 'c']
    """
    return list(dict.fromkeys(task for name in names for task in groups.get(name, [name])))


def load_tasks(
    names: Sequence[str], groups: Groups, load: Callable[[str], T], *, required: bool = True
) -> tuple[dict[str, T], dict[str, str]]:
    """Load the data of tasks; for a group, of those tasks that are found.

    Args:
        names: Names of tasks, whose data are required, and of groups.
        groups: The groups.
        load: Loads the data of a task.
        required: Whether at least one task must be found.

    Returns:
        A dictionary of the data by task, and one of the reasons by missing task, each of which is
        also logged as a warning.

    Raises:
        MissingData: The data of a task selected by name are missing, or of all tasks if one is
            required.
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
    """Group names by reason; maps joined names to the reason.

    Example:
        >>> by_reason({"a": "no file", "b": "no network", "c": "no file"})
        {'a; c': 'no file', 'b': 'no network'}
    """
    reasons: dict[str, list[str]] = {}
    for name, reason in not_found.items():
        reasons.setdefault(reason, []).append(name)
    return {"; ".join(names): reason for reason, names in reasons.items()}
