# ruff: noqa: E501 tables of cases
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
"""Odd input to the Python interface, the readers and the command line.

    run(n, seed) -> rows {case, outcome}

An outcome is `right` (the expected result), `refused` (one line), `traceback`, or `silent wrong`.
The first cases are fixed; those after them are damaged files, drawn by seed.
"""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import math
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tests.faults.configs import Rows, outcome
from typer.testing import CliRunner

from llamavae import LlaMaVAE
from llamavae.cli.app import app
from llamavae.corpora import load_corpus
from llamavae.corpora.files import load, read_sentences
from llamavae.data import code_files
from llamavae.errors import UserError
from llamavae.evaluation.registry import EVALUATORS
from llamavae.guidance import InvertibleCVAE
from llamavae.modeling import Refinement

SENTENCES = ["a dog is an animal", "a river, which is long", 'a "young" cat', "ein schöner Tag"]
NAN = math.nan


class Case(NamedTuple):
    """What is done, and what it gives; None if it must be refused."""

    name: str
    act: Callable[[], Any]
    right: Callable[[Any], bool] | None = None


@functools.cache
def _model() -> LlaMaVAE:
    return LlaMaVAE.from_pretrained("mini")


def _shape(*shape: int) -> Callable[[Any], bool]:
    return lambda found: tuple((found if torch.is_tensor(found) else found.mean).shape) == shape


def _equals(expected: Any) -> Callable[[Any], bool]:
    return lambda found: found == expected


# ------------------------------------------------------------------------------- Python


