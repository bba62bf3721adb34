import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults import inputs


def test_odd_input_is_read_rightly_or_refused():
    rows = inputs.run(60, 1)
    assert len(rows) == 60
    assert not [row for row in rows if row["outcome"] not in ("right", "refused")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("redirection", "status", "message"),
    [
        ("> /dev/full", 2, "No space left on device"),
        (">&-", 2, "standard output is closed"),
        ("| head -c 3 > /dev/null; exit ${PIPESTATUS[0]}", 141, ""),
        ("2>&- < /dev/null", 2, ""),
    ],
)
def test_output_that_cannot_be_written(redirection, status, message):
    lines = "" if "<" in redirection else "yes 'a dog' | head -n 200 |"
    result = subprocess.run(
        ["bash", "-c", f"{lines} {sys.executable} -m llamavae reconstruct -m mini {redirection}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == status
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == (1 if message else 0)
