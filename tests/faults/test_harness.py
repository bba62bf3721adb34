"""A small part of the campaign (`python -m tests.faults`), with a fixed seed."""

from __future__ import annotations

import os
import signal

import pytest
from tests.faults import harness

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="faults happen in forked processes")


def faults(rows: harness.Rows) -> list[dict[str, str]]:
    return [row for row in rows if row["outcome"] not in ("right", "refused")]


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAVAE_CACHE", os.environ.get("LLAMAVAE_CACHE", ""))  # restored


def test_killed_processes() -> None:
    rows = harness.kills(2, seed=1, names=("save a model", "encode"))
    assert len(rows) == 4
    assert not faults(rows)


def test_signals() -> None:
    rows = harness.kills(
        3, seed=1, names=("save a prior", "encode"), signals=(signal.SIGINT, signal.SIGTERM)
    )
    assert not faults(rows)


def test_full_disks() -> None:
    rows = harness.full_disks(2, seed=1, names=("save a flow", "evaluate"))
    assert len(rows) == 5
    assert not faults(rows)
    assert any(row["outcome"] == "refused" for row in rows)


@pytest.mark.parametrize("removed", [False, True])
def test_damaged_files(removed: bool) -> None:
    rows = harness.damaged_files(12, seed=1, removed=removed)
    assert not faults(rows)
    assert any(row["outcome"] == "refused" for row in rows)


def test_threads_and_processes() -> None:
    assert not faults(harness.crowds(16, names=("encode", "fit-condition")))