def _python() -> Iterator[Case]:
    model = _model()
    size, h = model.config.latent_dim, model.config.encoder_dim
    z = torch.zeros(2, size)
    texts: dict[str, tuple[Callable[[], Any], int | None]] = {
        "None": (lambda: None, None), "NaN": (lambda: NAN, None), "3": (lambda: 3, None),
        "[None]": (lambda: ["a", None], None), "[NaN]": (lambda: ["a", NAN], None),
        "[3]": (lambda: [3], None), "bytes": (lambda: b"a", None), "[bytes]": (lambda: [b"a"], None),
        "dict": (lambda: {"a": 1}, None), "nested": (lambda: [["a"]], None),
        "surrogate": (lambda: "a \ud800", None), "empty": (lambda: "", None),
        "blank": (lambda: ["a", " \n"], None), "[]": (list, 0), "()": (tuple, 0),
        "number in an array": (lambda: np.array(3), None),
        "array": (lambda: np.array(["a dog", "b"]), 2), "no array": (lambda: np.array([]), 0),
        "objects": (lambda: np.array(["a", None], dtype=object), None),
        "generator": (lambda: (x for x in ["a dog"]), 1), "NUL": (lambda: "a\0b", 1),
        "long": (lambda: "a dog " * 2000, 1),
    }  # fmt: skip
    for name, (make, rows) in texts.items():
        right = None if rows is None else _shape(rows, size)
        yield Case(f"encode {name}", lambda make=make: model.encode(make()), right)
        yield Case(f"refine {name}", lambda make=make: model.refine(make(), 1), right)
        count = None if rows is None else (lambda found, rows=rows: len(found) == rows)
        yield Case(f"reconstruct {name}", lambda make=make: model.reconstruct(make()), count)
        if rows == 0:
            count = _equals([])
        yield Case(f"neighbours {name}", lambda make=make: model.neighbours("a", make()), count)
    for value in (0, -1, 1.5, None, "4", NAN, True, 10**20, 10**30):
        yield Case(f"encode batch_size={value}", partial(model.encode, ["a"], value))
        yield Case(f"decode batch_size={value}", partial(model.decode, z, value))
        yield Case(f"refine batch_size={value}", partial(model.refine, ["a"], 1, batch_size=value))
        yield Case(f"sample n={value}", partial(model.sample, value))
        if value is not None:
            yield Case(f"decode num_beams={value}", partial(model.decode, z, num_beams=value))
            yield Case(f"max_new_tokens={value}", partial(model.decode, z, max_new_tokens=value))
        yield Case(f"neighbours k={value}", partial(model.neighbours, "a", ["b"], value))
        yield Case(f"interpolate steps={value}", partial(model.interpolate, "a", "b", value))
        yield Case(f"Refinement samples={value}", partial(Refinement, samples=value))
    for value in (NAN, math.inf, -1, "a", 10**400):
        hot = partial(model.decode, z, do_sample=True)
        yield Case(f"temperature={value}", partial(hot, temperature=value))
        yield Case(f"top_p={value}", partial(hot, top_p=value))
        yield Case(f"spread={value}", partial(model.sample, 1, spread=value))
        yield Case(f"refine={value}", partial(model.encode, "a", refine=value))
        yield Case(f"learning_rate={value}", partial(Refinement, learning_rate=value))
    codes: dict[str, tuple[Any, int | None]] = {
        "None": (None, None), "text": ("a", None), "[None]": ([None], None),
        "ragged": ([[1.0], [1.0, 2.0]], None), "NaN": (z * NAN, None), "scalar": (3.0, None),
        "3 dimensions": (z[None], None), "short": (z[:, 1:], None), "complex": (z + 0j, None),
        "truth values": (z > 0, None), "float64 too large": (z.double() + 1e300, None),
        "too large": (z + 3e38, None), "[]": ([], 0), "no rows": (z[:0], 0),
        "array": (z.numpy(), 2), "list": (z.tolist(), 2), "integers": (z.long(), 2),
    }  # fmt: skip
    for name, (value, rows) in codes.items():
        count = None if rows is None else (lambda found, rows=rows: len(found) == rows)
        yield Case(f"decode {name}", partial(model.decode, value), count)
    for name, value, right in (
        ("NaN", torch.full((2, h), NAN), None), ("array", np.zeros((2, h), "f4"), _shape(2, size)),
        ("wrong size", torch.zeros(2, h + 1), None), ("no rows", torch.zeros(0, h), _shape(0, size)),
    ):  # fmt: skip
        yield Case(f"encode vectors {name}", partial(model.encode, value), right)
    for name, act in (
        ("unknown option", partial(model.decode, z, temprature=1.0)),
        ("prompt 3", partial(model.decode, z, prompt=3)),
        ("prompt list", partial(model.decode, z, prompt=["a"])),
        *(
            (f"temperature={value}", partial(model.decode, z, do_sample=True, temperature=value))
            for value in (0, 1e-320, 1e-45)
        ),
        ("traverse steps=10**30", partial(model.traverse, "a", 1, 10**30)),
        *(
            (f"{name} {place!r:.20}", partial(act, place))
            for place in ("", "a\0b", "x" * 5000, "~no-such-user/a")
            for name, act in (
                ("prior", lambda place: model.sample(1, place)),
                ("save to", model.save_pretrained),
                ("load", LlaMaVAE.from_pretrained),
                ("load_corpus", load_corpus),
                ("load cvae", InvertibleCVAE.from_pretrained),
                ("decoder", partial(LlaMaVAE.from_backbones, None)),
            )
        ),
        *(
            (f"load_corpus {options}", partial(load_corpus, **{"name": "factors", **options}))
            for options in (
                {"name": None},
                {"name": 3},
                {"limit": "a"},
                {"limit": 0},
                {"limit": 10**30},
                {"min_words": 1.5},
                {"max_words": NAN},
                {"seed": "a"},
                {"column": 3},
                {"path": 3},
            )
        ),
        *(
            (f"load {options}", partial(LlaMaVAE.from_pretrained, "mini", **options))
            for options in (
                {"dtype": "float7"},
                {"dtype": 3},
                {"device_map": "gpu"},
                {"device_map": "xpu:7"},
                {"attn_implementation": "fast"},
                {"encoder": ""},
                {"decoder": "a\0b"},
            )
        ),
        ("seed text", partial(model.sample, 1, seed="a")),
        ("seed 2**70", partial(model.sample, 1, seed=2**70)),
        ("prior 3", partial(model.sample, 1, prior=3)),
        ("dim 10**6", partial(model.traverse, "a", 10**6)),
        ("dim 1.5", partial(model.traverse, "a", 1.5)),
        ("mode None", partial(model.interpolate, "a", "b", mode=None)),
        ("stream of 2", partial(model.stream, z, print)),
        ("stream without callback", partial(model.stream, z[0], None)),
        ("start of another size", partial(model.refine, ["a"], 1, start=z)),
        ("start NaN", partial(model.refine, ["a"], 1, start=z[:1] * NAN)),
        ("load None", partial(LlaMaVAE.from_pretrained, None)),
        ("load long name", partial(LlaMaVAE.from_pretrained, "a" * 5000)),
        ("save to None", partial(model.save_pretrained, None)),
        ("backbones 3", partial(LlaMaVAE.from_backbones, 3, 4)),
        *(
            (f"{evaluator} {setting}={value}", partial(cls, **{setting: value}))
            for evaluator, cls in EVALUATORS.items()
            for setting, kind in cls.__init__.__annotations__.items()
            for value in ([1.5, "a"] if setting not in ("batch_size", "resamples") else [0, NAN])
            if kind == "int"
        ),
        ("latent_dim text", partial(LlaMaVAE.from_backbones, None, "mini", latent_dim="a")),
    ):
        yield Case(name, act)


