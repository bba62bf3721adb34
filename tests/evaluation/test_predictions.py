from __future__ import annotations

import gzip
import json

import pytest

from llamavae.errors import UserError
from llamavae.evaluation.predictions import (
    Prediction,
    Predictions,
    read_predictions,
    read_submission,
    write_predictions,
    write_submission,
)
from llamavae.files import DiskError

ITEMS = (
    Prediction(
        "0", "", ("a lamp for the hand",), "a horse of wood", "lantern", ("a kind of fish",)
    ),
    Prediction("b", "einen Maulwurf – 鼹", ("a mole", "a burrowing animal"), "", "mole"),
)
WHOLE = Predictions(ITEMS, "ours", "definitions", "zoo", "test")
LINE = {"id": "0", "reference": "a red dog", "prediction": "a dog"}


def write(path, *lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("predictions", [WHOLE, Predictions([Prediction("x", "a", ("b",))])])
def test_what_is_read_is_what_was_written(predictions, tmp_path):
    path = tmp_path / "predictions.jsonl"
    write_predictions(predictions, path)
    read = read_predictions(path)
    assert (list(read.items), read.system) == (list(predictions.items), predictions.system)
    assert (read.task, read.benchmark, read.split) == (
        *(predictions.task, predictions.benchmark, predictions.split),
    )
    (tmp_path / "copy.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read_predictions(tmp_path / "copy.jsonl.gz") == read


def test_a_line_has_only_what_is_known():
    assert list(Predictions([Prediction("x", "a", ("b",))], split="dev").lines()) == [
        {"id": "x", "reference": "b", "prediction": "a", "split": "dev"}
    ]


def test_ids_may_be_integers_and_other_fields_and_blank_lines_are_ignored(tmp_path):
    path = write(tmp_path / "x.jsonl", {**LINE, "id": 7, "bleu": 30.2}, "", {**LINE, "id": 8}, "")
    read = read_predictions(path)
    assert [item.id for item in read.items] == ["7", "8"]
    assert read.system == read.split == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected an object such as"),
        ({"reference": "a", "prediction": "b"}, "expected an id, text or an integer; got None"),
        ({**LINE, "id": True}, "expected an id, text or an integer; got True"),
        ({**LINE, "id": "1"}, "the id '1' is repeated"),
        ({"id": "2", "reference": "a"}, "expected a prediction; the line has id, reference"),
        ({"id": "2", "prediction": "a"}, "either a reference or a list of references"),
        ({**LINE, "references": ["a"]}, "either a reference or a list of references"),
        ({**LINE, "reference": " "}, "at least one reference, and none of them blank"),
        ({"id": "2", "prediction": "a", "references": []}, "at least one reference"),
        ({"id": "2", "prediction": "a", "references": "a"}, "references to be a list of texts"),
        ({"id": "2", "prediction": "a", "references": ["b", 3]}, "references to be text; got 3"),
        ({**LINE, "prediction": ["a"]}, "expected prediction to be text; got ['a']"),
        ({**LINE, "prediction": "a\ud800"}, "half of a surrogate pair"),
        ({**LINE, "control": "a"}, "has a control, but the first item has none"),
        ({**LINE, "lemma": "a"}, "has a lemma, but the first item has none"),
        ({**LINE, "system": "theirs"}, "the system of the lines before, ''; got 'theirs'"),
        ({**LINE, "split": 1}, "expected split to be text; got 1"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(line, message, tmp_path):
    path = write(tmp_path / "x.jsonl", {**LINE, "id": "1"}, "", line)
    with pytest.raises(UserError) as error:
        read_predictions(path)
    assert str(error.value).startswith(f"{path}:3: ")
    assert message in str(error.value)


def test_files_without_predictions_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no predictions"):
        read_predictions(write(tmp_path / "x.jsonl", "", ""))
    with pytest.raises(UserError, match=r"Did you mean x\.jsonl"):
        read_predictions(tmp_path / "y.jsonl")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "at least one prediction"),
        ([ITEMS[0], ITEMS[0]], "the id '0' is repeated"),
        ([Prediction("0", "a", ())], "at least one reference"),
        ([ITEMS[0], Prediction("1", "a", ("b",), lemma="c")], "has no control, but the first"),
    ],
)
def test_predictions_are_checked(items, message):
    with pytest.raises(UserError, match=message):
        Predictions(items)


def test_a_failed_write_keeps_the_old_file(tmp_path):
    with pytest.raises(DiskError):
        write_predictions(WHOLE, tmp_path)


# ------------------------------------------------------------------------------- CODWOE

OFFICIAL = [
    {"id": "xx.test.2", "word": "bank", "pos": "noun", "gloss": "land beside a river"},
    {"id": "xx.test.1", "word": "bank", "pos": "verb", "gloss": "to tip to the side"},
    {"id": "xx.test.3", "word": "din", "pos": None, "gloss": "a loud noise", "sgns": [0.5, 1.0]},
]


@pytest.fixture
def official(tmp_path):
    return write(tmp_path / "xx.test.defmod.complete.json", json.dumps(OFFICIAL))


def submission(place, **changes):
    glosses = {item["id"]: f"predicted {i}" for i, item in enumerate(OFFICIAL)} | changes
    items = [{"id": name, "gloss": text} for name, text in reversed(glosses.items())]
    return write(place / "mine.json", json.dumps(items))


def test_a_submission_is_read_with_the_official_file(official, tmp_path):
    read = read_submission(submission(tmp_path, **{"xx.test.3": ""}), official)
    assert read == Predictions(
        [
            Prediction("xx.test.2", "predicted 0", ("land beside a river",), lemma="bank (noun)"),
            Prediction("xx.test.1", "predicted 1", ("to tip to the side",), lemma="bank (verb)"),
            Prediction("xx.test.3", "", ("a loud noise",), lemma="din"),
        ],
        *("mine", "definitions", "CODWOE", "xx.test"),
    )


def test_a_submission_is_written_as_the_scorer_reads_it(official, tmp_path):
    path = submission(tmp_path)
    read = read_submission(path, official)
    write_submission(read, tmp_path / "again.json")
    written = json.loads((tmp_path / "again.json").read_text(encoding="ascii"))
    by_id = {item["id"]: item for item in json.loads(path.read_text())}
    assert {item["id"]: item for item in written} == by_id
    assert read_submission(tmp_path / "again.json", official).items == read.items


def test_submissions_with_other_items_are_refused(official, tmp_path):
    path = submission(tmp_path, **{"xx.test.9": "a"})
    with pytest.raises(UserError, match=r"item 'xx\.test\.9' does not occur in .*complete\.json"):
        read_submission(path, official)
    write(path, json.dumps([{"id": "xx.test.1", "gloss": "a"}]))
    with pytest.raises(UserError, match=r"expected a gloss for the item 'xx\.test\.2'"):
        read_submission(path, official)


@pytest.mark.parametrize("field", ["word", "gloss"])
def test_an_official_file_that_is_not_complete_is_refused(field, tmp_path):
    path = submission(tmp_path)
    part = [{key: item[key] for key in item if key != field} for item in OFFICIAL]
    with pytest.raises(UserError, match="expected a complete file"):
        read_submission(path, write(tmp_path / "x.json", json.dumps(part)))
