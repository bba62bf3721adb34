from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import typer

from llamavae import __version__
from llamavae.cli.app import app

VERBS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_all_verbs_are_there() -> None:
    assert VERBS == [
        "arithmetic",
        "check",
        "compare",
        "corpora",
        "decode",
        "define",
        "demo",
        "encode",
        "evaluate",
        "fit-condition",
        "fit-prior",
        "guide",
        "interpolate",
        "models",
        "neighbours",
        "recipes",
        "reconstruct",
        "report",
        "reverse",
        "sample",
        "score",
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
