"""Manifests: the size and the SHA-256 of each file of a folder, by which damage is found."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llamavae.errors import UserError

MANIFEST = "manifest.json"
_UNCHECKED = ("README.md", MANIFEST)
"""Files that no manifest covers; a model card may be edited."""

Entries = dict[str, dict[str, Any]]


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, kept: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write the manifest of a folder that is complete.

    Args:
        folder: The folder.
        kept: Entries of files that are already known.
    """
    entries: Entries = {name: dict(entry) for name, entry in (kept or {}).items()}
    for path in _covered(folder):
        name = path.relative_to(folder).as_posix()
        entries[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    text = json.dumps({"format": 1, "files": dict(sorted(entries.items()))}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _covered(folder: Path) -> Iterator[Path]:
    """Files of the folder and of its subfolders without a manifest of their own."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_file() and path.name not in _UNCHECKED:
            yield path
        elif path.is_dir() and not (path / MANIFEST).is_file():
            yield from _covered(path)


def read_manifest(folder: Path) -> Entries | None:
    """The entries of a folder's manifest by path; None if it has none.

    Raises:
        UserError: The manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {
            str(name): {"bytes": e["bytes"], "sha256": e["sha256"]} for name, e in files.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error!r}. Copy the folder again") from error


def damage(folder: Path) -> dict[str, str]:
    """Compare the files of a folder with its manifest.

    Returns:
        Path of each damaged or missing file in the folder -> what is wrong with it. It is empty for
        a folder without a manifest.

    Raises:
        UserError: The manifest itself is damaged.
    """
    found: dict[str, str] = {}
    for name, entry in (read_manifest(folder) or {}).items():
        path = folder / name
        if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):
            found[name] = "is outside the folder"
        elif not path.is_file():
            found[name] = "is missing"
        elif (size := path.stat().st_size) != entry["bytes"]:
            found[name] = f"has {size:,} bytes instead of {entry['bytes']:,}"
        elif sha256(path) != entry["sha256"]:
            found[name] = "has other contents than when it was saved"
    return found


def verify(folder: Path) -> None:
    """Check the files of a folder against its manifest, if it has one.

    Raises:
        UserError: A file is damaged or missing.
    """
    if found := damage(folder):
        (name, what), *others = found.items()
        more = f" (and {len(others)} more)" if others else ""
        raise UserError(
            f"{folder} is damaged: {name} {what}{more}. Copy the folder again. If you changed the "
            f"file yourself, accept it with llamavae check --accept {folder}"
        )
