"""Faults on purpose: processes that are killed, disks that are full, files that are damaged.

    kills(most, seed), full_disks(most, seed), damaged_files(n, seed), crowds(codes, seed)

give rows {case, outcome}. An outcome is `right`, `refused` (a message of ours), or a fault:
`traceback`, `silent wrong`, `lost`, `foreign file touched`. With FAULTS_TRACEBACKS=FILE the
tracebacks are written to a file.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tests.faults import writers
from tests.faults.writers import DAMAGED, MINE, WRITERS, Writer

from llamavae.errors import UserError

Rows = list[dict[str, str]]
_CHANGES = {"os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.chmod"}
_INPUTS = "texts.txt", "labels.csv", "sentences.txt"
_SIZES = [0, 100, 1000, 10_000, 100_000]  # bytes
_DONE, _REFUSED, _TRACEBACK = 0, 2, 3


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="llamavae-faults-") as name:
        os.environ["LLAMAVAE_CACHE"] = f"{name}/cache"
        folder = Path(name, "work")
        folder.mkdir()
        yield folder


def _child(work: Callable[[], None], start: Callable[[], None] | None = None) -> int:
    """Do the work in a forked process; its exit status, or the negative number of its signal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has threads; the child does not use them
        child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    code = _TRACEBACK
    try:
        with Path(os.devnull).open("w") as null, redirect_stderr(null):
            torch.set_num_threads(1)
            if start is not None:
                start()
            work()
        code = _DONE
    except (UserError, KeyboardInterrupt):
        code = _REFUSED
    except BaseException:
        if where := os.environ.get("FAULTS_TRACEBACKS"):
            with Path(where).open("a") as file:
                traceback.print_exc(file=file)
    finally:
        os._exit(code)


def _at_change(place: Path, number: int, act: Callable[[], None]) -> list[int]:
    """Act before a change of files under a folder, counted from 0; gives the count of changes."""
    count, root = [0], str(place)

    def hook(name: str, arguments: Any) -> None:
        if name == "open":
            path, mode, flags = arguments
            changes = (
                bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else set("wax+") & {*mode}
            )
        elif name in _CHANGES:
            path, changes = arguments[0], True
        else:
            return
        if changes and str(path).startswith(root):
            if count[0] == number:
                act()
            count[0] += 1

    sys.addaudithook(hook)
    return count


def _changes(writer: Writer, folder: Path) -> int:
    """How many changes of files the work of a writer consists of."""
    record = folder.with_name("count")

    def counted() -> None:
        count = _at_change(folder, -1, lambda: None)
        writer.work(folder)
        record.write_text(str(count[0]))

    status = _child(counted)
    assert status == _DONE, f"{writer.name} fails without a fault"
    return int(record.read_text())


def _state(writer: Writer, folder: Path) -> Any:
    """What a reader finds, or the outcome if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return writer.read(folder)
    except UserError:
        return "refused"
    except Exception as error:
        return f"traceback: {error!r}"


class _Case:
    """The states of a writer that are right, and the number of its changes."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        with _folder() as folder:
            writers.begin(writer, folder)
            self.whole = [_state(writer, folder)]
            self.changes = _changes(writer, folder)
            self.new = _state(writer, folder)
            self.whole.append(self.new)
        if writer.halfway is not None:
            with _folder() as folder:
                writers.begin(writer, folder)
                writer.halfway(folder)
                self.whole.append(_state(writer, folder))

    def outcome(self, folder: Path) -> str:
        """What is found after a fault, and after the work is repeated."""
        found = _state(self.writer, folder)
        if str(found).startswith("traceback"):
            return str(found)
        if found == "refused":
            return "lost"
        if found not in self.whole:
            return "silent wrong"
        if _child(lambda: self.writer.work(folder)) != _DONE:
            return "lost"
        if _state(self.writer, folder) != self.new:
            return "silent wrong"
        if self.writer.name in ("save a model", "save a flow"):
            mine = folder / "model" / MINE
            if not mine.exists() or mine.read_text() != "mine":
                return "foreign file touched"
        return "right"


def _chosen(
    most: int, seed: int, names: Sequence[str] | None
) -> Iterator[tuple[_Case, int, random.Random]]:
    """The changes of each writer, or `most` of them chosen at random; a case and its change."""
    writers.source()  # not in a child
    rng = random.Random(seed)
    for writer in WRITERS:
        if names is None or writer.name in names:
            case = _Case(writer)
            for number in sorted(rng.sample(range(case.changes), min(most, case.changes))):
                yield case, number, rng


def kills(
    most: int,
    seed: int = 0,
    names: Sequence[str] | None = None,
    signals: Sequence[signal.Signals] = (signal.SIGKILL,),
) -> Rows:
    """Kill a process by a signal before a change of its files.

    Args:
        most: Maximum number of changes of each writer; chosen at random if it has more.
        seed: Seed of the choice.
        names: Names of the writers. Default: all.
        signals: One of them is sent.
    """
    rows: Rows = []
    for case, number, rng in _chosen(most, seed, names):
        with _folder() as folder:
            writers.begin(case.writer, folder)

            sent = rng.choice(signals)

            def start(folder: Path = folder, number: int = number, sent: int = sent) -> None:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                _at_change(folder, number, lambda: os.kill(os.getpid(), sent))

            status = _child(partial(case.writer.work, folder), start)
            ended = status in (-sent, _DONE, _REFUSED)
            done = case.outcome(folder) if ended else f"exit status {status}"
        what = f"{sent.name} before change {number}"
        rows.append({"case": f"{case.writer.name}, {what}", "outcome": done})
    return rows


