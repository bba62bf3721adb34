"""Label columns that can be used as classes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from llamavae.metrics.metric import Rows

MAX_CLASSES = 50
"""Maximum number of classes; a column with more distinct values is treated as an identifier."""


def classes(
    labels: Mapping[str, Sequence[Hashable]], maximum: int = MAX_CLASSES
) -> tuple[dict[str, Sequence[Hashable]], dict[str, str]]:
    """Label columns with 2 to `maximum` classes, and the excluded columns with the reason.

    Example:
        >>> classes({"pos": ["noun", "verb", "noun"], "source": ["wn", "wn", "wn"]})
        ({'pos': ['noun', 'verb', 'noun']}, {'source': 'one label only'})
    """
    kept, left_out = {}, {}
    for name, values in labels.items():
        n = len(set(values))
        if 2 <= n <= maximum:
            kept[name] = values
        else:
            left_out[name] = "one label only" if n < 2 else f"{n} labels, more than {maximum}"
    return kept, left_out


def listed(left_out: Mapping[str, str]) -> str:
    """The excluded labels with the reasons, as a sentence."""
    return "; ".join(f"{name}: {reason}" for name, reason in left_out.items())


def left_out_table(left_out: Mapping[str, str]) -> dict[str, Rows]:
    """The excluded labels as a table, if there are any."""
    rows = [{"label": name, "reason": reason} for name, reason in left_out.items()]
    return {"labels left out": rows} if rows else {}
