from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llamavae.corpora import load_corpus
from llamavae.corpora.codwoe import KINDS, read_items, write_definitions, write_vectors
from llamavae.corpora.splits import SHARES
from llamavae.errors import UserError

TRIAL = Path(__file__).parents[3] / "shared/data/codwoe-it/it.trial.complete.json"

ITEMS = [
    {
        "id": "xx.trial.1",
        "word": "glim",
        "pos": "noun",
        "gloss": " a small lamp ",
        "example": "she lit the glim",
        "counts": 12,
        "type": "3;4",
        "sgns": [0.5, -1, 2.25],
        "char": [1.0, 0.0],
    },
    {
        "id": "xx.trial.2",
        "word": "bort",
        "pos": "verb",
        "gloss": "walk sideways",
        "example": None,
        "sgns": [1.5, 0.1, 0.0],
        "char": [0.0, 1e-3],
    },
]


@pytest.fixture
def save(tmp_path):
    def write(content) -> Path:
        path = tmp_path / "xx.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def changed(**fields):
    """The two items, the second with other fields."""
    return [ITEMS[0], ITEMS[1] | fields]


# --------------------------------------------------------------------------------------- reading


def test_items(save):
    first, second = read_items(save(ITEMS))
    assert (first.id, first.word, first.pos) == ("xx.trial.1", "glim", "noun")
    assert (first.gloss, first.example) == (" a small lamp ", "she lit the glim")
    assert second.example is None
    assert list(first.vectors) == ["sgns", "char"]
    assert first.vectors["sgns"].dtype == np.float32
    assert first.vectors["sgns"].tolist() == [0.5, -1, 2.25]
    assert second.vectors["char"].tolist() == [0.0, float(np.float32(1e-3))]


def test_test_files_lack_what_is_to_be_found(save):
    (revdict,) = read_items(save([{"id": "en.test.revdict.1", "gloss": "a small lamp"}]))
    assert (revdict.word, revdict.gloss, revdict.vectors) == (None, "a small lamp", {})
    (defmod,) = read_items(save([{"id": "en.test.defmod.1", "electra": [1, 2]}]))
    assert defmod.gloss is None
    assert defmod.vectors["electra"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"xx\.json:1: not valid JSON"),
        ('[{"id": "a"},\n {"id": ]', r"xx\.json:2: not valid JSON \(Expecting value at column 9"),
        ("{}", r"xx\.json: expected an array of CODWOE items, not dict"),
        ([], "xx.json has no items"),
        ([ITEMS[0], "glim"], "entry 2 is not a JSON object"),
        ([{"gloss": "a lamp"}], "entry 1 has no id"),
        (changed(id=7), "entry 2 has no id"),
        (changed(id="xx.trial.1"), "two items have the id 'xx.trial.1'"),
        (changed(word=["a"]), r"item 'xx\.trial\.2': word is \['a'\]; expected text"),
        (changed(sgns="1 2 3"), r"item 'xx\.trial\.2': sgns is not a list of numbers"),
        (changed(sgns=[1, "2", 3]), "sgns is not a list of numbers"),
        (changed(sgns=[1, None, 3]), "sgns is not a list of numbers"),
        (changed(sgns=[[1, 2, 3]]), "sgns is not a list of numbers"),
        (changed(sgns=[[1], [2, 3]]), "sgns is not a list of numbers"),
        (changed(sgns=[]), "sgns is not a list of numbers"),
        (changed(char=[1.0, float("nan")]), r"item 'xx\.trial\.2': char holds NaN or an inf"),
        (changed(char=[1.0, float("inf")]), "char holds NaN or an infinite number"),
        (changed(char=[1.0, 1e39]), "char holds NaN or an infinite number"),
        (changed(char=[1.0]), r"item 'xx\.trial\.2': char has 1 numbers; .* before it have 2"),
    ],
)
def test_wrong_files(save, content, message):
    with pytest.raises(UserError, match=message):
        read_items(save(content))


def test_no_such_file(save):
    path = save(ITEMS)
    with pytest.raises(UserError, match=r"no such file: .*xy\.json\. Did you mean xx\.json"):
        read_items(path.with_name("xy.json"))


@pytest.mark.skipif(not TRIAL.is_file(), reason="the trial file of CODWOE is not here")
def test_real_trial_file():
    items = read_items(TRIAL)
    assert len(items) == 200
    assert [item.id for item in items[:2]] == ["it.trial.1", "it.trial.2"]
    assert all(item.word and item.pos and item.gloss for item in items)
    assert {kind: len(v) for item in items for kind, v in item.vectors.items()} == {
        "sgns": 256,
        "char": 256,
    }
    data = load_corpus("codwoe", path=TRIAL)
    assert data.column_names == ["text", "id", "word", "pos", "sgns", "char"]
    assert len(data) == 200


# ---------------------------------------------------------------------------------------- corpus


def test_corpus(save):
    data = load_corpus("codwoe", path=save(ITEMS))
    assert data.column_names == ["text", "id", "word", "pos", "example", "sgns", "char"]
    assert list(data["text"]) == ["a small lamp", "walk sideways"]
    assert list(data["id"]) == ["xx.trial.1", "xx.trial.2"]
    assert list(data["example"]) == ["she lit the glim", None]
    assert data[0]["sgns"] == [0.5, -1, 2.25]
    assert str(data.features["sgns"].feature.dtype) == "float32"


