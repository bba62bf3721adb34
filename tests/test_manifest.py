from __future__ import annotations

from pathlib import Path

import pytest

from llamavae.errors import UserError
from llamavae.files import replacing_folder, write_text
from llamavae.manifest import MANIFEST, damage, read_manifest, verify, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with replacing_folder(tmp_path / "x") as new:
        for name in ("a", "README.md", ".hidden", "sub/b", "own/c"):
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(name)
        write_manifest(new / "own")
    return tmp_path / "x"


def test_a_manifest_covers_the_files_but_the_card(folder: Path) -> None:
    assert set(read_manifest(folder) or {}) == {"a", "sub/b"}
    (folder / "README.md").write_text("# Edited")
    (folder / "more").touch()
    assert damage(folder) == {}
    verify(folder)
    verify(folder / "sub")  # has none


def test_each_damage_is_named(folder: Path) -> None:
    (folder / "a").write_text("b")
    (folder / "sub" / "b").unlink()
    assert damage(folder) == {
        "a": "has other contents than when it was saved",
        "sub/b": "is missing",
    }
    (folder / "a").write_text("longer")
    with pytest.raises(UserError, match=r"a has 6 bytes instead of 1 \(and 1 more\).*--accept"):
        verify(folder)
    (folder / "own" / "c").write_text("d")
    assert list(damage(folder / "own")) == ["c"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"files": {"a": 1}}',
        '{"files": []}',
        '{"files": {"a": {"bytes": "1", "sha256": "x"}}}',
        '{"files": {"a": {"bytes": null, "sha256": "x"}}}',
        '{"files": {"a": {"bytes": 1, "sha256": 1}}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_manifest(text: str, folder: Path) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        verify(folder)


def test_paths_stay_in_the_folder(folder: Path) -> None:
    write_text(folder / MANIFEST, '{"files": {"../y": {"bytes": 0, "sha256": ""}}}')
    (folder.parent / "y").touch()
    assert damage(folder) == {"../y": "is outside the folder"}


def test_files_that_are_kept_stay_in_the_manifest(folder: Path) -> None:
    (folder / "foreign").touch()
    with replacing_folder(folder, own=["own"]) as new:
        (new / "a").write_text("new")
    assert set(read_manifest(folder) or {}) == {"a", "sub/b"}
    assert (folder / "foreign").exists()
    assert damage(folder) == {}


@pytest.mark.parametrize("name", ["x" * 5000, "a\\u0000", "\\ud800"])
def test_names_that_no_file_has(name: str, folder: Path) -> None:
    write_text(folder / MANIFEST, f'{{"files": {{"{name}": {{"bytes": 1, "sha256": ""}}}}}}')
    assert len(damage(folder)) == 1
    with pytest.raises(UserError, match="is damaged") as caught:
        verify(folder)
    assert len(str(caught.value)) < 300 + 2 * len(str(folder))


def test_the_message_is_one_line_with_a_quoted_command(tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    write_text(folder / MANIFEST, '{"files": {"a\\nERROR": {"bytes": 1, "sha256": ""}}}')
    with pytest.raises(UserError, match=r"a ERROR is missing") as caught:
        verify(folder)
    assert str(caught.value).endswith(f"llamavae check --accept '{folder}'")
