"""Where the library keeps its own files, and the one way in which it writes files and folders.

A new file or folder is written under its own name in `.NAME.XXXXXXXX.writing` beside its target,
flushed to the disk, and renamed over the target. A reader finds the whole old or the whole new
one, also after a crash. Temporary folders are locked while they are in use; those of killed
processes are never read, and the next write beside them removes them.
"""

from __future__ import annotations

import csv
import ctypes
import errno
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from llamavae.errors import UserError, check_path
from llamavae.manifest import Entries, read_manifest, write_manifest

_TEMPORARY, _LOCK, _OLD = ".writing", ".lock", ".old"
_LONE = "backslashreplace"  # how lone surrogates are encoded
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of a spreadsheet's formula
_ADVICE = {
    **dict.fromkeys([errno.ENOSPC, errno.EDQUOT, errno.EFBIG], "Free some disk space"),
    **dict.fromkeys([errno.EACCES, errno.EPERM], "Choose another place or change its permissions"),
    **dict.fromkeys([errno.ENOTDIR, errno.EEXIST], "A file is in the way: choose another place"),
    errno.EISDIR: "A folder is in the way: choose another place",
    errno.ENOENT: "Create the folder or choose another place",
}


def cache_folder() -> Path:
    """Folder for corpora that were tokenised and encoded, and for downloaded models:
    `LLAMAVAE_CACHE`, or `.cache/llamavae` in the user's home.
    """
    place = os.environ.get("LLAMAVAE_CACHE") or "~/.cache/llamavae"
    try:
        return Path(place).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"the home folder is unknown, so there is no cache folder {place}. Set LLAMAVAE_CACHE "
            "to a folder"
        ) from error


# ------------------------------------------------------------------------------- errors


class DiskError(UserError):
    """A file or folder could not be written; the previous content is unchanged."""

    def __init__(self, place: object, cause: OSError, then: str = "") -> None:
        self.place, self.cause, self.then = place, cause, then
        why = os.strerror(cause.errno) if cause.errno else " ".join(str(cause).split())
        if cause.filename is not None and _TEMPORARY not in str(cause.filename):
            why += f" ({cause.filename})"
        advice = _ADVICE.get(cause.errno or 0, "Choose another place")
        super().__init__(f"could not write {place}: {why}. {advice}, then {then or 'try again'}")


@contextmanager
def disk_errors(place: object, then: str = "") -> Iterator[None]:
    """Raise an error of the disk as a `DiskError`.

    Args:
        place: What is written, unless a function of this module knows it more precisely.
        then: What to do once the cause is removed; default: try again.
    """
    try:
        yield
    except DiskError as error:
        inside = _TEMPORARY in str(error.place)  # of a folder that is being written
        if not inside and (error.then or not then):
            raise
        where = place if inside else error.place
        raise DiskError(where, error.cause, error.then or then) from error
    except OSError as error:
        raise DiskError(place, error, then) from error
    except Exception as error:  # safetensors and tokenizers have errors of their own for it
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None or isinstance(error, UserError):
            raise
        raise DiskError(place, OSError(int(found[1]), str(error)), then) from error


# ------------------------------------------------------------------------------- files


def write_text(path: Path, text: str) -> None:
    r"""Write or replace a UTF-8 file, with line ends as they are in `text`.

    Lone surrogates, as in the name of a file that is not in UTF-8, are written as `\uXXXX`, which
    JSON reads as the same character.
    """
    with replacing(path) as new:
        new.write_bytes(text.encode(errors=_LONE))


