"""Lines of UTF-8 files, with instructive errors."""

from __future__ import annotations

import gzip
import shlex
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from llamavae.errors import UserError, nearest


def check_file(path: Path) -> None:
    """Raise an error for a path that is not a file, with similar names in its folder."""
    if path.is_file():
        return
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected a file")
    if not path.parent.is_dir():
        raise UserError(f"no such file: {path} (there is no folder {path.parent} either)")
    close = nearest(path.name, [entry.name for entry in path.parent.iterdir()])
    hint = f" Did you mean {' or '.join(map(shlex.quote, close))}?" if close else ""
    raise UserError(f"no such file: {path}.{hint}")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, with their line ends; a byte order mark is removed.

    Raises:
        UserError: No such file, or one that is binary or in another encoding.
    """
    if not path.exists() or path.is_dir():  # a pipe is allowed
        check_file(path)
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    number = 0
    try:
        with opened(path, "rb") as file:
            for number, line in decode_lines(file, str(path)):
                yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}:{number + 1}: damaged or not a gzip file ({error}). Copy the file again"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def decode_lines(lines: Iterable[bytes], name: str, first: int = 1) -> Iterator[tuple[int, str]]:
    """Like `read_lines`, for the bytes of an open file or of standard input, called `name`.

    Args:
        lines: The lines.
        name: What they are from, for messages.
        first: Number of the first one.
    """
    for number, raw in enumerate(lines, first):
        if number == 1 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            command = _pipe(name, "iconv -f UTF-16 -t UTF-8")
            raise UserError(f"{name}:1: is in UTF-16; expected UTF-8. Convert it: {command}")
        if b"\0" in raw:
            raise UserError(f"{name}:{number}: contains a NUL byte; expected a UTF-8 text file")
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}:{number}: invalid UTF-8 byte 0x{raw[error.start]:02x} at position "
                f"{error.start + 1}; {_conversion(name, 'LATIN1')}"
            ) from error
        if number == 1 and not line.endswith("\n") and "\r" in line.rstrip("\r"):
            command = _pipe(name, r"tr '\r' '\n'")
            raise UserError(
                f"{name}:1: the line ends are carriage returns alone (CR); expected LF or CR LF. "
                f"Convert it: {command}"
            )
        yield number, line


def _conversion(name: str, encoding: str) -> str:
    command = _pipe(name, f"iconv -f {encoding} -t UTF-8")
    return f"expected UTF-8. If it is in {encoding}, convert it: {command}"


def _pipe(name: str, command: str) -> str:
    """A shell command that converts a file, or standard input, and does not overwrite the file."""
    path = Path(name)
    if not path.is_file():
        return f"`... | {command} | llamavae ...`"
    unpacked = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    reading = "gzip -dc" if unpacked != path else "cat"
    new = unpacked.with_name(f"new-{unpacked.name}")
    return f"`{reading} {shlex.quote(name)} | {command} > {shlex.quote(str(new))}`"
