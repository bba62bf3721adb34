"""Processor seconds of the parts of `llamavae reconstruct --model mini`.

python -m benchmarks.parts
"""

from __future__ import annotations

import time
from importlib import import_module


def parts() -> dict[str, float]:
    """Processor seconds of each part in this process, which has imported none of the packages."""
    found: dict[str, float] = {}
    last = 0.0

    def mark(part: str) -> None:
        nonlocal last
        now = time.process_time()
        found[part], last = now - last, now

    import_module("llamavae.cli.app")
    mark("Python and the command line")
    import_module("torch")
    mark("import of torch")
    import_module("transformers.utils")
    mark("import of transformers")
    import_module("transformers.modeling_utils")
    mark("import of the base class of its models")
    kind = import_module("llamavae").LlaMaVAE
    mark("import of LlaMaVAE")
    model = kind.from_pretrained("mini")
    mark("loading")
    model.reconstruct("a dog is a kind of animal")
    mark("a reconstruction")
    return found


if __name__ == "__main__":
    taken = parts()
    for name, seconds in [*taken.items(), ("sum", sum(taken.values()))]:
        print(f"{seconds:5.2f} {name}")