def full_disks(most: int, seed: int = 0, names: Sequence[str] | None = None) -> Rows:
    """Fill the disk: a change fails with ENOSPC, and files cannot grow beyond a size.

    Args:
        most: Maximum number of changes of each writer; chosen at random if it has more. For each
            five of them there is a case with a maximum size of files.
        seed: Seed of the choices.
        names: Names of the writers. Default: all.
    """
    rows: Rows = []
    cases: list[tuple[_Case, int, int | None]] = []
    for i, (case, number, rng) in enumerate(_chosen(most, seed, names)):
        cases.append((case, number, None))
        if i % 5 == 0:
            cases.append((case, number, rng.choice(_SIZES)))
    for case, number, size in cases:
        with _folder() as folder:
            writers.begin(case.writer, folder)

            def start(folder: Path = folder, number: int = number, size: int | None = size) -> None:
                def full() -> None:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

                if size is None:
                    _at_change(folder, number, full)
                else:
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

            status = _child(partial(case.writer.work, folder), start)
            if status not in (_DONE, _REFUSED):
                done = "traceback"
            else:
                done = case.outcome(folder)
                done = "refused" if done == "right" and status == _REFUSED else done
        where = f"at change {number}" if size is None else f"beyond {size} bytes"
        rows.append({"case": f"{case.writer.name}, disk full {where}", "outcome": done})
    return rows


def damaged_files(n: int, seed: int = 0, removed: bool = False) -> Rows:
    """Flip a bit of a saved file, or truncate or remove it, and read the folder.

    Args:
        n: Number of damages.
        seed: Seed of their choice.
        removed: Truncate and remove files instead of flipping bits.
    """
    rng = random.Random(seed)
    rows: Rows = []
    with _folder() as folder:
        places = {}
        for writer in DAMAGED:
            place = folder / writer.name
            place.mkdir()
            writers.begin(writer, place)
            places[writer.name] = _state(writer, place)
        for number in range(n):
            writer = DAMAGED[number % len(DAMAGED)]
            place = folder / writer.name
            files = [
                path
                for path in sorted(place.rglob("*"))
                if path.is_file()
                and path.name not in ("README.md", MINE, *_INPUTS)
                and not path.name.startswith(".")
                and path.stat().st_size
            ]
            path = rng.choice(files)
            before = path.read_bytes()
            if not removed:
                data, bit = bytearray(before), rng.randrange(8 * len(before))
                data[bit // 8] ^= 1 << bit % 8
                path.write_bytes(data)
                what = f"bit {bit} of {path.name} flipped"
            elif rng.random() < 0.5:
                path.write_bytes(before[: rng.randrange(len(before))])
                what = f"{path.name} truncated"
            else:
                path.unlink()
                what = f"{path.name} removed"
            found = _state(writer, place)
            if found == "refused":
                done = "refused"
            elif str(found).startswith("traceback"):
                done = str(found)
            elif found == places[writer.name]:
                done = "right"
            else:
                done = "refused" if found is None and removed else "silent wrong"
            path.write_bytes(before)
            rows.append({"case": f"{writer.name}: {what}", "outcome": done})
    return rows


def crowds(
    codes: int,
    seed: int = 0,
    names: Sequence[str] = ("encode", "evaluate", "fit-condition", "train"),
) -> Rows:
    """Eight threads decode on one model; four processes write to one place.

    Args:
        codes: Number of latent codes that are decoded.
        seed: Seed of the codes.
        names: Names of the writers.
    """
    rows: Rows = []
    model = writers.vaes()[0]
    z = torch.randn(codes, model.config.latent_dim, generator=torch.Generator().manual_seed(seed))
    expected = [model.decode(row[None])[0] for row in z]
    found: list[str] = [""] * len(z)

    def decode(part: int) -> None:
        for i in range(part, len(z), 8):
            found[i] = model.decode(z[i : i + 1])[0]

    threads = [threading.Thread(target=decode, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows += [
        {"case": "decode in 8 threads", "outcome": "right" if a == b else "silent wrong"}
        for a, b in zip(found, expected, strict=True)
    ]
    for name in names:
        writer = next(writer for writer in WRITERS if writer.name == name)
        case = _Case(writer)
        with _folder() as folder:
            writers.begin(writer, folder)
            pids = []
            for _ in range(4):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    pid = os.fork()
                if not pid:
                    os._exit(_child(partial(writer.work, folder)))
                pids.append(pid)
            statuses = [os.WEXITSTATUS(os.waitpid(pid, 0)[1]) for pid in pids]
            state = _state(writer, folder)
            for code in statuses:
                right = state == case.new and code in (_DONE, _REFUSED)
                outcome = "refused" if code == _REFUSED else "right"
                rows.append(
                    {
                        "case": f"{name} in 4 processes",
                        "outcome": outcome if right else "silent wrong or traceback",
                    }
                )
    return rows
