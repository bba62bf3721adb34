from __future__ import annotations

import json
import re

import pytest

from llamavae.cli.output import note, show_error, write
from llamavae.terminal import printable

EVIL = "red \x1b[31m title \x1b]0;x\x07 \x9b2J \r\x08 \u202eback \ud800 \x7f end"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def test_control_characters_become_visible() -> None:
    assert not CONTROL.search(printable(EVIL))
    assert printable("\x1b[2J\x9b") == r"\u001b[2J\u009b"


@pytest.mark.parametrize(
    "text", ["a\tb\nc", "日本語", "naïve", "👩\u200d🔬", "می\u200cخواهم", "[red]"]
)
def test_other_text_is_unchanged(text: str) -> None:
    assert printable(text) == text


def test_results_and_messages_have_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(False, EVIL, EVIL, text=EVIL)
    write(True, text=EVIL)
    note(EVIL)
    show_error(EVIL)
    out, err = capsys.readouterr()
    assert not CONTROL.search(out + err)
    assert json.loads(out.splitlines()[1]) == {"text": EVIL}


def test_further_lines_of_a_message_are_indented(capsys: pytest.CaptureFixture[str]) -> None:
    show_error("found a\nerror: b\n  c")
    assert capsys.readouterr().err == "error: found a\n  error: b\n  c\n"
