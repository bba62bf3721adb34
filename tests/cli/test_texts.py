from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests import passes, tiny

from llamavae import LlaMaVAE
from llamavae.terminal import printable

A, B, C = tiny.SENTENCES[:3]


@pytest.fixture(scope="module")
def model(model_folder: Path) -> LlaMaVAE:
    return LlaMaVAE.from_pretrained(model_folder)


def records(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def lines(texts: list[str]) -> list[str]:
    """Texts as people see them."""
    return [printable(" ".join(text.split())) for text in texts]


# ---------------------------------------------------------------------------- every verb is a call


def test_reconstruct(run: Any, model: LlaMaVAE) -> None:
    expected = model.reconstruct([A, B])
    assert run("reconstruct", A, B).stdout.split("\n") == [*lines(expected), ""]
    assert records(run("reconstruct", A, B, "--json")) == [
        {"text": A, "reconstruction": expected[0]},
        {"text": B, "reconstruction": expected[1]},
    ]


def test_several_samples_of_each_text(run: Any) -> None:
    command = ("reconstruct", A, B, "--json", "-n", 3, "--temperature", 1.5, "--seed", 3)
    first, second = records(run(*command)), records(run(*command))
    assert [row["text"] for row in first] == [A, A, A, B, B, B]
    assert len({row["reconstruction"] for row in first[:3]}) > 1
    assert first == second


def test_sample(run: Any, model: LlaMaVAE) -> None:
    expected = model.sample(5, spread=0.5, seed=7)
    command = ("sample", 5, "--spread", 0.5, "--seed", 7, "--json")
    assert [row["text"] for row in records(run(*command))] == expected
    assert [row["text"] for row in records(run(*command, "--batch-size", 2))] == expected


@pytest.mark.parametrize("mode", ["linear", "slerp"])
def test_interpolate(run: Any, model: LlaMaVAE, mode: Any) -> None:
    expected = model.interpolate(A, B, steps=5, mode=mode)
    rows = records(run("interpolate", A, B, "--steps", 5, "--mode", mode, "--json"))
    assert [row["text"] for row in rows] == expected
    assert [row["position"] for row in rows] == [0, 0.25, 0.5, 0.75, 1]
    human = run("interpolate", A, B, "--steps", 5, "--mode", mode).stdout
    assert human.splitlines()[1].startswith("0.25\t")


def test_traverse(run: Any, model: LlaMaVAE) -> None:
    expected = model.traverse(A, dim=2, steps=3) + model.traverse(B, dim=2, steps=3)
    rows = records(run("traverse", "--dim", 2, "--steps", 3, "--json", stdin=f"{A}\n{B}\n"))
    assert [row["text"] for row in rows] == expected
    assert [row["start"] for row in rows] == [A] * 3 + [B] * 3
    assert [row["value"] for row in rows[:3]] == pytest.approx([-1.96, 0, 1.96], abs=0.001)


def test_arithmetic(run: Any, model: LlaMaVAE) -> None:
    expected = model.arithmetic(A, B, C)
    assert records(run("arithmetic", A, B, C, "--json")) == [
        {"a": A, "b": B, "c": C, "text": expected[0]}
    ]


def test_average(run: Any, model: LlaMaVAE) -> None:
    rows = records(run("average", A, B, "--weight", 3, "--weight", 1, "--json"))
    assert rows == [{"texts": [A, B], "text": model.average([A, B], [3, 1])[0]}]
    assert records(run("average", A, B, "--json"))[0]["text"] == model.average([A, B])[0]


def test_steer(run: Any, model: LlaMaVAE, tmp_path: Path) -> None:
    for name, texts in (("yes", f"{A}\n{B}\n"), ("no", f"{C}\n")):
        (tmp_path / name).write_text(texts)
    files = ("--towards", tmp_path / "yes", "--away-from", tmp_path / "no")
    direction = model.direction([A, B], [C])
    rows = records(run("steer", A, C, *files, "--strength", 2, "--json"))
    expected = model.steer([A, C], direction, 2)
    assert rows == [{"text": t, "steered": s} for t, s in zip([A, C], expected, strict=True)]
    assert run("steer", A, *files, "--strength", "nan").exit_code == 2


def test_average_needs_a_weight_for_each_text(run: Any) -> None:
    result = run("average", A, B, "--weight", 3)
    assert result.exit_code == 2
    assert "expected a --weight for each of 2 texts; got 1" in result.stderr


def test_refined_codes(run: Any, model: LlaMaVAE, tmp_path: Path) -> None:
    """`--refine` is the argument of the methods, on every verb that encodes."""
    steps = ("--refine", 2, "--json")
    rows = records(run("reconstruct", A, B, *steps))
    assert [row["reconstruction"] for row in rows] == model.reconstruct([A, B], refine=2)
    rows = records(run("interpolate", A, B, "--steps", 3, *steps))
    assert [row["text"] for row in rows] == model.interpolate(A, B, 3, refine=2)
    rows = records(run("traverse", "--dim", 1, A, "--steps", 2, *steps))
    assert [row["text"] for row in rows] == model.traverse(A, 1, 2, refine=2)
    rows = records(run("arithmetic", A, B, C, *steps))
    assert [row["text"] for row in rows] == model.arithmetic(A, B, C, refine=2)
    rows = records(run("average", A, B, *steps))
    assert [row["text"] for row in rows] == model.average([A, B], refine=2)
    found = records(run("neighbours", A, "-k", 2, *steps, stdin=f"{A}\n{B}\n{C}\n"))
    expected = model.neighbours(A, [A, B, C], 2, refine=2)
    assert [row["index"] for row in found] == [index for index, _ in expected]
    row = records(run("encode", A, "--refine", 2))[0]
    assert row["mean"] == pytest.approx(model.encode(A, refine=2).mean[0].tolist(), abs=2e-3)
    file, codes = tmp_path / "a.txt", tmp_path / "a.parquet"
    file.write_text(f"{A}\n{B}\n")
    assert run("encode", "--file", file, "--output", codes, "--refine", 2).exit_code == 0
    assert (
        records(run("decode", "--file", codes, "--json"))[0]["text"]
        == (model.decode(model.encode([A, B], refine=2).mean)[0])
    )
    assert run("encode", A, "--refine", -1).exit_code == 2


@pytest.mark.parametrize("refine", [0, 1])
@pytest.mark.parametrize("verb", ["encode", "reconstruct", "average", "steer", "neighbours"])
def test_batch_size_limits_each_forward_pass(
    run: Any, tmp_path: Path, verb: str, refine: int
) -> None:
    file = tmp_path / "sentences.txt"
    file.write_text("\n".join(tiny.SENTENCES) + "\n")
    more = {"steer": ("--towards", file, "--away-from", file), "neighbours": (A,)}.get(verb, ())
    with passes.row_counts() as rows:
        options = ("--file", file, "--refine", refine, "--batch-size", 2)
        assert run(verb, *more, *options).exit_code == 0
    assert max(rows) == 2


def test_neighbours_in_a_file_in_stdin_and_in_codes(
    run: Any, model: LlaMaVAE, tmp_path: Path
) -> None:
    file, codes = tmp_path / "sentences.txt", tmp_path / "codes.parquet"
    file.write_text("\n".join(tiny.SENTENCES) + "\n")
    expected = model.neighbours(A, tiny.SENTENCES, k=3)
    assert run("encode", "--file", file, "--output", codes).exit_code == 0
    answers = [
        records(run("neighbours", A, "-k", 3, "--json", "--file", file)),
        records(run("neighbours", A, "-k", 3, "--json", "--file", codes)),
        records(run("neighbours", A, "-k", 3, "--json", stdin=file.read_text())),
    ]
    for rows in answers:
        assert [row["index"] for row in rows] == [index for index, _ in expected]
        assert [row["cosine"] for row in rows] == pytest.approx([c for _, c in expected], abs=1e-4)
        assert rows[0]["text"] == A
    assert len(run("neighbours", A, "--file", file).stdout.splitlines()) == 5


def test_neighbours_are_merged_over_batches(
    run: Any, model: LlaMaVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamavae.cli.texts.SEARCH_BATCH", 2)
    text = "\n".join(tiny.SENTENCES)
    rows = records(run("neighbours", C, "-k", 4, "--batch-size", 2, "--json", stdin=text))
    expected = model.neighbours(C, tiny.SENTENCES, k=4)
    assert [row["index"] for row in rows] == [index for index, _ in expected]


# ------------------------------------------------------------------------------ text in


def test_sources_of_text_agree(run: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{A}\n\n  {B}\n", encoding="utf-8")
    (tmp_path / "plain").write_text(f"{A}\n{B}", encoding="utf-8")
    (tmp_path / "a.csv").write_text(f'id,sentence\n1,"{A}"\n2,"{B}"\n', encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(f'{{"s": "{A}", "n": 1}}\n{{"s": "{B}", "n": 2}}\n')
    expected = run("reconstruct", A, B).stdout
    for arguments, stdin in [
        (["-"], f"{A}\r\n{B}\r\n"),
        ([], f"\ufeff{A}\n \n{B}"),
        (["--file", tmp_path / "a.txt"], ""),
        (["--file", tmp_path / "plain"], ""),
        (["--file", tmp_path / "a.csv", "--column", "sentence"], ""),
        (["--file", tmp_path / "a.jsonl"], ""),
    ]:
        result = run("reconstruct", *arguments, stdin=stdin)
        assert (result.stdout, result.exit_code) == (expected, 0), arguments


def test_unicode_and_very_long_text(run: Any) -> None:
    odd = ["naïve 猫 🦙 \u0645\u0631\u062d\u0628\u0627", "word " * 20_000]
    rows = records(run("reconstruct", "--json", stdin="\n".join(odd)))
    assert [row["text"] for row in rows] == [odd[0], odd[1].strip()]


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["reconstruct"], "", "standard input: found no text"),
        (["reconstruct"], "\n \n", "standard input: found no text"),
        (["reconstruct", " "], "", "text 1 of the arguments is empty"),
        (["reconstruct"], b"good\nbad \xff\n", "standard input:2: invalid UTF-8 byte 0xff"),
        (["reconstruct"], b"\x7fELF\0\0", "standard input:1: contains a NUL byte"),
        (["reconstruct", "--column", "x", "a"], "", "--column requires --file"),
        (["reconstruct", "--file", "missing.txt"], "", "no such file: missing.txt"),
        (["reconstruct", "--file", "."], "", "is a folder"),
        (["reconstruct", "a", "--temperature", "0"], "", "--temperature of at least 1e-06"),
        (["reconstruct", "a", "--temperature", "1e-320"], "", "--temperature of at least 1e-06"),
        (["reconstruct", "a", "--batch-size", "9" * 20], "", "--batch-size must be at most 2147"),
        (["sample", "1" + "0" * 14], "", "--count must be at most 2147483647"),
        (["interpolate", "a", "b", "--steps", "1" + "0" * 12], "", "--steps must be at most"),
        (["interpolate", "a", "b", "--steps", "2000000000"], "", "must be from 2 to 1000000"),
        (["reconstruct", "a", "--model", ""], "", "hub id or name of a model; got '' (an empty"),
        (["reconstruct", "a", "--top-p", "1.5"], "", "--top-p"),
        (["reconstruct", "a", "-n", "3", "--beams", "2"], "", "at most 2 texts"),
        (["reconstruct", "a", "--device", "tpu9"], "", "unknown device 'tpu9'"),
        (["reconstruct", "a", "--device", "cuda:77"], "", "device 'cuda:77' is not available"),
        (["interpolate", "a"], "", "expected 2 texts; got 1"),
        (["interpolate", "a", "b", "--steps", "1"], "", "steps must be from 2 to 1000000; got 1"),
        (["traverse", "a", "--dim", "6"], "", "dim must be from 0 to 5"),
        (["arithmetic", "a", "b"], "", "expected 3 texts; got 2"),
        (["neighbours", "a", "--file", "missing.parquet"], "", "no such file: missing.parquet"),
    ],
)
def test_bad_input(run: Any, arguments: list[str], stdin: str | bytes, message: str) -> None:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "error: " in result.stderr


def test_without_a_model_the_one_of_the_library_is_used(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLAMAVAE_MODEL")
    sentence = "a dog is a kind of animal"
    assert run("reconstruct", sentence).stdout == run("reconstruct", sentence, "-m", "mini").stdout


def test_the_folder_of_a_run_serves_as_model(run: Any, model_folder: Path) -> None:
    expected = run("sample", 2, "--seed", 1).stdout
    assert run("sample", 2, "--seed", 1, "--model", model_folder.parent).stdout == expected


# ------------------------------------------------------------------------------ text out


@pytest.mark.parametrize(
    "options", [["--beams", 3, "-n", 2], ["--top-p", 0.9, "-n", 2, "--seed", 1]]
)
def test_generation_options(run: Any, options: list[Any]) -> None:
    assert len(records(run("reconstruct", A, "--json", *options))) == 2


def test_max_new_tokens(run: Any) -> None:
    (short,) = records(run("reconstruct", A, "--json", "--max-new-tokens", 1))
    (long,) = records(run("reconstruct", A, "--json"))
    assert len(short["reconstruction"]) < len(long["reconstruction"])


def test_dtype(run: Any) -> None:
    assert run("reconstruct", A, "--dtype", "bfloat16", "--device", "cpu").exit_code == 0


def test_nothing_but_results_on_the_streams(run: Any) -> None:
    result = run("reconstruct", A)
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ""


# ---------------------------------------------------------------------------- codes and files


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("\n\n".join(tiny.SENTENCES) + "\n")
    return path


def test_decode_to_parquet(run: Any, model: LlaMaVAE, sentences: Path, tmp_path: Path) -> None:
    codes, texts = tmp_path / "codes.parquet", tmp_path / "texts.parquet"
    assert run("encode", "--file", sentences, "--output", codes).exit_code == 0
    result = run("decode", "--file", codes, "--output", texts)
    assert "texts are in" in result.stderr
    found = pq.read_table(texts).to_pylist()
    expected = [
        json.loads(line) for line in run("decode", "--file", codes, "--json").stdout.splitlines()
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("encode", "a dog", "--engine", "ray"), "requires a Parquet file to write"),
        (("encode", "a dog", "--workers", 2), "workers requires the engine ray"),
        (("decode", "--output", "a.parquet"), "requires a file of latent codes"),
        (("score", "a.parquet"), "to another Parquet file"),
        (("score", "a.jsonl", "--engine", "ray"), "single Parquet file"),
    ],
)
def test_engines_and_outputs(run: Any, arguments: tuple[object, ...], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


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


def test_sentence_vectors_to_codes_to_texts(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a model without a sentence encoder needs: h -> z -> text."""
    vae = tiny.vae(sentence_encoder=None, embed_backbones=True)
    vae.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("LLAMAVAE_MODEL", str(tmp_path / "model"))
    h = torch.randn(3, tiny.HIDDEN)
    array, json_lines = tmp_path / "h.npy", tmp_path / "h.jsonl"
    np.save(array, h.numpy())
    json_lines.write_text("".join(json.dumps({"text": "x", "h": row}) + "\n" for row in h.tolist()))
    codes = run("encode", "--vectors", array)
    assert codes.exit_code == 0, codes.stderr
    rows = [json.loads(line) for line in codes.stdout.splitlines()]
    torch.testing.assert_close(torch.tensor([row["mean"] for row in rows]), vae.encode(h).mean)
    assert [row["id"] for row in rows] == [1, 2, 3]
    named = run("encode", "--vectors", json_lines).stdout.splitlines()
    assert [json.loads(line)["mean"] for line in named] == [row["mean"] for row in rows]
    assert json.loads(named[0])["text"] == "x"
    texts = run("decode", stdin=codes.stdout).stdout
    assert texts.split("\n") == [*lines(vae.decode(vae.encode(h).mean)), ""]
    assert run("encode", "--vectors", array, "a dog").exit_code == 2
    short = tmp_path / "short.npy"
    np.save(short, h[:, :3].numpy())
    refused = run("encode", "--vectors", short)
    assert refused.exit_code == 2
    assert f"(B, {tiny.HIDDEN})" in refused.stderr


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
        (["encode", "--file", "sentences.txt", "--output", "a.csv"], "", "Name it a.parquet"),
        (["decode"], "", "standard input: found no latent codes"),
        (["decode"], "a dog\n", "standard input:1: not valid JSON"),
        (["decode"], "[1, 2]\n", "expected latent codes of shape (B, 6); got (1, 2)"),
        (["decode", "--file", "nothing.npy"], "", "no such file: nothing.npy"),
    ],
)
def test_bad_input_of_encode_and_decode(
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
    file.write_text("".join(f"{text} {n}\n" for n in range(800) for text in tiny.SENTENCES))
    killed, whole = tmp_path / "killed.parquet", tmp_path / "whole.parquet"
    process = start("encode", "--file", file, "--output", killed)
    first = killed.with_name("killed.parquet.partial") / "part-00000000.parquet"
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
    assert len(pq.read_table(killed)) == 6400