def test_what_is_held_back_of_an_official_split_is_told(save, caplog):
    items = [{"id": f"xx.train.{i}", "gloss": f"a lamp of kind {i}"} for i in range(40)]
    path = save(items)
    whole = load_corpus("codwoe", path=path)
    assert list(whole["id"]) == [item["id"] for item in items]
    assert not caplog.messages
    parts = {name: load_corpus("codwoe", name, path=path) for name in SHARES}
    assert sum(map(len, parts.values())) == 40
    assert len(caplog.messages) == 3
    train = caplog.messages[list(SHARES).index("train")]
    assert "the split train is 36 of the 40 sentences of the published split train" in train
    assert "held back for test and validation" in train
    assert len(parts["train"]) == 36


def test_columns_are_those_of_the_file(save):
    bare = [{"id": item["id"], "gloss": item["gloss"]} for item in ITEMS]
    assert load_corpus("codwoe", path=save(bare)).column_names == ["text", "id"]
    one = [bare[0], bare[1] | {"char": [1, 2]}]
    assert list(load_corpus("codwoe", path=save(one))["char"]) == [None, [1, 2]]


@pytest.mark.parametrize("gloss", [None, "  "])
def test_corpus_needs_definitions(save, gloss):
    with pytest.raises(UserError, match=r"item 'xx\.trial\.2' has no gloss.*defmod track"):
        load_corpus("codwoe", path=save(changed(gloss=gloss)))


def test_corpus_needs_a_path():
    with pytest.raises(UserError, match=r"codwoe needs path=.*https://codwoe\.atilf\.fr"):
        load_corpus("codwoe")


# ------------------------------------------------------------------------------------ submissions


def check_submission(path: Path) -> tuple[str, str, set[str]]:
    """What the task's format checker asks of a file; track, language and kinds of vectors."""
    items = json.loads(path.read_bytes().decode("ascii"))
    assert isinstance(items, list)
    assert all("id" in item for item in items)
    ids = [item["id"].split(".") for item in items]
    (language,) = {parts[0] for parts in ids}
    (track,) = {parts[-2] for parts in ids}
    assert track in ("revdict", "defmod")
    assert language in ("en", "es", "fr", "it", "ru")
    assert sorted({int(parts[-1]) for parts in ids}) == list(range(1, len(ids) + 1))
    # the scorer takes every key that is none of these for a kind of vectors
    known = {"id", "gloss", "word", "pos", "concrete", "example", "f_rnk", "counts", "polysemous"}
    kinds = set(items[0]) - known
    if track == "revdict":
        assert kinds
        assert kinds <= {"sgns", "char", "electra"}
        assert all(kinds <= set(item) for item in items)
    else:
        assert all(isinstance(item["gloss"], str) for item in items)
    return track, language, kinds


def test_definitions_pass_the_checker(tmp_path):
    path = tmp_path / "it.json"
    ids = [f"it.test.defmod.{i}" for i in range(1, 12)]
    glosses = [f"città numero {i} “x”\n" for i in range(11)]
    write_definitions(path, ids, glosses)
    assert check_submission(path) == ("defmod", "it", set())
    assert json.loads(path.read_text()) == [
        {"id": i, "gloss": gloss} for i, gloss in zip(ids, glosses, strict=True)
    ]


@pytest.mark.parametrize("kinds", [("sgns",), ("sgns", "char"), KINDS])
def test_vectors_pass_the_checker(tmp_path, kinds):
    path = tmp_path / "en.json"
    ids = [f"en.test.revdict.{i}" for i in range(1, 12)]
    random = np.random.default_rng(0)
    vectors = {kind: random.normal(size=(11, 256)).astype(np.float32) for kind in kinds}
    write_vectors(path, ids, vectors)
    assert check_submission(path) == ("revdict", "en", set(kinds))
    items = read_items(path)
    assert [item.id for item in items] == ids
    for kind in kinds:  # not a digit is lost
        assert np.array_equal(np.stack([item.vectors[kind] for item in items]), vectors[kind])


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "it.json"
    write_definitions(path, ["it.trial.1"], ["a"])
    write_definitions(path, ["it.trial.1"], ["b"])
    assert json.loads(path.read_text()) == [{"id": "it.trial.1", "gloss": "b"}]
    with pytest.raises(UserError):
        write_vectors(path, ["it.trial.1"], {"sgns": [[float("nan")]]})
    assert json.loads(path.read_text()) == [{"id": "it.trial.1", "gloss": "b"}]
    assert [file.name for file in tmp_path.iterdir()] == ["it.json"]


@pytest.mark.parametrize(
    ("ids", "glosses", "message"),
    [
        (["a"], [], r"0 definitions for 1 id;"),
        ([], [], "no definitions to write"),
        (["a", "b", "a"], ["x", "y", "z"], "the id 'a' occurs twice"),
    ],
)
def test_definitions_that_make_no_submission(tmp_path, ids, glosses, message):
    with pytest.raises(UserError, match=message):
        write_definitions(tmp_path / "a.json", ids, glosses)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({}, "at least one kind of sgns, char, electra"),
        ({"sngs": [[1.0], [2.0]]}, "unknown kind of vector 'sngs'. Did you mean 'sgns'"),
        ({"sgns": [[1.0]]}, r"1 vectors of sgns for 2 ids;"),
        ({"sgns": [[1.0], [np.inf]]}, "vectors of sgns: row 2 holds NaN"),
        ({"sgns": [1.0, 2.0]}, r"vectors of sgns: expected numbers of shape \(N, C\)"),
    ],
)
def test_vectors_that_make_no_submission(tmp_path, vectors, message):
    with pytest.raises(UserError, match=message):
        write_vectors(tmp_path / "a.json", ["a", "b"], vectors)


def test_no_folder_to_write_to(tmp_path):
    with pytest.raises(UserError, match=r"could not write .*nowhere"):
        write_definitions(tmp_path / "nowhere" / "a.json", ["a"], ["x"])
