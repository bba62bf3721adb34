"""What a command must not wait for: packages that take seconds to import and are not used."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import sys
from llamavae import InvertibleCVAE, LlaMaVAE

def imported():
    slow = ("sentence_transformers", "sklearn", "peft", "matplotlib", "datasets")
    return [name for name in slow if name in sys.modules]

LlaMaVAE.from_pretrained("mini").reconstruct(["a dog"])
print("a model:", imported())
InvertibleCVAE.from_pretrained("mini-definitions").generate(["dog"])
print("a definition:", imported())
"""


def test_what_is_not_used_is_not_imported():
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["a model: []", "a definition: []"]


_SERVICE = """
import sys
import llamavae.cli.serve, llamavae.serving.server, llamavae.serving.worker
print("before the model is being loaded:", "torch" in sys.modules)
import llamavae.explorer.routes, llamavae.serving.app
print("before it is loaded:", [n for n in ("transformers", "sklearn", "nltk") if n in sys.modules])
"""


def test_a_service_listens_before_slow_imports():
    done = subprocess.run(
        [sys.executable, "-c", _SERVICE], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "before the model is being loaded: False",
        "before it is loaded: []",
    ]
