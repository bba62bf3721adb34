from __future__ import annotations

import time
from pathlib import Path

import pytest

from llamavae.errors import UserError
from llamavae.parsing import damage_errors, read_json, read_json_lines, read_yaml

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"5", b"null", b"\xff", DEEP.encode(), b"{}", b'{"n": "a"}', b'{"n": NaN}'],
)
def test_a_damaged_json_file(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.json is damaged: .+\. Delete it") as caught:
        read_json(path, {"n": int}, "Delete it")
    assert len(str(caught.value)) < 300 + len(str(path))


def test_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"n": 1, "other": []}')
    assert read_json(path, {"n": int}) == {"n": 1, "other": []}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize("line", ["{", "[]", "5", DEEP])
def test_json_lines(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{}\n')
    assert read_json_lines(path) == [{"a": 1}, {}]
    path.write_text(f'{{"a": 1}}\n{line}\n')
    with pytest.raises(UserError, match=r"a\.jsonl is damaged"):
        read_json_lines(path)


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), TypeError("x"), RecursionError])
def test_what_damage_leads_to(error: Exception) -> None:
    with (
        pytest.raises(UserError, match=r"x is damaged: .*Copy the folder again"),
        damage_errors(Path("x")),
    ):
        raise error


@pytest.mark.parametrize("aliases", [False, True])
def test_deep_yaml_is_refused_at_once(aliases: bool) -> None:
    start = time.process_time()
    with pytest.raises(UserError, match="x is not valid YAML: it is nested too deeply"):
        read_yaml("a: " + 3000 * "[", "x", aliases=aliases)
    assert time.process_time() - start < 3


def test_aliases() -> None:
    text = "a: &a [1]\nb: *a\n3: c"
    assert read_yaml(text, "x", aliases=True) == {"a": [1], "b": [1], 3: "c"}
    with pytest.raises(UserError, match="not valid YAML"):
        read_yaml(text, "x")
