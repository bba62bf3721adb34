"""What every test and docstring example starts from: no network, a seed and empty caches."""

from __future__ import annotations

import gc
import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    import torch

# A time limit for one example fails on a busy machine; CI tries the same examples every time.
hypothesis.settings.register_profile(
    "tests", deadline=None, max_examples=50, derandomize="CI" in os.environ
)
hypothesis.settings.load_profile("tests")
_checked: set[tuple[object, ...]] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of the tests that can use one (cuda)")


def pytest_collection_finish() -> None:
    """What was imported stays to the end: the garbage collector need not look through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device named on the command line."""
    import torch

    return torch.device(str(request.config.getoption("--device")))


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch  # not above: the process that distributes the tests has no use for it

    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _checks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each kind of decoder is self-checked once per process, and not for each model of a test."""
    if request.path.name == "test_selfcheck.py":
        yield
        return
    from llamavae.modeling.base import SentenceVAE
    from llamavae.modeling.selfcheck import check_decoder

    def once(model: SentenceVAE) -> None:
        lm, config = model.decoder.lm, model.config
        kind = type(lm), str(lm.dtype), config.injection, config.slots, lm.config.to_json_string()
        if kind not in _checked:
            check_decoder(model)
            _checked.add(kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llamavae.modeling.llamavae.check_decoder", once)
        yield


@pytest.fixture(scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders for the caches; `mktemp` for each would list those of all tests each time."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def cache_dir(_caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own, so that nothing reads or writes the user's."""
    folder = next(_caches)
    folder.mkdir()
    monkeypatch.setenv("LLAMAVAE_CACHE", str(folder / "llamavae"))
    for name in ("LLAMAVAE_MODEL", "LLAMAVAE_GUIDE", "LLAMAVAE_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "datasets")
    return folder
