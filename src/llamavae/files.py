"""Where the library keeps files of its own, and the hashes by which files are known."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cache_folder() -> Path:
    """Folder for corpora that were tokenised and encoded, and for models that were fetched:
    `LLAMAVAE_CACHE`, or `.cache/llamavae` in the user's home.
    """
    return Path(os.environ.get("LLAMAVAE_CACHE", Path.home() / ".cache" / "llamavae"))


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
