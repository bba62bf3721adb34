"""Manifests: the size and the SHA-256 of each file of a folder, by which damage is found."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from llamavae.errors import UserError, check_types

MANIFEST = "manifest.json"
_UNCHECKED = ("README.md", MANIFEST)
"""Files that no manifest covers; a model card may be edited."""

Entries = dict[str, dict[str, Any]]


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, kept: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write the manifest of a folder that is complete, see `manifest_text`."""
    (folder / MANIFEST).write_text(manifest_text(folder, kept), encoding="utf-8")


def manifest_text(folder: Path, kept: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The manifest of a folder that is complete, as JSON.

    Args:
        folder: The folder.
        kept: Entries of files that are already known.
    """
    entries: Entries = {name: dict(entry) for name, entry in (kept or {}).items()}
    for path in _covered(folder):
        name = path.relative_to(folder).as_posix()
        entries[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    return json.dumps({"format": 1, "files": dict(sorted(entries.items()))}, indent=1) + "\n"


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
        entries = {
            str(name): {"bytes": e["bytes"], "sha256": e["sha256"]} for name, e in files.items()
        }
        for entry in entries.values():
            check_types(entry, {"bytes": int, "sha256": str})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        text = f"{error!r:.150}"
        raise UserError(f"{path} is damaged: {text}. Copy the folder again") from error
    return entries


def entries_of(folder: Path, part: str = ".") -> Entries:
    """The entries of a folder's manifest for a file or subfolder; none without a manifest.

    Raises:
        UserError: The manifest is damaged.
    """
    entries = read_manifest(folder) or {}
    return {n: entry for n, entry in entries.items() if PurePath(n).is_relative_to(part)}


def damage(folder: Path, part: str = ".") -> dict[str, str]:
    """Compare the files of a folder with its manifest.

    Args:
        folder: The folder.
        part: A file or subfolder to which the comparison is limited.

    Returns:
        Path of each damaged or missing file in the folder -> what is wrong with it. It is empty for
        a folder without a manifest.

    Raises:
        UserError: The manifest itself is damaged.
    """
    found = {n: _fault(folder, n, entry) for n, entry in entries_of(folder, part).items()}
    return {name: what for name, what in found.items() if what}


def _fault(folder: Path, name: str, entry: Mapping[str, Any]) -> str:
    """How a file differs from its entry; empty if it does not."""
    path = folder / name
    if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):
        return "is outside the folder"
    try:
        if not path.is_file():
            return "is missing"
        if (size := path.stat().st_size) != entry["bytes"]:
            return f"has {size:,} bytes instead of {entry['bytes']:,}"
        if sha256(path) != entry["sha256"]:
            return "has other contents than when it was saved"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""


def verify(folder: Path) -> None:
    """Check the files of a folder against its manifest, if it has one.

    Raises:
        UserError: A file is damaged or missing.
    """
    if found := damage(folder):
        (name, what), *others = found.items()
        more = f" (and {len(others)} more)" if others else ""
        name = " ".join(name.split())[:100]
        raise UserError(
            f"{folder} is damaged: {name} {what}{more}. Copy the folder again. If you changed the "
            f"file yourself, accept it with llamavae check --accept {shlex.quote(str(folder))}"
        )
