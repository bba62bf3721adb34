from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests import tiny

from llamavae import LlaMaVAE


@pytest.fixture(scope="module")
def model(model_folder: Path) -> LlaMaVAE:
    return LlaMaVAE.from_pretrained(model_folder)


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("\n\n".join(tiny.SENTENCES) + "\n")
    return path


def test_encode_writes_json(run: Any, model: LlaMaVAE) -> None:
    result = run("encode", *tiny.SENTENCES[:2])
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    posterior = model.encode(tiny.SENTENCES[:2])
    assert [row["text"] for row in rows] == tiny.SENTENCES[:2]
    np.testing.assert_allclose([row["mean"] for row in rows], posterior.mean, atol=1e-5)
    np.testing.assert_allclose([row["logvar"] for row in rows], posterior.logvar, atol=1e-5)


def test_decode_is_the_way_back(run: Any, model: LlaMaVAE, sentences: Path, tmp_path: Path) -> None:
    expected = run("reconstruct", "--file", sentences).stdout
    codes, array = tmp_path / "codes.parquet", tmp_path / "codes.npy"
    written = run("encode", "--file", sentences, "--output", codes)
    assert written.exit_code == 0, written.stderr
    assert f"8 sentences are in {codes}; 7 blank lines skipped" in written.stderr
    assert written.stdout == ""
    np.save(array, model.encode(tiny.SENTENCES).mean.numpy())
    lines = run("encode", "--file", sentences).stdout
    assert run("decode", "--file", codes).stdout == expected
    assert run("decode", "--file", array).stdout == expected
    assert run("decode", stdin=lines).stdout == expected
    rows = [json.loads(x) for x in run("decode", "--json", "--file", codes).stdout.splitlines()]
    assert [row["id"] for row in rows] == list(range(1, 16, 2))


def test_several_texts_of_a_code(run: Any) -> None:
    rows = run("decode", "--json", "-n", 2, "--seed", 1, stdin="[0,0,0,0,0,0]\n[1,1,1,1,1,1]\n")
    assert [json.loads(line)["id"] for line in rows.stdout.splitlines()] == [1, 1, 2, 2]


def test_truncated_sentences_are_reported(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("short\n" + "long " * 5000 + "\n")
    result = run("encode", "--file", file, "--output", tmp_path / "a.parquet")
    assert "1 truncated to the encoder's maximum length" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["encode", "a", "--output", "a.parquet"], "", "--output requires a file"),
        (["encode", "--output", "a.parquet"], "a dog\n", "--output requires a file"),
        (["encode"], "", "found no text"),
        (["encode", "--file", "sentences.txt", "--output", "a.csv"], "", "name it a.parquet"),
        (["decode"], "", "standard input: found no latent codes"),
        (["decode"], "a dog\n", "standard input:1: not valid JSON"),
        (["decode"], "[1, 2]\n", "expected latent codes of shape (B, 6); got (1, 2)"),
        (["decode", "--file", "nothing.npy"], "", "no such file: nothing.npy"),
    ],
)
def test_bad_input(
    run: Any,
    sentences: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    stdin: str,
    message: str,
) -> None:
    monkeypatch.chdir(sentences.parent)
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.timeout(300)  # loads torch in a process of its own
def test_bulk_encoding_that_is_killed_resumes_to_the_same_file(
    run: Any, start: Any, tmp_path: Path
) -> None:
    file = tmp_path / "many.txt"
    file.write_text("".join(f"{text} {n}\n" for n in range(1100) for text in tiny.SENTENCES))
    killed, whole = tmp_path / "killed.parquet", tmp_path / "whole.parquet"
    process = start("encode", "--file", file, "--output", killed)
    first = killed.with_name("killed.parquet.partial") / "part-000000.parquet"
    while not first.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not killed.exists()
    resumed = run("encode", "--file", file, "--output", killed)
    assert "from an interrupted run" in resumed.stderr
    assert run("encode", "--file", file, "--output", whole).exit_code == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert len(pq.read_table(killed)) == 8800
