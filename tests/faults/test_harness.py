"""A small part of the campaign (`python -m tests.faults`), with a fixed seed."""

from __future__ import annotations

import os

import pytest
from tests.faults import harness

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="faults happen in forked processes")


def faults(rows: harness.Rows) -> list[dict[str, str]]:
    return [row for row in rows if row["outcome"] not in ("right", "refused")]


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAVAE_CACHE", os.environ.get("LLAMAVAE_CACHE", ""))  # restored


def test_killed_processes() -> None:
    assert not faults(harness.kills(10, seed=1))


def test_full_disks() -> None:
    assert not faults(harness.full_disks(10, seed=1))


@pytest.mark.parametrize("removed", [False, True])
def test_damaged_files(removed: bool) -> None:
    rows = harness.damaged_files(30, seed=1, removed=removed)
    assert not faults(rows)
    assert any(row["outcome"] == "refused" for row in rows)


def test_threads_and_processes() -> None:
    assert not faults(harness.crowds())
