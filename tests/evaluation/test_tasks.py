from __future__ import annotations

import logging

import pytest

from llamavae.errors import MissingData, UserError
from llamavae.evaluation.tasks import check_tasks, load_tasks

GROUPS = {"all": ("a", "b", "c")}


def having(*here):
    def load(task):
        if task not in here:
            raise MissingData(f"no file {task}.txt; get it from x")
        return task.upper()

    return load


def test_of_a_group_what_is_found_is_measured_and_the_rest_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        loaded, lost = load_tasks(["all"], GROUPS, having("a", "c"))
    assert loaded == {"a": "A", "c": "C"}
    assert lost == {"b": "no file b.txt; get it from x"}
    assert caplog.messages == ["not measured: b: no file b.txt; get it from x"]


def test_what_is_named_comes_first_and_has_to_be_there():
    loaded, _ = load_tasks(["c", "all"], GROUPS, having("a", "c"))
    assert list(loaded) == ["c", "a"]
    for names in (["b"], ["a", "b"], ["b", "all"], ["all", "b"]):
        with pytest.raises(MissingData, match=r"no file b\.txt"):
            load_tasks(names, GROUPS, having("a", "c"))


def test_nothing_found(caplog):
    with pytest.raises(MissingData, match=r"no file a\.txt"):
        load_tasks(["all"], GROUPS, having())
    assert not caplog.messages
    assert load_tasks([], GROUPS, having()) == ({}, {})
    loaded, lost = load_tasks(["all"], GROUPS, having(), required=False)
    assert not loaded
    assert list(lost) == ["a", "b", "c"]
    with pytest.raises(MissingData, match=r"no file b\.txt"):
        load_tasks(["all", "b"], GROUPS, having(), required=False)


def test_another_error_is_no_missing_file():
    def load(task):
        raise UserError(f"{task}.txt: 3 malformed lines")

    with pytest.raises(UserError, match=r"a\.txt: 3 malformed"):
        load_tasks(["all"], GROUPS, load)


def test_unknown_names():
    check_tasks("task", ["a", "all"], "abc", GROUPS)
    with pytest.raises(UserError, match=r"unknown task 'al'. Did you mean 'all'.*Or pass a file"):
        check_tasks("task", ["al"], "abc", GROUPS, "Or pass a file.")
