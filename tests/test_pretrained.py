"""The models that come with the library: found by name, complete, small, and themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from llamavae import InvertibleCVAE, LlaMaVAE
from llamavae.pretrained import DEFINITIONS, MODELS, bundled, bundled_names

MEGABYTES = 30  # of each
SENTENCE = "a dog is a kind of animal"


@pytest.fixture(scope="module")
def mini() -> LlaMaVAE:
    return LlaMaVAE.from_pretrained("mini")


@pytest.fixture(scope="module")
def definitions() -> InvertibleCVAE:
    return InvertibleCVAE.from_pretrained("mini-definitions")


def test_the_names() -> None:
    assert {"mini", "mini-definitions"} <= set(bundled_names()) <= {*MODELS, *DEFINITIONS}
    assert bundled("mimi") is None


def places(path: Path) -> list[str]:
    """Absolute paths in a text file."""
    return re.findall(r"[\"'`= ](/\w+/[\w./-]+)", path.read_text(encoding="utf-8"))


def test_they_are_small_and_carry_no_place_of_a_machine() -> None:
    for folder in [folder for name in bundled_names() if (folder := bundled(name))]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < MEGABYTES * 2**20
        for path in files:
            if path.suffix in (".json", ".md", ".txt"):
                assert places(path) == [], path


def test_nor_do_the_results_of_their_runs() -> None:
    found = list((Path(__file__).parents[1] / "pretrained").glob("*/results.json"))
    assert found
    for path in found:
        assert places(path) == [], path


def test_mini_works_in_float32_though_it_is_kept_in_bfloat16(mini: LlaMaVAE) -> None:
    assert {p.dtype for p in mini.parameters()} == {torch.float32}
    assert all(torch.equal(p, p.bfloat16().float()) for p in mini.parameters())


def test_mini_brings_a_sentence_back(mini: LlaMaVAE) -> None:
    written = mini.reconstruct([SENTENCE])[0]
    assert {"dog", "animal"} <= set(written.split())


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="llama"):
        LlaMaVAE.from_pretrained("mini")


def test_mini_definitions_is_of_mini(definitions: InvertibleCVAE, mini: LlaMaVAE) -> None:
    assert definitions.vae.name_or_path == "mini"
    again = InvertibleCVAE.from_pretrained("mini-definitions", mini)
    assert again.generate(["river"], spread=0) == definitions.generate(["river"], spread=0)


def test_mini_definitions_ranks_words(definitions: InvertibleCVAE) -> None:
    words = ["a large natural stream of water", "a musical instrument with strings"]
    z = definitions.vae.encode(words).mean
    scores = definitions.scores(z, ["river", "violin"])
    assert scores.argmax(1).tolist() == [0, 1]
