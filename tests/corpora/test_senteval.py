from __future__ import annotations

import pytest

from llamavae.corpora.senteval import VARIABLE, Part, load_task
from llamavae.errors import MissingData, UserError

LINES = [
    "tr\tPAST\tHe went home .",
    "tr\tPRES\tHe goes home .",
    "tr\tPRES\tmore fields\tShe stays .",
    "va\tPAST\tIt rained .",
    "te\tPRES\tIt rains .",
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "past_present.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


def test_parts(file):
    expected = {
        "train": Part(
            ["He went home .", "He goes home .", "She stays ."], ["PAST", "PRES", "PRES"]
        ),
        "validation": Part(["It rained ."], ["PAST"]),
        "test": Part(["It rains ."], ["PRES"]),
    }
    assert load_task("Tense", file.parent) == expected


def test_limit_is_a_random_sample(file):
    lines = [f"{part}\t{i // 20}\tsentence {i}" for part in ("tr", "va", "te") for i in range(40)]
    file.write_text("\n".join(lines))  # sorted by label
    parts = load_task("Tense", file.parent, limit=10, seed=1)
    for part in parts.values():
        assert set(part.labels) == {"0", "1"}
        numbers = [int(text.split()[1]) for text in part.texts]
        assert len(set(numbers)) == 10
        assert numbers == sorted(numbers)
        assert part.labels == [str(number // 20) for number in numbers]
    assert load_task("Tense", file.parent, limit=10, seed=1) == parts
    assert load_task("Tense", file.parent, limit=10, seed=2) != parts
    assert len(load_task("Tense", file.parent, limit=99)["test"].texts) == 40
    with pytest.raises(UserError, match="at least 1"):
        load_task("Tense", file.parent, limit=0)


def test_folder_from_the_environment(file, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(file.parent))
    assert load_task("Tense")["test"].labels == ["PRES"]


def test_missing(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(
        MissingData, match=r"not found.*github.com/facebookresearch/SentEval.*LLAMAVAE"
    ):
        load_task("Tense")
    with pytest.raises(MissingData, match=r"no file .*tree_depth\.txt.*github"):
        load_task("Depth", tmp_path)
    with pytest.raises(UserError, match=r"unknown SentEval task 'Dept'\. Did you mean 'Depth'"):
        load_task("Dept", tmp_path)


def test_malformed_lines(file):
    wrong = ["tr PAST spaces only", "dev\tPAST\tno such part", "tr\t\tno label", "te\tPAST\t "]
    file.write_text("\n".join([*LINES, *wrong]))
    with pytest.raises(UserError, match=r"4 malformed lines: 6, 7, 8, 9\. Expected part"):
        load_task("Tense", file.parent)


def test_empty_part(file):
    file.write_text("\n".join(LINES[:3]))
    with pytest.raises(UserError, match="no sentence of the part validation and test"):
        load_task("Tense", file.parent)
