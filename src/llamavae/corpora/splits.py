"""Train, validation and test sets that depend only on the text.

The split of a text is a function of its hash. It is the same on each machine, in each run and in
each corpus that contains the text, so a held-out definition of one corpus is not in the training
set of another, and copies of a sentence are in the same split.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from hashlib import blake2b
from typing import Any

from datasets import Dataset, IterableDataset, concatenate_datasets

from llamavae.corpora.corpus import Sentences, Source
from llamavae.errors import UserError, counted, unknown

logger = logging.getLogger(__name__)

SHARES = {"test": 0.05, "validation": 0.05, "train": 0.90}
"""Maps splits to proportions of the texts, in the order of their ranges of the hash."""

_ALIASES = {"valid": "validation", "val": "validation", "dev": "validation"}
_SMALL = 1000  # number of distinct texts below which a split of 5 % could be empty by chance
_BATCH = 10_000


def fold(text: str) -> str:
    """Normalise the case and white space of a text.

    Example:
        >>> fold(" A dog  barks")
        'a dog barks'
    """
    return " ".join(text.split()).casefold()


def position(text: str) -> float:
    """Hash of a text as a uniform number in [0, 1), independent of case and white space.

    Example:
        >>> position("a dog barks") == position(" A dog  barks")
        True
    """
    key = fold(text).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(key, digest_size=6).digest()) / 2**48


def check_split(split: str | None) -> None:
    """Raise an error for an unknown split."""
    if split is not None and split not in SHARES:
        raise unknown("split", str(split), SHARES, hint="None is the whole corpus")


def take_split(source: Source, split: str | None, where: str = "the corpus") -> Sentences:
    """One split of a corpus, or all of it for None.

    The splits of the publisher are kept; missing ones are separated from its training set by hash.
    How many sentences of a published split are thereby left out is logged as a warning. A corpus of
    fewer than 1000 distinct texts is split by rank of the hash instead, so that no split is empty;
    a stream, whose size is unknown, is always split by hash.

    Raises:
        UserError: Unknown split, or fewer than three distinct sentences to divide.
    """
    check_split(split)
    if isinstance(source, Dataset | IterableDataset):
        return source if split is None else _by_hash(source, split, SHARES, where)
    own = {_ALIASES.get(name, name): data for name, data in source.items()}
    if "train" not in own:
        whole = _concatenate(list(own.values()))
        return whole if split is None else _part(whole, split, SHARES, where, ", ".join(own))
    if split is None:
        return _concatenate([own[name] for name in ("train", "validation", "test") if name in own])
    if split != "train" and split in own:
        return own[split]
    lacking = {name: share for name, share in SHARES.items() if name == "train" or name not in own}
    return own["train"] if len(lacking) == 1 else _part(own["train"], split, lacking, where)


def select_rows(data: Dataset, keep: list[int]) -> Dataset:
    """The rows `keep`, or the same object if these are all rows."""
    return data if len(keep) == len(data) else data.select(keep)


def texts(data: Dataset) -> Iterator[str]:
    """The texts of a dataset, read in batches to limit memory."""
    for batch in data.select_columns("text").iter(_BATCH):
        yield from batch["text"]  # type: ignore[index]


def _part(
    data: Sentences, split: str, shares: Mapping[str, float], where: str, name: str = "train"
) -> Sentences:
    """One split of a published split by hash, with a warning about what is excluded."""
    part = _by_hash(data, split, shares, where)
    if isinstance(part, Dataset) and isinstance(data, Dataset):
        others = " and ".join(other for other in shares if other != split)
        logger.warning(
            "%s: the split %s is %s of the %s sentences of the published split %s; the others are "
            "held back for %s, which the corpus lacks. For all of them, pass split=None (--split "
            "all)",
            *(where, split, f"{len(part):,}", f"{len(data):,}", name, others),
        )
    return part


def _by_hash(data: Sentences, split: str, shares: Mapping[str, float], where: str) -> Sentences:
    if isinstance(data, IterableDataset):
        return data.filter(partial(_in_split, split=split, edges=_edges(shares)))
    positions = [position(text) for text in texts(data)]
    distinct = sorted(set(positions))
    edges = _edges(shares)
    if len(distinct) < _SMALL:
        if len(distinct) < len(shares):
            raise UserError(
                f"{where} has {counted(len(distinct), 'distinct sentence')}, too few to divide "
                f"into {', '.join(shares)}. Load it whole with split=None (--split all), or add "
                f"sentences until there are at least {len(shares)}"
            )
        edges = _ranked_edges(distinct, shares)
    return select_rows(data, [i for i, p in enumerate(positions) if _band(p, edges) == split])


def _edges(shares: Mapping[str, float]) -> dict[str, float]:
    """Split -> upper edge of its band."""
    edges, upper = {}, 0.0
    for name, share in shares.items():
        upper += share / sum(shares.values())
        edges[name] = upper
    return edges


def _ranked_edges(distinct: list[float], shares: Mapping[str, float]) -> dict[str, float]:
    """Bands with at least one of the sorted positions in each."""
    edges, taken = {}, 0
    for name, share in list(shares.items())[:-1]:
        taken += max(1, round(share / sum(shares.values()) * len(distinct)))
        edges[name] = distinct[taken]
    return edges | {list(shares)[-1]: 1.0}


def _band(p: float, edges: Mapping[str, float]) -> str:
    *first, last = edges
    return next((name for name in first if p < edges[name]), last)


def _in_split(row: Mapping[str, Any], split: str, edges: Mapping[str, float]) -> bool:
    return _band(position(row["text"]), edges) == split


def _concatenate(parts: list[Sentences]) -> Sentences:
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)  # type: ignore[type-var]
