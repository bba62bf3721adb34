"""Check folders for damage: files against their manifests, and the others by their format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from llamavae.errors import UserError
from llamavae.files import write_text
from llamavae.manifest import MANIFEST, damage, entries_of, manifest_text
from llamavae.parsing import read_yaml


@dataclass
class CheckResult:
    """Result of `check_folder`.

    Attributes:
        verified: Number of files that were compared with a manifest.
        read: Number of further files that were read as their format demands. Damage that leaves
            the format intact is not found in them, except in Parquet files, which have checksums.
        unchecked: Number of files of other formats.
        damaged: Path of each damaged file -> what is wrong with it.
    """

    verified: int = 0
    read: int = 0
    unchecked: int = 0
    damaged: dict[Path, str] = field(default_factory=dict)


def check_folder(folder: Path) -> CheckResult:
    """Check a model, prior, fit, run, evaluation, encoded file or cache for damaged files.

    Args:
        folder: Folder or file; subfolders are included.

    Raises:
        UserError: There is no such folder.
    """
    if not folder.exists():
        raise UserError(f"there is no folder {folder}. Pass a folder or file of llamavae")
    result = CheckResult()
    covered: set[Path] = set()
    for path, part in _manifests(folder):
        try:
            entries = entries_of(path, part)
            found = damage(path, part)
        except UserError as error:
            result.damaged[path / MANIFEST] = str(error)
            continue
        here = path if part == "." else folder
        names = {name: here / PurePath(name).relative_to(part) for name in entries}
        result.verified += len(entries)
        result.damaged |= {names[name]: what for name, what in found.items()}
        covered |= {path / MANIFEST, *names.values()}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        if path in covered or path.name.startswith(".") or not path.is_file():
            continue
        match _fault(path):
            case None:
                result.unchecked += 1
            case "":
                result.read += 1
            case fault:
                result.damaged[path] = fault
    return result


def accept(folder: Path) -> int:
    """Write new manifests for the folders whose files differ from them; returns their number.

    A manifest above the folder is not changed, since it also covers files elsewhere.
    """
    changed = [path for path, part in _manifests(folder) if part == "." and damage(path)]
    for path in changed:
        write_text(path / MANIFEST, manifest_text(path))
    return len(changed)


def _manifests(place: Path) -> Iterator[tuple[Path, str]]:
    """Each folder with a manifest that covers files in `place`, and which part of it is there."""
    if place.is_dir():
        yield from ((path.parent, ".") for path in sorted(place.rglob(MANIFEST)))
    if not (place / MANIFEST).is_file():  # a file, or a subfolder without a manifest of its own
        for above in place.absolute().parents:
            if (above / MANIFEST).is_file():
                yield above, place.absolute().relative_to(above).as_posix()
                return


def _fault(path: Path) -> str | None:
    """What is wrong with a file; empty if nothing is, None if its format is unknown."""
    try:
        match path.suffix:
            case ".parquet":
                for _ in pq.ParquetFile(path, page_checksum_verification=True).iter_batches():
                    pass
            case ".safetensors":
                with safe_open(path, "np") as file:
                    file.keys()
            case ".npy":
                np.load(path, mmap_mode="r", allow_pickle=False)
            case ".json":
                json.loads(path.read_text(encoding="utf-8"))
            case ".jsonl":
                with path.open(encoding="utf-8") as file:  # U+2028 does not end a line of JSON
                    for line in filter(str.strip, file):
                        json.loads(line)
            case ".yaml":
                read_yaml(path.read_text(encoding="utf-8"), "the file", aliases=True)
            case _:
                return None
    except RecursionError:
        return "cannot be read: it is nested too deeply"
    except (OSError, ValueError, EOFError, SafetensorError, pa.ArrowException) as e:
        return f"cannot be read: {' '.join(str(e).split())[:200]}"
    return ""
