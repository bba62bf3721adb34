"""From a CODWOE file through a fit to its submissions, for each kind of vectors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests import tiny

SIZES = {"sgns": 4, "char": 3, "electra": 5}
TRIAL = Path(__file__).parents[3] / "shared/data/codwoe-it/it.trial.complete.json"


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    place = tmp_path_factory.mktemp("codwoe") / "vae"
    tiny.vae(max_tokens=8).save_pretrained(place)
    return str(place)


@pytest.fixture
def made(tmp_path):
    items = [
        {"id": f"xx.trial.{i}", "word": f"w{i}", "pos": "noun", "gloss": f"{text} {i}"}
        | {kind: [i / 7 + j for j in range(size)] for kind, size in SIZES.items()}
        for i, text in enumerate(tiny.SENTENCES * 3)
    ]
    path = tmp_path / "xx.trial.json"
    path.write_text(json.dumps(items))
    return path


def submissions(run, vae, file, kind, folder):
    """Definitions and vectors for all items of a file, by a model that was fitted to it."""
    guided, defmod, revdict = (str(folder / n) for n in ("guided", "def.json", "rev.json"))
    fit = run(
        *("fit-condition", "--model", vae, "--corpus", "codwoe", "--path", str(file)),
        *("--vectors", kind, "--split", "all", "--flow", "linear-gaussian", "-o", guided),
    )
    assert fit.exit_code == 0, fit.stderr
    options = ("--file", str(file), "--vectors", kind, "--model", guided)
    for verb, place in (("define", defmod), ("reverse", revdict)):
        result = run(verb, *options, "--submission", place)
        assert result.exit_code == 0, result.stderr
    return [json.loads(Path(place).read_text()) for place in (defmod, revdict)]


@pytest.mark.parametrize("kind", SIZES)
def test_every_kind_of_vectors(run, vae, made, kind, tmp_path):
    defmod, revdict = submissions(run, vae, made, kind, tmp_path)
    ids = [item["id"] for item in json.loads(made.read_text())]
    assert [item["id"] for item in defmod] == [item["id"] for item in revdict] == ids
    assert all(set(item) == {"id", "gloss"} for item in defmod)
    assert all(set(item) == {"id", kind} for item in revdict)
    assert {len(item[kind]) for item in revdict} == {SIZES[kind]}


@pytest.mark.skipif(not TRIAL.is_file(), reason="the Italian trial file of CODWOE is not here")
@pytest.mark.parametrize("kind", ["sgns", "char"])  # it has no electra
def test_the_italian_trial_file(run, vae, kind, tmp_path):
    defmod, revdict = submissions(run, vae, TRIAL, kind, tmp_path)
    assert [item["id"] for item in defmod] == [f"it.trial.{i}" for i in range(1, 201)]
    assert {len(item[kind]) for item in revdict} == {256}
