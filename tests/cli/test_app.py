from __future__ import annotations

import gc
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer

from llamavae import __version__
from llamavae.cli import app as cli
from llamavae.cli import output
from llamavae.cli.app import app
from llamavae.cli.options import ModelOptions

VERBS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_all_verbs_are_there() -> None:
    assert VERBS == [
        "arithmetic",
        "average",
        "check",
        "compare",
        "corpora",
        "decode",
        "define",
        "demo",
        "encode",
        "evaluate",
        "explore",
        "fit-condition",
        "fit-prior",
        "guide",
        "index",
        "interpolate",
        "models",
        "neighbours",
        "plan",
        "recipes",
        "reconstruct",
        "report",
        "reverse",
        "sample",
        "score",
        "serve",
        "steer",
        "study",
        "sweep",
        "train",
        "translate",
        "traverse",
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_option_has_help(verb: str, run: Any) -> None:
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", "") or parameter.name == "help", parameter.name
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert "Usage: llamavae" in result.stdout
    assert "object at 0x" not in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["train", "--help-all"], ["evaluate", "--help"], ["recipes"]],
)
def test_quick_commands_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = {['llamavae', *arguments]}\n"
        "from llamavae.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pyarrow'}\n"
        "    print(end.code, heavy & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 set()"


def test_version(run: Any) -> None:
    assert run("--version").stdout == f"llamavae {__version__}\n"


def test_no_arguments_show_the_help(run: Any) -> None:
    assert "Commands" in run().stdout


@pytest.mark.parametrize("arguments", [["recontruct"], ["sample", "--beam", "2"], ["sample", "x"]])
def test_wrong_usage_ends_with_2(arguments: list[str], run: Any) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: llamavae" in result.stderr


def test_an_error_of_the_user_is_one_message(run: Any) -> None:
    result = run("reconstruct", "--model", "/nowhere/at/all", "a dog")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: there is no folder /nowhere/at/all")
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(run: Any) -> None:
    result = run("--debug", "reconstruct", "--model", "/nowhere/at/all", "a dog")
    assert type(result.exception).__name__ == "UserError"


def test_errors_keep_square_brackets(run: Any) -> None:
    result = run("reconstruct", "--model", "/nowhere/[bold]x[/bold]/y", "a dog")
    assert "/nowhere/[bold]x[/bold]/y" in result.stderr


# ------------------------------------------------------------------------------ true processes


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "llamavae"]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"llamavae {__version__}\n"
    wrong = subprocess.run([*command, "recontruct"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "Usage: llamavae" in wrong.stderr


def test_user_error_of_a_process(start: Any) -> None:
    process = start("reconstruct", "a", "--file", "b")
    out, err = process.communicate(timeout=250)
    assert (process.returncode, out) == (2, "")
    assert err == "error: expected texts or --file, not both\n"


def test_broken_pipe_is_silent(start: Any) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `| head -0` does
    process = start("corpora", stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=250)
    assert (process.returncode, err) == (141, "")


@pytest.mark.timeout(300)  # loads torch in a process of its own
def test_results_stream_and_ctrl_c_ends_in_one_line(start: Any) -> None:
    process = start("reconstruct", "--batch-size", 1, "--json", "-", stdin=subprocess.PIPE)
    for text in ("a dog", "a lemon é"):
        process.stdin.write(f"{text}\n")
        process.stdin.flush()
        line = process.stdout.readline()  # comes before the next line is written
        assert f'"text": "{text}"' in line
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=250) == 130
    assert process.stderr.read() == "interrupted\n"


@pytest.fixture
def entry(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Run `main` with arguments; gives the exit status."""
    monkeypatch.setenv("LLAMAVAE_MODEL", str(model_folder))
    monkeypatch.setattr(cli, "_discard_output", lambda: None)  # pytest needs its descriptors
    handler, thresholds = signal.getsignal(signal.SIGTERM), gc.get_threshold()

    def enter(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["llamavae", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0)

    yield enter
    signal.signal(signal.SIGTERM, handler)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_sigterm(
    entry: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminated(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ModelOptions, "load", terminated)
    assert entry("reconstruct", "a dog") == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "terminated\n"


@pytest.mark.parametrize("command", ["recipes", "recipes show small", "corpora", "models"])
def test_a_closed_output(
    command: str,
    entry: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert entry(*command.split()) == 2
    assert "standard output is closed" in capsys.readouterr().err


def test_output_in_ascii(entry: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert entry("encode", "größe") == 0
    assert json.loads(written.getvalue())["text"] == "größe"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_full_disk(
    option: str,
    entry: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with suppress(OSError), Path("/dev/full").open("w") as full:  # closing it fails as well
        monkeypatch.setattr(sys, "stdout", full)
        assert entry(option) == 2
    assert capsys.readouterr().err == "error: No space left on device\n"


def test_warnings_are_messages(capsys):
    output._show_warning(UserWarning("a\x1b[31m warning"), UserWarning, "file.py", 3)
    assert capsys.readouterr().err == "warning: a\\u001b[31m warning\n"