def _guidance() -> Iterator[Case]:
    model = InvertibleCVAE.from_pretrained("mini-definitions", _model())
    size, c = model.flow.features, model.condition.dim
    z, vectors = torch.zeros(2, size), torch.zeros(2, c)
    for name, act, right in (
        ("dog", lambda: model.generate(["dog"], seed=0), lambda found: len(found) == 1),
        ("[]", lambda: model.generate([]), _equals([])),
        ("codes of []", lambda: model.sample_codes([]), _shape(0, size)),
        ("vectors", lambda: model.log_density(z, vectors), _shape(2)),
        ("array", lambda: model.log_density(z.numpy(), vectors), _shape(2)),
        ("array of words", lambda: model.sample_codes(np.array(["dog", "cat"])), _shape(2, size)),
        ("predict []", lambda: model.predict([]), _shape(0, c)),
        *(
            (f"generate {value!r:.20}", partial(model.generate, value), None)
            for value in (None, NAN, 3, "dog", b"dog", [b"dog"], [None], [NAN], [""], ["\ud800"],
                          {"a": 1}, iter(["dog"]), [("a", "b", "c")], vectors * NAN, vectors[:, 1:])
        ),
        *(
            (f"{option}={value}", partial(model.generate, ["dog"], **{option: value}), None)
            for option in ("n", "spread", "draws", "seed", "batch_size")
            for value in (NAN, "a", -(2**70), 1.5 if option != "spread" else -0.5)
        ),
        ("translate NaN", lambda: model.translate(z * NAN, ["dog"], ["cat"]), None),
        ("translate 3 conditions", lambda: model.translate(z, ["dog"] * 3, ["cat"]), None),
        ("translate text", lambda: model.translate("dog", ["dog"], ["cat"]), None),
        ("log_density short", lambda: model.log_density(z[:, 1:], ["dog"]), None),
        ("scores None", lambda: model.scores(None, ["dog"]), None),
        ("log_prob None", lambda: model.log_prob(None, ["dog"]), None),
        ("log_prob bytes", lambda: model.log_prob([b"a"], ["dog"]), None),
        ("predict empty", lambda: model.predict([""]), None),
        ("rank k=0", lambda: model.rank("a kind of dog", k=0), None),
        ("rank no candidates", lambda: model.rank("a kind of dog", []), None),
        ("rank None", lambda: model.rank(None), None),
        ("load None", lambda: InvertibleCVAE.from_pretrained(None), None),
    ):  # fmt: skip
        yield Case(f"cvae {name}", act, right)
    prior = _model().default_prior
    assert prior is not None
    for name, value, right in (
        ("zeros", z, _shape(2)), ("NaN", z * NAN, None), ("None", None, None), ("text", "a", None),
        ("short", z[:, 1:], None), ("ragged", [[1.0], [1.0, 2.0]], None),
    ):  # fmt: skip
        yield Case(f"prior log_prob {name}", partial(prior.log_prob, value), right)