def write_json(path: Path, values: Any) -> None:
    """Write or replace a JSON file."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write or replace a CSV file of rows with a header line; missing values are empty.

    Text that a spreadsheet would take for a formula is written with an apostrophe before it. Lone
    surrogates are written as in `write_text`.
    """
    if not rows:
        raise UserError(f"there are no rows to write to {path}")
    with (
        replacing(path) as new,
        new.open("w", encoding="utf-8", errors=_LONE, newline="") as file,
    ):
        names = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.writer(file)
        for cells in (names, *([row.get(name) for name in names] for row in rows)):
            writer.writerow(
                f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
                for cell in cells
            )
    return path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path for a new file, which replaces `path` if the block succeeds.

    If the block raises an error, the new file is removed and the old one stays. A link stays a
    link: the file that it points to is replaced.

    Args:
        path: The file; its folder is there.

    Raises:
        DiskError: The file cannot be written.
    """
    target = check_path(path).resolve()
    with disk_errors(path), _temporary(target.parent, target.name) as new:
        yield new
        _sync(new)
        new.replace(target)
        _sync(target.parent)


# ------------------------------------------------------------------------------- folders


@contextmanager
def replacing_folder(
    path: str | os.PathLike[str], own: Sequence[str] | None = None
) -> Iterator[Path]:
    """Yield an empty temporary folder, which replaces `path` if the block succeeds.

    If the block raises an error, the new folder is removed and the old one stays. A manifest of
    the new files is added, see `llamavae.manifest`. The exchange is atomic on Linux and macOS. A
    folder that cannot be renamed (a mount point, the working directory, or one in a folder without
    write permission) is replaced entry by entry instead.

    Args:
        path: The folder; missing parents are created.
        own: Patterns of names that go with the old folder. Its other entries are kept, unless
            the new folder has one of that name. None: no entry is kept.

    Raises:
        DiskError: The folder cannot be written.
    """
    target = check_path(path).resolve()
    with disk_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        fixed = target.is_dir() and (
            target.is_mount()
            or Path.cwd().is_relative_to(target)
            or not os.access(target.parent, os.W_OK)
        )
        with _temporary(target if fixed else target.parent, target.name) as new:
            new.mkdir()
            if target.is_dir():
                shutil.copymode(target, new)
            yield new
            if own is None or not target.is_dir():
                write_manifest(new)
            else:
                write_manifest(new, _kept_entries(target, new, own))
                if not fixed:
                    _keep_others(target, new, own)
            for item in (new, *new.rglob("*")):
                _sync(item)
            if fixed:
                _move_entries(new, target, own)
                return
            try:
                new.rename(target)  # over nothing, or over an empty folder
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if not _exchange(new, target):
                    target.rename(new.parent / _OLD)
                    new.rename(target)
            _sync(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or the disk cannot."""
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "linux":
        here, flag = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        rename = getattr(ctypes.CDLL(None), "renameat2", None)
        return rename is not None and rename(here, names[0], here, names[1], flag) == 0
    if sys.platform == "darwin":
        return ctypes.CDLL(None).renamex_np(*names, 2) == 0  # RENAME_SWAP
    return False


def _kept_entries(old: Path, new: Path, own: Sequence[str]) -> Entries:
    """Entries of the old manifest for the files that are kept."""
    try:
        entries = read_manifest(old) or {}
    except UserError:
        return {}
    return {
        name: entry
        for name, entry in entries.items()
        for top in (old / name.split("/")[0],)
        if top.exists() and not (new / top.name).exists() and not _matches(top, own)
    }


def _keep_others(old: Path, new: Path, own: Sequence[str]) -> None:
    """Link the entries of the old folder into the new one that do not go with the old one."""
    for item in old.iterdir():
        if (new / item.name).exists() or _matches(item, [*own, f".*{_TEMPORARY}"]):
            continue
        if item.is_dir() and not item.is_symlink():
            shutil.copytree(item, new / item.name, symlinks=True, copy_function=_link)
        else:
            _link(item, new / item.name)


def _matches(item: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatch(item.name, pattern) for pattern in patterns)


def _link(old: str | Path, new: str | Path) -> None:
    if not Path(old).is_symlink():
        with suppress(OSError):  # some disks have no hard links
            os.link(old, new)
            return
    shutil.copy2(old, new, follow_symlinks=False)


def _move_entries(new: Path, folder: Path, own: Sequence[str] | None) -> None:
    names = {item.name for item in new.iterdir()}
    for item in folder.iterdir():
        gone = item.name in names or _matches(item, ["*"] if own is None else own)
        if gone and item != new.parent:
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            elif item.name not in names:
                item.unlink()
    for name in names:
        (new / name).replace(folder / name)


# ------------------------------------------------------------------------------- on the way


@contextmanager
def _temporary(parent: Path, name: str) -> Iterator[Path]:
    """A path `name` in a locked temporary folder, which is removed at the end."""
    from filelock import FileLock

    remove_leftovers(parent)
    while True:
        folder = Path(tempfile.mkdtemp(_TEMPORARY, f".{name}.", parent))
        lock = FileLock(folder / _LOCK)
        with suppress(OSError):  # a disk without locks: leftovers stay there
            lock.acquire()
        if folder.is_dir():  # else another process took it for a leftover before it was locked
            break
    try:
        yield folder / name
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Remove the temporary folders of killed processes, whose locks are free."""
    from filelock import FileLock, Timeout

    for folder in parent.glob(f".*{_TEMPORARY}"):
        name = re.fullmatch(rf"\.(.+)\.[a-z0-9_]{{8}}{_TEMPORARY}", folder.name)
        if name is None:
            continue
        with suppress(OSError, Timeout), FileLock(folder / _LOCK, blocking=False):
            if (folder / _OLD).is_dir() and not (parent / name[1]).exists():
                (folder / _OLD).rename(parent / name[1])  # killed between two renames
            shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    if path.is_dir() and os.name != "posix":
        return
    file = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)
