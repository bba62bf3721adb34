"""Files and folders are replaced as a whole, whatever happens on the way."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import signal
import stat
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from tests import tiny

from llamavae import InvertibleCVAE, LlaMaVAE, files
from llamavae.errors import UserError
from llamavae.files import (
    DiskError,
    disk_errors,
    replacing,
    replacing_folder,
    write_csv,
    write_json,
    write_text,
)
from llamavae.guidance import LabelCondition
from llamavae.manifest import MANIFEST
from llamavae.modeling.prior import StandardPrior

Tree = dict[str, bytes]


def tree(folder: Path) -> Tree:
    """Path of each file in a folder -> its content, without manifests."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def fill(folder: Path, content: str, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


# ------------------------------------------------------------------------------------------ files


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("ä\r\nb\n", "c"):
        write_text(path, text)
        assert path.read_bytes() == text.encode()
    write_json(tmp_path / "a.json", {"ä": [1]})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "ä": [\n    1\n  ]\n}\n'
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "a.json"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "full"), ValueError("no")])
@pytest.mark.parametrize("replace", [replacing, replacing_folder])
def test_an_error_leaves_the_old_one(replace, error: BaseException, tmp_path: Path) -> None:
    old = fill(tmp_path / "x", "old", "file") if replace is replacing_folder else tmp_path / "x"
    if replace is replacing:
        old.write_text("old")
    before = tree(tmp_path)
    expected = DiskError if isinstance(error, OSError) else type(error)

    def fail() -> None:
        with replace(old) as new:
            fill(new, "half", "file") if new.is_dir() else new.write_text("half")
            raise error

    with pytest.raises(expected):
        fail()
    assert tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    fill(tmp_path, "old", "real/file")
    (tmp_path / "file").symlink_to(tmp_path / "real" / "file")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "real" / "file").read_text() == "new"
    with replacing_folder(tmp_path / "folder") as new:
        fill(new, "newer", "file")
    assert (tmp_path / "file").read_text() == "newer"
    assert (tmp_path / "file").is_symlink()
    assert (tmp_path / "folder").is_symlink()


def test_the_temporary_path_has_the_name_of_the_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "plot.png") as new:
        assert new.name == "plot.png"
        assert new.parent.parent == tmp_path
        new.touch()


# ---------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize(
    ("own", "kept"),
    [(None, set()), ((), {"mine", "old-1", "sub/mine"}), (("old*",), {"mine", "sub/mine"})],
)
def test_what_is_kept_of_the_old_folder(own, kept, exchange, tmp_path, monkeypatch) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    folder = fill(tmp_path / "a" / "x", "old", "file", "mine", "old-1", "sub/mine")
    with replacing_folder(folder, own) as new:
        fill(new, "new", "file", "more")
    found = tree(folder)
    assert found.keys() == {"file", "more", *kept}
    assert {found["file"], found["more"]} == {b"new"}
    assert {found[name] for name in kept} <= {b"old"}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is a call of Linux")
def test_linux_exchanges_folders(tmp_path: Path) -> None:
    one, other = fill(tmp_path / "one", "1", "a"), fill(tmp_path / "other", "2", "b")
    assert files._exchange(one, other)
    assert (tree(one), tree(other)) == ({"b": b"2"}, {"a": b"1"})
    assert not files._exchange(one, tmp_path / "nowhere")


