"""The command `check`: find damaged files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from llamavae.cli.output import note, write
from llamavae.errors import UserError, counted


def check(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...",
            help="Models, priors, fits, runs, evaluations, encoded files or the cache.",
        ),
    ],
    accept: Annotated[
        bool,
        typer.Option(
            "--accept", help="Accept files that were changed on purpose: renew their manifests."
        ),
    ] = False,
) -> None:
    """Check folders for damaged and missing files.

    Files are compared with the manifest that was saved with them; files without a manifest are
    read. The exit status is 1 if a file is damaged, and 2 if there was nothing to check.
    """
    from llamavae.check import accept as renew
    from llamavae.check import check_folder

    damaged = 0
    foreign = []
    for folder in folders:
        if accept:
            note(f"{folder}: {counted(renew(folder), 'manifest')} renewed")
        found = check_folder(folder)
        damaged += len(found.damaged)
        if not (found.verified or found.read or found.damaged):
            foreign.append(shlex.quote(str(folder)))
        for path, what in found.damaged.items():
            write(False, "damaged", str(path), what)
        note(
            f"{folder}: {found.verified} files verified by manifest, {found.read} read, "
            f"{found.unchecked} not checked; {len(found.damaged)} damaged"
        )
    if damaged:
        raise typer.Exit(1)
    if foreign:
        raise UserError(
            f"nothing could be checked in {', '.join(foreign)}: expected files with a manifest, or "
            "Parquet, safetensors, NumPy, JSON or YAML files"
        )
