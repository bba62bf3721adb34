from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from llamavae.errors import (
    LARGEST,
    UserError,
    check_int,
    check_number,
    check_path,
    memory_errors,
    unknown,
)


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (0, {}, "n must be at least 1; got 0"),
        (LARGEST + 1, {}, "n must be at most 2147483647; got 2147483648"),
        (10**5000, {}, "n must be at most 2147483647; got an integer of 16610 bits"),
        (9, {"minimum": 2, "maximum": 8}, "n must be from 2 to 8; got 9"),
        (True, {}, "n must be an integer; got True"),
        ("1", {}, "n must be an integer; got '1'"),
        (1.0, {}, "n must be an integer; got 1.0"),
    ],
    ids=range(7),
)
def test_integers(value: Any, limits: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        check_int("n", value, **limits)
    check_int("n", LARGEST)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 10**400, 10**5000, True, "1", None], ids=range(7)
)
def test_numbers_are_finite(value: Any) -> None:
    with pytest.raises(UserError, match=r"x must be a finite number; got .{1,80}$"):
        check_number("x", value)
    check_number("x", 10**300)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "an empty name"),
        (None, "NoneType"),
        (3, "int"),
        (b"a", "bytes"),
        ("a\0b", "embedded null"),
        ("x" * 5000, "File name too long"),
        ("~no-such-user/a", "home"),
    ],
)
def test_paths(value: Any, reason: str) -> None:
    with pytest.raises(UserError, match=f"expected a prior; got .*{reason}") as error:
        check_path(value, "a prior")
    assert len(str(error.value)) < 200


def test_absent_paths_are_paths(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.touch()
    for path in (file, tmp_path / "b", file / "c"):
        assert check_path(str(path)) == path


def test_exhausted_memory_is_told_from_other_errors() -> None:
    message = "not enough memory for a matrix. Use a smaller one"
    with (
        pytest.raises(UserError, match=message),
        memory_errors("a matrix", "Use a smaller one"),
    ):
        torch.empty(2**47)  # more than there are addresses
    for other in (RuntimeError("else"), torch.OutOfMemoryError("CUDA out of memory"), ValueError()):
        with pytest.raises(type(other)) as found, memory_errors("a matrix", ""):
            raise other
        assert found.value is other


def test_of_many_names_the_closest_are_listed() -> None:
    names = [f"name-{n}" for n in range(41)]
    few, many = (str(unknown("thing", "zz-4", names[:n])) for n in (40, 41))
    assert all(name in few for name in names[:40])
    assert "The closest of 41 known names: name-4, " in many
    assert many.count("name-") == 5
