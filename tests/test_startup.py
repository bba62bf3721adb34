"""What a command must not wait for: packages that take seconds to import and are not used."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SLOW = ("sentence_transformers", "sklearn", "peft", "matplotlib")
_MODEL = "from llamavae import LlaMaVAE; LlaMaVAE.from_pretrained('mini').reconstruct(['a dog'])"
_DEFINE = (
    "from llamavae import InvertibleCVAE; "
    "InvertibleCVAE.from_pretrained('mini-definitions').generate(['dog'])"
)


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        (_MODEL, (*_SLOW, "datasets")),
        (_DEFINE, (*_SLOW, "datasets")),
    ],
)
def test_what_is_not_used_is_not_imported(code, heavy):
    code = f"{code}\nimport sys\nprint([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