def test_the_working_directory_stays_itself(tmp_path: Path, monkeypatch) -> None:
    folder = fill(tmp_path / "x", "old", "file", "mine", "sub/old")
    monkeypatch.chdir(folder)
    number = folder.stat().st_ino
    with replacing_folder(".", own=()) as new:
        fill(new, "new", "file", "sub/new")
    assert tree(Path.cwd()) == {"file": b"new", "mine": b"old", "sub/new": b"new"}
    assert folder.stat().st_ino == number
    with replacing_folder(".") as new:
        fill(new, "newer", "file")
    assert tree(folder) == {"file": b"newer"}


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_modes_are_those_of_other_files(tmp_path: Path) -> None:
    plain = fill(tmp_path / "plain", "", "file")
    with replacing_folder(tmp_path / "x") as new:
        fill(new, "", "file")
    write_text(tmp_path / "x" / "text", "")
    modes = [stat.S_IMODE((plain / name).stat().st_mode) for name in ("", "file", "file")]
    assert [
        stat.S_IMODE((tmp_path / "x" / n).stat().st_mode) for n in ("", "file", "text")
    ] == modes
    (tmp_path / "x").chmod(0o700)
    with replacing_folder(tmp_path / "x"):
        pass
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o700


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "x"),
            "could not write a: No space left on device. Free some disk space, then",
        ),
        (OSError(errno.EACCES, "x"), "could not write a: Permission denied. Choose another place"),
        (OSError("no\nnumber"), "could not write a: no number. Choose another place, then try"),
        (SafetensorError("I/O error: x (os error 28)"), "could not write a: No space left on"),
    ],
)
def test_the_cause_is_said_in_a_line(error: Exception, message: str) -> None:
    with pytest.raises(UserError) as found, disk_errors("a"):
        raise error
    assert str(found.value).startswith(message)
    assert "\n" not in str(found.value)
    with (
        pytest.raises(DiskError, match=r"write a: .*, then run b$"),
        disk_errors("c", "run b"),
        disk_errors("a"),
    ):
        raise error


def test_other_errors_are_not_of_the_disk() -> None:
    with pytest.raises(SafetensorError, match="not a tensor"), disk_errors("a"):
        raise SafetensorError("not a tensor")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/a", r"nowhere/a: No such file .*Create the folder"),
        ("file/a", r"file/a: Not a directory. A file is in the way"),
        ("folder", r"folder: Is a directory.*A folder is in the way"),
    ],
)
def test_a_place_that_cannot_be_written(name: str, message: str, tmp_path: Path) -> None:
    fill(tmp_path, "old", "file", "folder/a")
    before = tree(tmp_path)
    with pytest.raises(DiskError, match=message):
        write_text(tmp_path / name, "new")
    assert tree(tmp_path) == before
    for place in ("file", "file/a"):
        with (
            pytest.raises(DiskError, match="A file is in the way: choose"),
            replacing_folder(tmp_path / place),
        ):
            pass
    assert tree(tmp_path) == before


