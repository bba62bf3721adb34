from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.bulk import check_paths, encode_file, encoding, parts
from llamavae.bulk.encoding import Encoding
from llamavae.bulk.engine import _Worker
from llamavae.bulk.parts import PartFolder
from llamavae.bulk.task import ModelSource
from llamavae.corpora.matrices import read_matrix
from llamavae.data import code_files
from llamavae.data.code_files import read_latent_codes
from llamavae.errors import UserError
from llamavae.modeling import Refinement


@pytest.fixture(scope="module")
def model() -> LlaMaVAE:
    return tiny.vae()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "PART_SIZE", 8)
    monkeypatch.setattr(encoding, "_SLICE", 4)


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    lines = [f"{text} {number}" for number in range(4) for text in tiny.SENTENCES]
    lines[3:3] = ["", "  \t "]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def stop_after(model: LlaMaVAE, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `encode` be interrupted after so many calls."""
    encode, left = model.encode, iter(range(calls))

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return encode(*args, **kwargs)

    monkeypatch.setattr(model, "encode", interrupted)


# ------------------------------------------------------------------------------ encode_file


def test_rows_are_the_sentences_and_their_points(
    model: LlaMaVAE, sentences: Path, tmp_path: Path
) -> None:
    output = tmp_path / "made" / "points.parquet"
    report = encode_file(model, sentences, output)
    table = pq.read_table(output)
    assert table.schema.names == ["id", "text", "mean", "logvar"]
    assert table.schema.field("mean").type == pa.list_(pa.float32())
    lines = sentences.read_text().splitlines()
    assert table["text"].to_pylist() == [line for line in lines if line.strip()]
    assert [lines[i - 1] for i in table["id"].to_pylist()] == table["text"].to_pylist()
    posterior = model.encode(table["text"].to_pylist())
    for name in ("mean", "logvar"):
        torch.testing.assert_close(
            torch.tensor(table[name].to_pylist()), getattr(posterior, name), atol=1e-5, rtol=1e-5
        )
    assert (report.sentences, report.blank, report.resumed) == (32, 2, 0)
    assert list(output.parent.iterdir()) == [output]


def test_texts_longer_than_the_encoder_reads_are_counted(model: LlaMaVAE, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("short\n" + "very long text " * 400 + "\n" + "x" * 100_000 + "\nend\n")
    assert encode_file(model, path, tmp_path / "a.parquet").truncated == 2


@pytest.mark.parametrize("calls", [0, 1, 2, 3, 5, 7])
def test_an_interrupted_run_resumes_to_the_same_bytes(
    model: LlaMaVAE, sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    whole, resumed = tmp_path / "whole.parquet", tmp_path / "resumed.parquet"
    expected = encode_file(model, sentences, whole)
    with monkeypatch.context() as patch:
        stop_after(model, calls, patch)
        with pytest.raises(KeyboardInterrupt):
            encode_file(model, sentences, resumed)
    assert not resumed.exists()
    seen: list[tuple[int, int | None]] = []
    report = encode_file(model, sentences, resumed, progress=lambda *args: seen.append(args))
    assert resumed.read_bytes() == whole.read_bytes()
    assert report.resumed == max(0, calls // 2 * 8 - 2)  # parts of two slices; blanks in the first
    assert (report.sentences, report.blank) == (expected.sentences, expected.blank)
    assert seen[-1] == (34, 34)
    assert not list(tmp_path.glob("*.partial"))


def test_refined_codes_resume_to_the_same_bytes(
    model: LlaMaVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_REFINED_PART", 4)
    monkeypatch.setattr(encoding, "_REFINED_SLICE", 2)
    source, whole, resumed = (tmp_path / name for name in ("a.txt", "a.parquet", "b.parquet"))
    source.write_text("\n".join(tiny.SENTENCES), encoding="utf-8")
    encode_file(model, source, whole, refine=1)
    with monkeypatch.context() as patch:
        stop_after(model, 5, patch)  # two calls a slice: encoded, and the start of refining
        with pytest.raises(KeyboardInterrupt):
            encode_file(model, source, resumed, refine=1)
    for other in (0, 2, Refinement(1, beta=0.5)):
        with pytest.raises(UserError, match="interrupted run with another refine"):
            encode_file(model, source, resumed, refine=other)
    assert encode_file(model, source, resumed, refine=1).resumed == 4
    assert resumed.read_bytes() == whole.read_bytes()
    facts = json.loads(pq.read_schema(whole).metadata[b"llamavae"])
    assert facts["refine"]["steps"] == 1
    z = model.refine(tiny.SENTENCES, 1)
    for name in ("mean", "logvar"):
        found = torch.tensor(pq.read_table(whole)[name].to_pylist())
        torch.testing.assert_close(found, getattr(z, name), rtol=1e-2, atol=1e-2)
    encode_file(model, source, whole, overwrite=True)
    assert json.loads(pq.read_schema(whole).metadata[b"llamavae"])["refine"] is None


def test_a_run_that_stopped_while_joining_resumes(
    model: LlaMaVAE, sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "points.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(parts, "read_table", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            encode_file(model, sentences, output)
    report = encode_file(model, sentences, output)
    assert report.resumed == report.sentences == len(pq.read_table(output)) == 32


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def change_source(model: LlaMaVAE, sentences: Path) -> LlaMaVAE:
    sentences.write_text(sentences.read_text() + "one more\n")
    return model


def change_model(model: LlaMaVAE, sentences: Path) -> LlaMaVAE:
    return tiny.vae(latent_dim=3)


@pytest.mark.parametrize(("change", "what"), [(change_source, "source"), (change_model, "model")])
def test_what_is_left_of_another_run_is_not_taken(
    model: LlaMaVAE,
    sentences: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[LlaMaVAE, Path], LlaMaVAE],
    what: str,
) -> None:
    output = tmp_path / "points.parquet"
    with monkeypatch.context() as patch:
        stop_after(model, 3, patch)
        with pytest.raises(KeyboardInterrupt):
            encode_file(model, sentences, output)
    other = change(model, sentences)
    with pytest.raises(UserError, match=f"interrupted run with another {what}"):
        encode_file(other, sentences, output)


def test_an_output_is_only_replaced_on_request(
    model: LlaMaVAE, sentences: Path, tmp_path: Path
) -> None:
    output = tmp_path / "points.parquet"
    output.write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        encode_file(model, sentences, output)
    assert output.read_text() == "mine"
    encode_file(model, sentences, output, overwrite=True)
    assert len(pq.read_table(output)) == 32
    with pytest.raises(UserError, match="is the input itself"):
        encode_file(model, output, output, overwrite=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no line with text"),
        (b"\n \n", "no line with text"),
        (b"good\nbad \xff\n", "sentences.txt:2: invalid UTF-8 byte 0xff"),
        (b"good\n\0\1\2\n", "sentences.txt:2: contains a NUL byte"),
    ],
)
def test_bad_sources(model: LlaMaVAE, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "sentences.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        encode_file(model, path, tmp_path / "points.parquet")
    assert not (tmp_path / "points.parquet").exists()


def test_bad_paths(model: LlaMaVAE, sentences: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file.*sentences\.txt"):
        encode_file(model, tmp_path / "sentence.txt", tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"Name it .*points\.parquet"):
        encode_file(model, sentences, tmp_path / "points.csv")
    with pytest.raises(UserError, match="a file is in the way"):
        encode_file(model, sentences, sentences / "points.parquet")
    same = tmp_path / "same.parquet"
    pq.write_table(pa.table({"text": ["a"]}), same)
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is the input itself") as error:
            encode_file(model, same, same, overwrite=overwrite)
        assert "--overwrite" not in str(error.value)
    assert pq.read_table(same).to_pydict() == {"text": ["a"]}


@pytest.mark.parametrize("harm", ["removed", "flipped"])
def test_a_lost_part_is_encoded_again(
    harm: str, model: LlaMaVAE, sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "PART_SIZE", 8)
    monkeypatch.setattr(encoding, "_SLICE", 8)
    whole, output = tmp_path / "whole.parquet", tmp_path / "points.parquet"
    encode_file(model, sentences, whole)
    with monkeypatch.context() as patch:
        patch.setattr(parts, "read_table", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            encode_file(model, sentences, output)
    part = tmp_path / "points.parquet.partial" / "part-00000001.parquet"
    if harm == "removed":
        part.unlink()
    else:
        data = bytearray(part.read_bytes())
        data[len(data) // 3] ^= 1
        part.write_bytes(data)
    report = encode_file(model, sentences, output)
    assert (report.resumed, report.sentences) == (24, 32)  # only that part
    assert output.read_bytes() == whole.read_bytes()


def test_a_full_disk_loses_nothing(
    model: LlaMaVAE, sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "points.parquet"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(parts, "read_table", full)
        with pytest.raises(UserError, match="No space left"):
            encode_file(model, sentences, output)
    assert encode_file(model, sentences, output).resumed == 32


def test_a_table_keeps_its_row_numbers(model: LlaMaVAE, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("word,definition\ndog,an animal\ncat,\nlemon,a sour fruit\n")
    encode_file(model, path, tmp_path / "a.parquet", column="definition")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table["id"].to_pylist() == [2, 4]
    assert table["text"].to_pylist() == ["an animal", "a sour fruit"]


def test_a_model_of_vectors_cannot_read_a_file(sentences: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a model with a sentence encoder"):
        encode_file(tiny.vae(sentence_encoder=None), sentences, tmp_path / "a.parquet")


# ------------------------------------------------------------------------------ read_latent_codes


def write_points(path: Path, vectors: list[list[float]]) -> Path:
    match path.suffix:
        case ".npy":
            np.save(path, np.array(vectors))
        case ".parquet":
            pq.write_table(pa.table({"z": vectors}), path)
        case _:
            path.write_text("".join(json.dumps({"mean": v}) + "\n\n" for v in vectors))
    return path


@pytest.mark.parametrize("name", ["p.npy", "p.parquet", "p.jsonl"])
def test_points_come_back(tmp_path: Path, name: str) -> None:
    vectors = torch.randn(5, 3).tolist()
    parts = list(read_latent_codes(write_points(tmp_path / name, vectors), batch_size=2))
    assert [len(part.z) for part in parts] == [2, 2, 1]
    torch.testing.assert_close(torch.cat([part.z for part in parts]), torch.tensor(vectors))
    ids = [i for part in parts for i in part.ids]
    assert ids == ([1, 3, 5, 7, 9] if name == "p.jsonl" else [1, 2, 3, 4, 5])
    assert parts[0].texts is None


def test_points_of_encode_file(model: LlaMaVAE, sentences: Path, tmp_path: Path) -> None:
    encode_file(model, sentences, tmp_path / "a.parquet")
    (points,) = read_latent_codes(tmp_path / "a.parquet")
    assert points.texts is not None
    assert points.texts[0] == "a dog is a kind of animal 0"
    assert points.ids[:4] == [1, 2, 3, 6]
    torch.testing.assert_close(
        points.z, model.encode(points.texts).mean.float(), atol=1e-5, rtol=1e-5
    )


def test_points_of_open_lines() -> None:
    lines = [b'{"text": "a", "mean": [1, 2.5], "logvar": [0, 0]}\n', b"[3, 4]\n"]
    (points,) = read_latent_codes(lines)
    assert points.z.tolist() == [[1.0, 2.5], [3.0, 4.0]]
    assert points.texts is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "standard input:2: not valid JSON"),
        ("[1]", r"row 2 holds '\[1\]'"),
        ('["a", "b"]', "row 2"),
        ('{"vector": [1, 2]}', "row 2 holds 'None'"),
        ("[1, NaN]", "row 2 holds a number that is not finite"),
        ("7", "row 2 holds '7'"),
        ("null", "row 2 holds 'None'"),
        ("{}", "row 2 holds 'None'"),
        ("[true, 2]", r"row 2 holds '\[True, 2\]'"),
        ('["0.5", "1"]', "row 2 holds"),
        ("[null, 1]", "row 2 holds"),
        ("[[1], [2]]", "row 2 holds"),
        ('{"z": [1, 2], "text": 3}', r"row 2 has the text 3 \(int\); expected a string"),
    ],
)
def test_odd_lines_are_named(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(read_latent_codes([b"[1, 2]\n", line.encode()]))
    with pytest.raises(UserError, match=message):  # in another batch
        list(read_latent_codes([b"[1, 2]\n", line.encode()], batch_size=1))


@pytest.mark.parametrize("line", ["null", "5", "{}", "[]"])
def test_an_odd_first_line_is_named(line: str) -> None:
    with pytest.raises(UserError, match="row 1 holds"):
        list(read_latent_codes([line.encode()]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a", None]}, r"row 2 has the text None"),
        ({"text": [1, 2]}, r"row 1 has the text 1 \(int\)"),
        ({"id": [1.5, 2.5]}, r"'id' has no integer or string \(double\)"),
        ({"mean": ["0.5", "1"]}, "'mean' is of type string; expected lists of numbers"),
        ({"mean": [["0.5"], ["1"]]}, "expected lists of numbers"),
        ({"mean": [[True], [False]]}, "expected lists of numbers"),
        ({"mean": [[1.0, None], [1.0, 2.0]]}, "row 1 holds a number that is not finite"),
        ({"mean": [[1.0], None]}, "row 2 holds 'None'"),
    ],
)
def test_odd_columns_are_named(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    table = pa.table({"mean": [[1.0, 2.0], [3.0, 4.0]], **columns})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message):
        list(read_latent_codes(tmp_path / "a.parquet"))


@pytest.mark.parametrize("record", [b"not json", b"[]", b"[" * 10_000, b"\xff", b"3"])
def test_metadata_of_others_is_ignored(model: LlaMaVAE, record: bytes, tmp_path: Path) -> None:
    table = pa.table({"mean": [[1.0] * tiny.LATENT]}).replace_schema_metadata({"llamavae": record})
    pq.write_table(table, tmp_path / "a.parquet")
    code_files.check_same_model(model, tmp_path / "a.parquet")
    assert code_files.metadata(table.schema) == {}


def test_odd_files_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_text("no")
    (tmp_path / "c.npy").write_text("no")
    np.save(tmp_path / "d.npy", np.array(["a"]))
    for name, message in [
        ("a.parquet", "no column 'mean' or 'z'"),
        ("b.parquet", "not a Parquet file"),
        ("c.npy", "not a NumPy array"),
        ("d.npy", r"expected numbers of shape \(N, D\)"),
        ("e.npy", "no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            list(read_latent_codes(tmp_path / name))


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.mkdir, (tmp_path / "ran",)

    np.save(tmp_path / "a.npy", np.array([[Bomb()]], dtype=object))
    with pytest.raises(UserError, match="not a NumPy array of numbers"):
        list(read_latent_codes(tmp_path / "a.npy"))
    with pytest.raises(UserError, match="damaged, or is not an array of numbers"):
        read_matrix(tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists()


def test_the_fingerprint_does_not_depend_on_what_was_encoded() -> None:
    fresh = tiny.vae()
    before = code_files.encoder_fingerprint(fresh)
    fresh.encode(["a", "a longer text"])
    assert fresh.encoder is not None
    fresh.encoder.truncated(["a"])
    assert code_files.encoder_fingerprint(fresh) == before


def test_points_of_another_model_are_noticed(
    model: LlaMaVAE, sentences: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encode_file(model, sentences, tmp_path / "a.parquet")
    code_files.check_same_model(model, tmp_path / "a.parquet")
    assert not caplog.messages
    with torch.no_grad():
        other = tiny.vae()
        other.posterior.linear.weight.add_(1)
    code_files.check_same_model(other, tmp_path / "a.parquet")
    assert "another model" in caplog.text


@pytest.mark.parametrize("text", ["{", "[]", "[" * 9999])
def test_damaged_facts_of_an_interrupted_run(
    text: str,
    model: LlaMaVAE,
    sentences: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, output = tmp_path / "whole.parquet", tmp_path / "points.parquet"
    encode_file(model, sentences, whole)
    with monkeypatch.context() as patch:
        stop_after(model, 4, patch)
        with pytest.raises(KeyboardInterrupt):
            encode_file(model, sentences, output)
    (tmp_path / "points.parquet.partial" / "run.json").write_text(text)
    assert encode_file(model, sentences, output).resumed == 0
    assert output.read_bytes() == whole.read_bytes()
    assert "run.json is damaged: everything is computed again" in caplog.text


@pytest.mark.parametrize("facts", [b"not json", b"[]"])
def test_foreign_facts_in_a_parquet_file(facts: bytes) -> None:
    assert code_files.metadata(pa.schema([], {code_files.METADATA: facts})) == {}


def test_parts_of_unknown_origin_are_not_taken(
    model: LlaMaVAE, sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "points.parquet"
    with monkeypatch.context() as patch:
        stop_after(model, 4, patch)
        with pytest.raises(KeyboardInterrupt):
            encode_file(model, sentences, output)
    (tmp_path / "points.parquet.partial" / "run.json").unlink()
    sentences.write_text("another text\n")
    encode_file(model, sentences, output)
    assert pq.read_table(output)["text"].to_pylist() == ["another text"]
    assert not (tmp_path / "points.parquet.partial").exists()


def test_foreign_files_in_the_folder_of_parts(
    model: LlaMaVAE, sentences: Path, tmp_path: Path
) -> None:
    output, work = tmp_path / "points.parquet", tmp_path / "points.parquet.partial"
    work.mkdir()
    (work / ".mine").touch()
    encode_file(model, sentences, output)
    assert (work / ".mine").exists()
    (work / ".llamavae.json").unlink()
    (work / "mine").touch()
    with pytest.raises(UserError, match="holds files of something else, such as mine"):
        check_paths(sentences, output, overwrite=True)


def test_an_output_is_named_in_utf8(sentences: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not in UTF-8"):
        check_paths(sentences, tmp_path / "caf\udce9.parquet")


class _Doomed(Encoding):
    """Ends its process, or here the test's attempt, at each part."""

    def facts(self):
        return {}

    def compute(self, part, rows, tell):
        raise SystemExit


def test_a_worker_that_always_dies_is_not_replaced_for_ever(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("a dog\n")
    task = _Doomed(ModelSource("mini"), source, None, 64, Refinement.of(0))
    folder = PartFolder(tmp_path / "a.parquet")
    folder.path.mkdir()

    def attempt():
        worker = _Worker(task, folder, source.stat().st_size, torch.get_num_threads(), attempts=2)
        return json.loads(worker({"part": 0})["result"])

    for _ in range(2):
        folder.open({"a": 1})  # another run begins to count again
        for _ in range(2):
            with pytest.raises(SystemExit):
                attempt()
        assert "workers of Ray died 2 times at part 0" in attempt()["error"]
    folder.remove()
    assert not list(folder.path.iterdir())
