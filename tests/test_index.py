"""An index finds what exact search finds, and is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests import tiny
from typer.testing import CliRunner

import llamavae.index as module
from llamavae import LlaMaVAE
from llamavae.bulk import encode_file
from llamavae.check import check_folder
from llamavae.cli.app import app
from llamavae.errors import UserError
from llamavae.index import Index, build_index

pytest.importorskip("faiss", reason="faiss is not installed")

WORDS = ("dog", "cat", "owl", "baker", "river", "letter", "park", "bread")
SENTENCES = [f"the {a} sees the {b} {n}" for n in range(20) for a in WORDS for b in WORDS]


@pytest.fixture(scope="module")
def model() -> LlaMaVAE:
    """A tiny model."""
    return tiny.vae().eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The sentences in two files, with blank lines."""
    folder = tmp_path_factory.mktemp("sentences")
    paths = [folder / "one.txt", folder / "two.txt"]
    paths[0].write_text("\n\n".join(SENTENCES[:500]), encoding="utf-8")
    paths[1].write_text("\n".join(SENTENCES[500:]), encoding="utf-8")
    return paths


@pytest.fixture(scope="module")
def small(model: LlaMaVAE, files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An exact index."""
    return build_index(model, files, tmp_path_factory.mktemp("small") / "index")


def test_skipped_lines_are_counted(model, tmp_path, caplog):
    path = tmp_path / "a.txt"
    path.write_text("a dog\n\n \na cat\n")
    assert build_index(model, [path], tmp_path / "index").sentences == 2
    assert f"{path}: skipped 2 blank lines" in caplog.text


def test_few_sentences_are_searched_exactly(small, model):
    assert (small.sentences, small.cells) == (len(SENTENCES), 0)
    for query in (SENTENCES[3], "an owl reads a letter"):
        expected = model.neighbours(query, SENTENCES, 7)
        found = small.neighbours(model.latent_code(query), 7)
        assert [cosine for _, cosine, _ in found] == pytest.approx(
            [cosine for _, cosine in expected], abs=1e-5
        )
        assert [text for _, _, text in found] == [SENTENCES[number] for number, _, _ in found]


def test_many_sentences_are_searched_in_cells(model, files, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_EXACT", 1000)
    monkeypatch.setattr(module, "_PER_CELL", 8)  # as many as there are
    index = build_index(model, files, tmp_path / "index")
    assert index.cells == 128
    z = model.encode(SENTENCES).mean
    unit = torch.nn.functional.normalize(z, dim=1)
    best = (unit @ unit.T).topk(10).values.numpy()
    recalls = []
    for index.probes in (1, 16, 128):
        cosines, numbers = index.search(z, 10)
        assert numbers.shape == (len(SENTENCES), 10)
        recalls.append(float((cosines > best[:, 9:] - 1e-3).mean()))
    assert recalls[0] < recalls[1] <= recalls[2]
    assert recalls[2] > 0.999
    assert {path.name for path in (tmp_path / "index").iterdir() if path.name[0] != "."} == {
        "codes.faiss",
        "index.json",
        "manifest.json",
        "texts.parquet",
    }


def test_codes_of_a_file_are_not_encoded_again(model, files, tmp_path, monkeypatch):
    encode_file(model, files[0], tmp_path / "codes.parquet")
    monkeypatch.setattr(LlaMaVAE, "encode", None)
    index = build_index(model, [tmp_path / "codes.parquet"], tmp_path / "index")
    assert index.texts([0, 499, 7]) == [SENTENCES[0], SENTENCES[499], SENTENCES[7]]


def test_codes_of_another_model(small, files, tmp_path):
    other = tiny.vae(latent_dim=5).eval()
    encode_file(other, files[1], tmp_path / "codes.parquet")
    with pytest.raises(UserError, match="built with another model"):
        small.check_model(other)
    model = tiny.vae().eval()
    with pytest.raises(UserError, match="was encoded by another model"):
        build_index(model, [tmp_path / "codes.parquet"], tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_codes_of_another_size(model, tmp_path):
    table = pa.table({"text": ["a dog", "a cat"], "z": [[0.1] * 3, [0.2] * 3]})
    pq.write_table(table, tmp_path / "codes.parquet")  # without the fingerprint of a model
    with pytest.raises(UserError, match="expected codes of 6 dimensions, as this model has; got 3"):
        build_index(model, [tmp_path / "codes.parquet"], tmp_path / "index")


def test_a_single_sentence_and_its_copies(model, tmp_path):
    for count in (1, 3):
        (tmp_path / "texts.txt").write_text("a dog\n" * count)
        index = build_index(model, [tmp_path / "texts.txt"], tmp_path / "index")
        found = index.neighbours(model.latent_code("a dog"), 5)
        assert sorted(number for number, _, _ in found) == list(range(count))
        assert {text for _, _, text in found} == {"a dog"}


@pytest.mark.parametrize("name", ["codes.faiss", "texts.parquet"])
def test_damage_is_found_without_a_manifest(name, model, tmp_path):
    (tmp_path / "texts.txt").write_text("a dog\n")
    build_index(model, [tmp_path / "texts.txt"], tmp_path / "index")
    (tmp_path / "index" / "manifest.json").unlink()
    (tmp_path / "index" / name).write_bytes(b"none")
    with pytest.raises(UserError, match=r"is damaged: .* Build the index again"):
        Index(tmp_path / "index")
    (tmp_path / "index" / name).unlink()
    with pytest.raises(UserError, match=rf"is damaged: .*{name}"):
        Index(tmp_path / "index")


def test_a_build_that_fails_leaves_the_old_index(model, files, tmp_path):
    build_index(model, files[:1], tmp_path / "index")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(model, files, tmp_path / "index", progress=interrupt)
    assert Index(tmp_path / "index").sentences == 500
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    with pytest.raises(KeyboardInterrupt):
        build_index(model, files, tmp_path / "new", progress=interrupt)
    assert not (tmp_path / "new").exists()


def test_damage_is_found(model, files, tmp_path):
    folder = tmp_path / "index"
    build_index(model, files[1:], folder)
    assert check_folder(folder).damaged == {}
    with (folder / "codes.faiss").open("r+b") as file:
        file.seek(200)
        file.write(b"\0\1\2\3")
    assert list(check_folder(folder).damaged) == [folder / "codes.faiss"]
    with pytest.raises(UserError, match=r"codes\.faiss has other contents"):
        Index(folder)


def test_what_is_no_index(tmp_path, model, small):
    with pytest.raises(UserError, match="is not an index"):
        Index(tmp_path)
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UserError, match="has none"):
        build_index(model, [tmp_path / "empty.txt"], tmp_path / "index")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="never overwritten"):
        build_index(model, [tmp_path / "empty.txt"], tmp_path / "other")
    with pytest.raises(UserError, match=r"expected codes of shape \(Q, 6\)"):
        small.search(torch.zeros(1, 3))
    with pytest.raises(UserError, match="k must be"):
        small.search(torch.zeros(1, 6), 0)


def test_the_commands(files, tmp_path):
    tiny.vae(embed_backbones=True).save_pretrained(tmp_path / "model")

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="llamavae")
        assert result.exit_code == 0, result.output
        return result.stdout

    options = ("-m", tmp_path / "model")
    run("index", *files, *options, "-o", tmp_path / "index")
    query = SENTENCES[600]
    found = run("neighbours", query, "--index", tmp_path / "index", *options, "-k", 3, "--json")
    lines = [json.loads(line) for line in found.splitlines()]
    assert lines[0]["text"] == SENTENCES[lines[0]["index"]]
    assert lines[0]["cosine"] == pytest.approx(1, abs=1e-5)
    exact = run("neighbours", query, "--file", files[1], *options, "-k", 3, "--json")
    cosines = [json.loads(line)["cosine"] for line in exact.splitlines()]
    assert np.all([each["cosine"] for each in lines] >= np.array(cosines) - 1e-5)
