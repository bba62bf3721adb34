from __future__ import annotations

import csv
import io
import json
import shutil

import pytest
from rich.console import Console
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.corpora import factors
from llamavae.demo import run_demo
from llamavae.demo.tour import interpolations
from llamavae.errors import MissingData, UserError

SHORT = [
    "optimisation={steps: 4, batch_size: 4}",
    "evaluation={every: 2, sentences: 4, decoded: 2}",
    "output={save_every: 2, log_every: 1}",
]


@pytest.fixture(autouse=True, scope="module")
def _little(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llamavae.demo.run._OWN", 60)
        patch.setattr("llamavae.demo.run._SAMPLES", 8)
        patch.setattr("llamavae.demo.tour._REFINED", 2)
        patch.setenv("LLAMAVAE_CACHE", str(tmp_path_factory.mktemp("demo-cache")))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model in a folder."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.vae(embed_backbones=True).save_pretrained(folder)
    return str(folder)


def demo(folder, model, sentences=None, overrides=SHORT):
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    result = run_demo(folder, sentences, overrides, console, progress=False, model=model)
    return result, shown.getvalue()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model):
    """The folder of a demo, its result, and what it showed."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    return folder, *demo(folder, model)


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_demo_leaves_everything_in_its_folder(whole, model):
    folder, result, shown = whole
    for name in ("reconstruct", "refine", "interpolate", "arithmetic", "sample", "metrics"):
        assert name in shown
    assert f"{folder / 'report.html'}" in shown

    lines = (folder / "sentences.txt").read_text().splitlines()
    assert len(set(lines)) == 60
    assert lines[0][0].isupper()
    assert all(factors.parse(line[:-1].lower()) for line in lines)

    saved = json.loads((folder / "results.json").read_text())
    assert saved["demo"] == result.metrics
    assert saved["recipe"]["start_from"] == model
    names = [row["metric"] for row in result.metrics]
    assert names == ["BLEU", "exact match", "different samples", "grammatical samples"]
    assert all(isinstance(row[key], float) for row in result.metrics for key in ("before", "after"))
    assert isinstance(result.metrics[0]["shuffled"], float)

    held_out = rows(folder / "predictions.csv")
    assert len(held_out) == 3
    assert {"reference", "before", "prediction", "control"} <= set(held_out[0])
    assert {row["reference"] for row in held_out} < set(lines)
    assert len(rows(folder / "samples.csv")) == 8

    page = result.report.read_text(encoding="utf-8")
    assert "before the fine-tune" in page
    assert "grammatical samples" in page
    assert LlaMaVAE.from_pretrained(folder / "model").sample(1, seed=0)

    again, shown = demo(folder, model)
    assert "already trained" in shown
    assert again.metrics == result.metrics

    with pytest.raises(UserError, match="other settings"):
        demo(folder, model, overrides=[*SHORT, "optimisation.steps=6"])


def test_interrupted_demo_is_resumed(whole, model):
    folder, result, _ = whole
    (folder / "results.json").unlink()
    for name in ("model", "checkpoint-4"):
        shutil.rmtree(folder / name)
    resumed, shown = demo(folder, model)
    assert "Continuing the interrupted run" in shown
    assert resumed.metrics == result.metrics


def test_missing_sentences_are_found_before_a_download(tmp_path, monkeypatch):
    monkeypatch.setattr("llamavae.demo.run.fetch", lambda *_, **__: pytest.fail("a download"))
    monkeypatch.setattr("llamavae.demo.run.preferred", lambda *_: ("mini", "small"))
    with pytest.raises(UserError, match=r"nothing\.txt"):
        run_demo(tmp_path / "run", tmp_path / "nothing.txt", [], Console(quiet=True))


def test_demo_takes_sentences_of_ones_own(tmp_path, model):
    file = tmp_path / "mine.csv"
    lines = [f"{i},sentence number {i} is about a dog" for i in range(40)]
    file.write_text("\n".join(["id,review", *lines]))
    result, shown = demo(tmp_path / "run", model, file, [*SHORT, "corpus.column=review"])
    assert str(file) in shown
    assert not (tmp_path / "run" / "sentences.txt").exists()
    assert "grammatical samples" not in [row["metric"] for row in result.metrics]


def test_demo_refuses_a_file_that_is_too_short(tmp_path, model):
    file = tmp_path / "mine.txt"
    file.write_text("a dog barks\nan owl reads\nrobots paint\nseven trains leave\n")
    with pytest.raises(UserError, match="several hundred sentences"):
        demo(tmp_path / "run", model, file)


@pytest.mark.parametrize("reachable", [True, False])
def test_the_default_is_fetched_or_else_complete(tmp_path, monkeypatch, reachable):
    library = tiny.library(tmp_path / "library", complete=False)
    monkeypatch.setattr("llamavae.pretrained.catalogue._library", lambda: library)
    asked = []

    def fetch(name, progress):
        asked.append(name)
        if not reachable:
            raise MissingData("no source has it\n- the hub: not there")

    monkeypatch.setattr("llamavae.demo.run.fetch", fetch)

    def stop(*_, **__):
        raise UserError("far enough")

    monkeypatch.setattr("llamavae.demo.run.load_recipe", stop)
    shown = io.StringIO()
    with pytest.raises(UserError, match="far enough"):
        run_demo(tmp_path / "run", console=Console(file=shown, width=200), progress=False)
    assert asked == ["small"]
    assert "all-minilm-l6-v2 (Apache-2.0), 92 MB" in shown.getvalue()
    assert ("uses the bundled model mini" in shown.getvalue()) is not reachable


def test_the_default_is_not_fetched_when_it_is_here(tmp_path, monkeypatch):
    library = tiny.library(tmp_path / "library", complete=True)
    monkeypatch.setattr("llamavae.pretrained.catalogue._library", lambda: library)
    monkeypatch.setattr("llamavae.demo.run._SETTINGS", {"small": {}})
    result, shown = demo(tmp_path / "run", None)
    assert "What small does" in shown
    assert (
        json.loads((result.folder / "results.json").read_text())["recipe"]["start_from"] == "small"
    )


def test_interpolations_end_at_the_reconstructions():
    model = tiny.vae()
    a, b, c = tiny.SENTENCES[:3]
    rows = interpolations(model, [(a, b), (b, c)], steps=5)
    assert [row["pair"] for row in rows] == [1] * 5 + [2] * 5
    assert [row["position"] for row in rows[:5]] == [0, 0.25, 0.5, 0.75, 1]
    ends = [rows[i]["text"] for i in (0, 4, 5, 9)]
    assert ends == model.reconstruct([a, b, b, c])
