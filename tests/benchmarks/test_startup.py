"""Seconds of commands in processes of their own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from benchmarks import startup
from benchmarks.bench import Settings


def test_wall_and_processor_seconds_of_a_process() -> None:
    code = """
import time
time.sleep(0.5)
while time.process_time() < 0.3:
    pass
"""
    found = startup.run(Settings(threads=1), ["-c", code])
    assert found["wall"] > 0.75
    assert 0.29 <= found["cpu"] < found["wall"] - 0.4  # clocks round


def test_seconds_are_compared_with_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def run(settings: Settings, arguments: Sequence[str]) -> dict[str, float]:
        taken.append(arguments)
        return {"wall": 2.5, "cpu": 2.25} if "llamavae" in arguments else {"wall": 2.0, "cpu": 1.5}

    monkeypatch.setattr(startup, "run", run)
    rows = {(r.case, r.measure): r for r in startup.measure_start_up(Settings(), repeats=2)}
    assert len(taken) == 2 * 2 * 3
    assert {key: row.good for key, row in rows.items()} == {
        ("start-up", "wall"): False,
        ("start-up", "cpu"): None,
        ("reverse-start-up", "wall"): True,
        ("reverse-start-up", "cpu"): False,
    }
    assert rows["start-up", "cpu"].ratio == 1.5
    assert rows["start-up", "cpu"].pairs == 2