def test_no_temporary_path_is_in_a_message(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as found, replacing_folder(tmp_path / "x") as new:
        write_text(new / "sub" / "a", "")
    assert str(found.value).startswith(f"could not write {tmp_path / 'x'}: No such file")
    assert ".writing" not in str(found.value)


# ------------------------------------------------------------------------------- killed processes

forked = pytest.mark.skipif(not hasattr(os, "fork"), reason="the child shares the models")
_EVENTS = {"os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def killed_after(seconds: float, work: Callable[[], None]) -> None:
    """Do the work over and over in a child process that is killed."""
    child = _fork(work, forever=True)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def killed_before(event: int, work: Callable[[], None]) -> bool:
    """Do the work in a child process that is killed before the given change of a folder, counted
    from 0; false if there are not so many.
    """
    status = os.waitpid(_fork(work, event=event), 0)[1]
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


def _fork(work: Callable[[], None], event: int | None = None, forever: bool = False) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # threads of torch: the child uses none
        child = os.fork()
    if child:
        return child
    count = 0

    def hook(name: str, _: object) -> None:
        nonlocal count
        if name in _EVENTS:
            if count == event:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    try:
        sys.addaudithook(hook)
        work()
        while forever:
            work()
        os._exit(0)
    finally:
        os._exit(1)


@forked
@pytest.mark.parametrize("exchange", [True, False])
def test_leftovers_are_removed_and_nothing_is_lost(exchange, tmp_path: Path, monkeypatch) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    folder = fill(tmp_path / "x", "old", "a", "b")

    def write() -> None:
        with replacing_folder(folder, own=()) as new:
            fill(new, "new", "a", "b")

    event = 0
    while killed_before(event, write):
        write_text(tmp_path / "other", "")
        assert {path.name for path in tmp_path.iterdir()} == {"x", "other"}
        assert set(tree(folder).values()) in ({b"old"}, {b"new"})
        fill(folder, "old", "a", "b")
        event += 1
    assert event > 5


def test_what_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    fill(tmp_path, "mine", ".notes.writing/file")
    with replacing_folder(tmp_path / "x") as new:
        write_text(tmp_path / "y", "")
        with replacing_folder(tmp_path / "x") as other:
            fill(other, "first", "a")
        fill(new, "second", "b")
    assert tree(tmp_path / "x") == {"b": b"second"}
    assert {path.name for path in tmp_path.iterdir()} == {"x", "y", ".notes.writing"}


def _saved(kind: str) -> tuple[list[Callable[[Path], None]], Callable[[Path], object]]:
    """Two models of a kind that differ in every file, and what loads them."""
    torch.manual_seed(0)
    vaes = [tiny.vae(), tiny.vae(latent_dim=4)]
    vaes[0].card, vaes[1].card = "# one", "# other"
    vaes[0].default_prior = StandardPrior(vaes[0].config.latent_dim)
    if kind == "vae":
        return [vae.save_pretrained for vae in vaes], LlaMaVAE.from_pretrained
    vae = vaes[0]
    cvaes = [
        InvertibleCVAE.build(vae, LabelCondition({"side": values}), "maf", blocks=1, hidden=(8,))
        for values in (["left", "right"], ["a", "b", "c"])
    ]
    cvaes[0].vocabulary = ["one"]
    cvaes[0].inverse = {"slope": torch.zeros(2, tiny.LATENT), "mean": torch.zeros(2)}
    return [c.save_pretrained for c in cvaes], lambda path: InvertibleCVAE.from_pretrained(
        path, vae
    )


@forked
@pytest.mark.parametrize("kind", ["vae", "cvae"])
def test_a_killed_save_leaves_a_whole_model(kind: str, tmp_path: Path) -> None:
    (save, save_other), load = _saved(kind)
    whole = []
    for number, write in enumerate((save, save_other)):
        write(tmp_path / str(number))
        whole.append(tree(tmp_path / str(number)))
    assert all(whole[0][name] != whole[1].get(name) for name in whole[0])
    folder = tmp_path / "saved" / "model"
    save(folder)
    fill(folder, "mine", "notes", "state/notes")
    mine = {"notes": b"mine", "state/notes": b"mine"}
    allowed = [content | mine for content in whole]
    start = time.perf_counter()

    def both() -> None:
        save_other(folder)
        save(folder)

    both()
    seconds = time.perf_counter() - start
    generator = random.Random(0)
    for _ in range(4):
        killed_after(generator.uniform(0, 3 * seconds), both)
        assert tree(folder) in allowed
        load(folder)
    save(folder)
    seen = []
    while killed_before(len(seen), lambda: save_other(folder)):
        seen.append(allowed.index(tree(folder)))
    assert seen[0] == 0
    assert seen[-1] == 1
    assert seen == sorted(seen)  # old until it is new
    assert tree(folder) == allowed[1]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_text_in_csv_is_not_a_formula(tmp_path):
    cells = ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", "a=1", "", -1, -2.5, None]
    names = [f"{sign}{number}" for number, sign in enumerate("=+-@abcdefg")]
    path = write_csv([dict(zip(names, cells, strict=True))], tmp_path / "a.csv")
    with path.open(encoding="utf-8", newline="") as file:
        head, row = csv.reader(file)
    assert head == [f"'{name}" for name in names[:4]] + names[4:]
    assert row == [f"'{text}" for text in cells[:6]] + ["a=1", "", "-1", "-2.5", ""]


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty LLAMAVAE_CACHE is not the working directory, and `~` is the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, expected in (
        ("", tmp_path / ".cache" / "llamavae"),
        ("~/x", tmp_path / "x"),
        ("/y", Path("/y")),
    ):
        monkeypatch.setenv("LLAMAVAE_CACHE", value)
        assert files.cache_folder() == expected


def test_names_that_are_not_in_utf8_can_be_written(tmp_path: Path) -> None:
    values = {"file": "caf\udce9.txt"}
    write_json(tmp_path / "a.json", values)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == values
    write_csv([values], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").split() == ["file", r"caf\udce9.txt"]