# ------------------------------------------------------------------------------- files


def _files(folder: Path) -> Iterator[Case]:
    def case(name: str, file: str, content: bytes, expected: list[Any] | None) -> Iterator[Case]:
        path = folder / file
        for suffix in ("", ".gz"):
            place = path.with_name(path.name + suffix)
            act = partial(_rows, place, gzip.compress(content) if suffix else content)
            yield Case(f"{name} {place.name}", act, None if expected is None else _equals(expected))
        yield Case(f"load {name}", partial(_loaded, path, content), _texts(expected))

    lines = "\n".join(SENTENCES)
    rows = list(enumerate(SENTENCES, 1))
    after = [(number + 1, text) for number, text in rows]  # a header
    yield from case("text", "a.txt", lines.encode(), rows)
    yield from case("byte order mark", "b.txt", lines.encode("utf-8-sig"), rows)
    yield from case("Windows lines", "c.txt", lines.replace("\n", "\r\n").encode(), rows)
    yield from case(
        "blank lines",
        "d.txt",
        b"\na\n \n\nb",
        [*zip(range(1, 6), [None, "a", None, None, "b"], strict=True)],
    )
    yield from case("Latin-1", "e.txt", lines.encode("latin-1"), None)
    yield from case("UTF-16", "f.txt", lines.encode("utf-16"), None)
    yield from case("UTF-16 without mark", "g.txt", lines.encode("utf-16-le"), None)
    yield from case("NUL", "h.txt", b"a\0b", None)
    csv = 'text\na dog is an animal\n"a river, which is long"\n"a ""young"" cat"\nein schöner Tag\n'
    yield from case("quoted", "a.csv", csv.encode(), after)
    yield from case("no header", "b.csv", b"a dog is a kind of animal\na cat is one too\n", None)
    yield from case("no header", "c.csv", "一只狗是动物。\n猫也是。\n".encode(), None)
    for number, content in enumerate((
        b"dog,1\ncat,2\nbird,3", b"1,a dog\n2,a cat\n", b"a dog runs\nthe cat sleeps\n", b"dog\ncat\n",
        b"a dog,\na cat,x\n", b"a dog,n/a\na cat,2\n", b"a dog,2024-01-01\na cat,2024-01-02\n",
    )):  # fmt: skip
        yield from case("no header", f"n{number}.csv", content, None)
        tabs = content.replace(b",", b"\t")
        yield from case("no header", f"n{number}.tsv", tabs, None)
    yield from case("index", "i.csv", b",text\n0,a dog\n1,a cat\n", [(2, "a dog"), (3, "a cat")])
    yield from case("one column", "j.csv", b"sentence,n\na dog,1\n", [(2, "a dog")])
    for number, start in enumerate((b"a dog", b"text", b'{"text": "a"}')):
        for file in (f"r{number}.txt", f"r{number}.csv", f"r{number}.jsonl"):
            yield from case("CR", file, start + b"\rb\rc\r", None)
    yield from case("long field", "k.csv", b"text\n" + b"x" * 140_000, None)
    yield from case("semicolons", "d.csv", b"text;label\na dog;1\n", None)
    yield from case("unquoted comma", "e.csv", b"text,label\na river, long,1\n", None)
    yield from case(
        "blank rows",
        "f.csv",
        b"text,label\n\na,1\n,\n  \nb,2\n",
        [(2, None), (3, "a"), (4, None), (5, None), (6, "b")],
    )
    yield from case("open quote", "g.csv", b'text,label\n"a dog,1\na cat,2\n', None)
    yield from case("stray quote", "h.csv", b'text,label\n"a" dog,1\n', None)
    yield from case(
        "inner quote", "a.tsv", b'text\tlabel\na 5" disk\t1\nb\t2\n', [(2, 'a 5" disk'), (3, "b")]
    )
    yield from case(
        "stray quotes", "b.tsv", b'text\tlabel\n"a dog\t1\na cat\t2\n"b\t3\nc"\t4\n', None
    )
    yield from case("stray quotes", "c.tsv", b'text\n"a dog\na cat"\n', None)
    yield from case(
        "objects", "a.jsonl", "\n".join(json.dumps({"text": x}) for x in SENTENCES).encode(), rows
    )
    yield from case("broken row", "b.jsonl", b'{"text": "a"}\n{"text": "b\n', None)
    yield from case(
        "deep row",
        "c.jsonl",
        b'{"text": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        None,
    )
    yield from case("surrogate", "d.jsonl", b'{"text": "a \\ud800"}\n', None)
    yield from case("number", "e.jsonl", b'{"text": 3}\n', None)
    yield from case("no text", "f.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', None)
    yield from case("list", "g.jsonl", b'["a", "b"]\n["c"]\n', None)
    yield from case("digits", "h.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}\n", None)
    yield from case("empty", "i.txt", b"", [])
    yield Case("Parquet", partial(_rows, folder / "a.parquet", b"PAR1xxxxPAR1"))
    yield Case("Parquet.gz", partial(_rows, folder / "a.parquet.gz", b"x"))
    yield Case("no gzip", partial(_rows, folder / "x.txt.gz", b"a dog\n"))
    yield Case("cut gzip", partial(_rows, folder / "y.txt.gz", gzip.compress(b"a dog\n" * 99)[:-9]))
    yield Case("folder", partial(lambda p: list(read_sentences(p)), folder))
    vector = json.dumps([0.5] * 64).encode()
    for name, file, content, right in (
        ("vector", "a.json", vector + b"\n\n" + vector, _equals(2)), ("ragged", "b.json", vector + b"\n[1]", None),
        ("NaN", "c.json", b"[NaN]", None), ("text", "d.json", b'["a"]', None), ("null", "e.json", b"null", None),
        *(
            (f"row {content[:12]!r}", f"r{number}.json", content, None)
            for number, content in enumerate((
                b"5", b"{}", b"[]", b"[true, false]", b'["0.5", "1"]', b"[null]", b"[[1], [2]]",
                b'{"z": null}', b'{"z": [1], "text": 3}', vector + b"\n" + b"[true]",
            ))
        ),
        ("deep", "f.json", b"[" * 100_000, None), ("large", "g.json", b"[1" + b"0" * 400 + b"]", None),
        ("no array", "a.npy", b"x" * 200, None), ("empty array", "b.npy", b"", None),
    ):  # fmt: skip
        yield Case(f"codes {name}", partial(_codes, folder / file, content), right)

    lists = pa.array([[0.5] * 64] * 2)
    for name, columns, record, right in (
        ("good", {"text": ["a", "b"]}, b"{}", 2), ("null text", {"text": ["a", None]}, b"{}", None),
        ("integer text", {"text": [1, 2]}, b"{}", None), ("no id", {"id": [None, 1]}, b"{}", None),
        ("text vectors", {"mean": ["0.5", "1"]}, b"{}", None), ("no vector", {"mean": [[0.5], None]}, b"{}", None),
        ("truth values", {"mean": [[True], [False]]}, b"{}", None),
        ("no JSON", {"text": ["a", "b"]}, b"not json", 2), ("list", {"text": ["a", "b"]}, b"[]", 2),
        ("deep", {"text": ["a", "b"]}, b"[" * 9999, 2),
    ):  # fmt: skip
        table = pa.table({"mean": lists, **columns}).replace_schema_metadata({"llamavae": record})
        act = partial(_parquet_codes, folder / f"{name}.parquet", table)
        yield Case(f"Parquet codes {name}", act, None if right is None else _equals(right))


def _parquet_codes(path: Path, table: pa.Table) -> int:
    pq.write_table(table, path)
    code_files.check_same_model(_model(), path)
    return sum(len(part.z) for part in code_files.read_latent_codes(path))


def _rows(path: Path, content: bytes) -> list[Any]:
    path.write_bytes(content)
    return list(read_sentences(path))


def _loaded(path: Path, content: bytes) -> list[str]:
    path.write_bytes(content)
    return list(load(path)["text"])  # type: ignore[index]


def _texts(rows: list[Any] | None) -> Callable[[Any], bool] | None:
    return _equals([text for _, text in rows if text]) if rows else None


def _codes(path: Path, content: bytes) -> int:
    path.write_bytes(content)
    return sum(len(part.z) for part in code_files.read_latent_codes(path))


def _damaged(folder: Path, draw: random.Random) -> Case:
    """A good file with some bytes changed: read with all rows, or refused."""
    suffix = draw.choice([".txt", ".csv", ".tsv", ".jsonl", ".txt.gz"])
    start = {".csv": "text\n", ".tsv": "text\tn\n"}.get(suffix, "")
    form = {".csv": '"{}"', ".tsv": "{}\t1", ".jsonl": '{{"text": "{}"}}'}.get(suffix, "{}")
    good = (start + "\n".join(form.format(x.replace('"', "")) for x in SENTENCES)).encode()
    content = bytearray(gzip.compress(good) if suffix == ".txt.gz" else good)
    for _ in range(draw.randint(1, 3)):
        content[draw.randrange(len(content))] = draw.choice(b'\0\xff\xc3"\t;[{ax\\')
    path = folder / f"damaged{suffix}"
    count = bytes(content).count(b"\n") + (not start)
    return Case(
        f"damaged {suffix} {bytes(content)[:24]!r}",
        partial(_rows, path, bytes(content)),
        lambda rows: len(rows) == count or suffix == ".txt.gz",
    )


# ------------------------------------------------------------------------------- command line


def _command_line(folder: Path) -> Iterator[Case]:
    file = folder / "sentences.txt"
    file.write_text("a dog\n\na cat\n", encoding="utf-8")
    latin = folder / "latin.txt"
    latin.write_bytes("ein schöner Tag".encode("latin-1"))
    two = _model().reconstruct(["a dog", "a cat"])
    output = ["encode", "-f", file, "-o"]
    for arguments, stdin, right in (
        (["reconstruct", "-f", file], b"", _equals(two)),
        (["reconstruct"], b"a dog\n\na cat\n", _equals(two)),
        (["reconstruct", ""], b"", None), (["reconstruct", "a dog", " "], b"", None),
        (["reconstruct", "\udcff"], b"", None), (["reconstruct"], b"\xff\n", None),
        (["reconstruct"], b"", None), (["reconstruct"], b"\n \n", None),
        (["reconstruct", "-f", latin], b"", None), (["reconstruct", "-f", folder], b"", None),
        (["reconstruct", "-f", folder / "none.txt"], b"", None),
        (["reconstruct", "-f", "\udcff.txt"], b"", None), (["reconstruct", "-f", "x" * 5000], b"", None),
        (["reconstruct", "a", "--batch-size", "0"], b"", None),
        (["reconstruct", "a", "--temperature", "nan"], b"", None),
        (["reconstruct", "a", "--temperature", "inf"], b"", None),
        (["reconstruct", "a", "--top-p", "nan"], b"", None), (["reconstruct", "a", "--seed", "9" * 30], b"", None),
        (["sample", "1", "--spread", "nan"], b"", None), (["sample", "1", "--prior", "\udcff"], b"", None),
        *(
            ([*verb.split(), number], b"", None)
            for number in ("9" * 20, "1" + "0" * 14, "1" + "0" * 25)
            for verb in ("reconstruct a --batch-size", "sample", "interpolate a b --steps",
                         "traverse a --dim 1 --steps", "reconstruct a -n", "neighbours a -k")
        ),
        (["sample", "1", "--temperature", "1e-320"], b"", None), (["reconstruct", "a", "-m", ""], b"", None),
        (["encode", "-f", file, "-o", file, "--overwrite"], b"", None),
        (["decode"], b"null\n", None), (["decode"], b"5\n", None), (["decode"], b"{}\n", None),
        (["decode"], json.dumps([True] * 64).encode(), None),
        (["decode"], json.dumps(["0.5"] * 64).encode(), None),
        (["interpolate", "a", ""], b"", None), (["traverse", "a", "--dim", "999"], b"", None),
        (["arithmetic", "a", "b"], b"", None), (["neighbours", "\udcff"], b"a\n", None),
        (["neighbours", ""], b"a\n", None), (["decode"], b"[1, 2]\n", None), (["decode"], b"[NaN]\n", None),
        (["decode"], b"x\n", None), (["decode"], b"\n", None), (["decode", "-f", folder], b"", None),
        ([*output, "."], b"", None), ([*output, folder], b"", None), ([*output, file], b"", None),
        ([*output, file / "x.parquet"], b"", None), ([*output, folder / "none" / "\0.parquet"], b"", None),
        ([*output, "/proc/x.parquet"], b"", None),
        (["reconstruct", "a", "--model", "x" * 5000], b"", None),
        (["reconstruct", "a", "--model", file], b"", None), (["reconstruct", "a", "--model", "\udcff"], b"", None),
    ):  # fmt: skip
        name = " ".join(str(a)[:20] for a in arguments)
        yield Case(
            f"llamavae {name!a} < {stdin[:20]!r}", partial(_command, arguments, stdin), right
        )


def _command(arguments: list[Any], stdin: bytes) -> list[str]:
    """The lines of standard output; an exit status of 2 with a message as an error of ours."""
    from_pretrained = LlaMaVAE.from_pretrained

    def load(source: Any, **options: Any) -> LlaMaVAE:
        return _model() if source == "mini" else from_pretrained(source, **options)

    with (
        patch.object(LlaMaVAE, "from_pretrained", load),
        patch.dict(os.environ, LLAMAVAE_MODEL="mini", COLUMNS="200"),
    ):
        result = CliRunner().invoke(
            app, list(map(str, arguments)), input=stdin, prog_name="llamavae"
        )
    if result.exit_code == 2 and isinstance(result.exception, SystemExit):
        raise UserError(result.stderr)
    if result.exception is not None:
        raise result.exception
    return result.stdout.splitlines()


# ------------------------------------------------------------------------------- the campaign


def run(n: int = 10**6, seed: int = 0) -> Rows:
    """The outcomes of the first `n` of the fixed cases, then of damaged files up to 500 cases."""
    draw = random.Random(seed)
    rows: Rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fixed = [*_python(), *_guidance(), *_files(folder), *_command_line(folder)]
        draw.shuffle(fixed)
        more = (_damaged(folder, draw) for _ in itertools.count())
        for case in itertools.islice(itertools.chain(fixed, more), min(n, max(500, len(fixed)))):
            found = outcome(case.act, case.right or (lambda _: False))
            if found == "refused" and case.right and not case.name.startswith("damaged"):
                found = "wrongly refused"
            rows.append({"case": case.name, "outcome": found})
    return rows
