from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from tests import tiny
from tests.evaluation.systems import DATA, Crashes, Fails, Length, Letters, Likely, Partly

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import system_fingerprint
from llamavae.evaluation.evaluators.reconstruction import Reconstruction
from llamavae.evaluation.results import read_results
from llamavae.evaluation.suite import _settings_of, evaluate
from llamavae.folders import MARKER
from llamavae.metrics.semantic import load_encoder
from llamavae.modeling.backbones import fingerprint
from llamavae.modeling.loading import load_sentence_encoder
from llamavae.report.evaluation import write_evaluation_report
from llamavae.training import load_recipe
from llamavae.training.best import model_evaluator


def test_results_are_what_the_evaluators_found(tmp_path):
    results = evaluate(
        Letters(), DATA, [Length()], tmp_path, model={"source": "letters"}, corpus={"corpus": "x"}
    )
    assert results.rows[0] == {
        "evaluator": "length",
        "metric": "letters",
        "group": "",
        "value": 7.5,
        "control": 0.0,
        "low": 3.5,
        "high": 9.0,
        "unit": "letters",
        "direction": "higher",
        "n": 4,
    }
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["system"] == tmp_path.name
    assert saved["model"] == {"source": "letters", "fingerprint": "Letters"}
    assert saved["data"]["texts"] == 4
    assert saved["data"]["labels"] == ["number"]
    length = saved["evaluators"]["length"]
    assert length["settings"] == {"factor": 1.0}
    assert length["metrics"][0]["definition"] == "Mean number of letters per text."
    signature = Length.metrics[0].signature({"factor": 1.0})
    assert length["metrics"][0]["signature"] == signature
    assert signature.startswith("factor:1.0|version:llamavae ")
    assert {"command", "version", "commit", "machine", "torch"} <= set(length["made_by"])
    assert length["seconds"] >= 0
    with (tmp_path / "rows.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["metric"] for row in table] == ["letters", "letters", "words"]
    lines = (tmp_path / "length" / "per-text.jsonl").read_text().splitlines()
    assert json.loads(lines[2]) == {
        "text": "an owl <b>",
        "letters": 10.0,
        "words": 3.0,
        "vector": [10.0, 3.0],
    }


def test_a_sample_of_the_sentences_is_stated(tmp_path):
    short, whole = Length(), Partly()
    short.limit, whole.limit = 3, 4  # type: ignore[attr-defined]
    data = replace(DATA, seed=7)
    evaluate(Letters(), data, [short, whole], tmp_path)
    found = read_results(tmp_path).found
    assert found["length"].sentences == "3 of 4, chosen at random with seed 7"
    assert found["partly"].sentences == "all 4"
    page = write_evaluation_report(tmp_path).read_text(encoding="utf-8")
    assert "3 of 4, chosen at random with seed 7" in page
    assert "Signature: factor:1.0|" in page


def test_what_is_read_is_what_was_written(tmp_path):
    predictions = evaluate(Letters(), DATA, [Length(), Fails(), Likely()], tmp_path)
    read = read_results(tmp_path)
    assert read.rows == predictions.rows
    assert read.skipped == predictions.skipped
    assert read.failed == predictions.failed
    found = read.found["length"]
    assert found.evaluation.value("letters") == 7.5
    assert [row["letters"] for row in found.evaluation.tables["per text"]] == [5, 8, 10, 7]
    assert found.primary == predictions.found["length"].evaluation.rows[0]


def test_what_cannot_run_is_said_and_the_others_run(tmp_path, capsys):
    data = replace(DATA, progress=True)
    results = evaluate(Letters(), data, [Fails(), Likely(), Length()], tmp_path)
    assert results.failed == {"fails": "there is no file x.csv; get it from y"}
    assert "needs a system with a likelihood p(x|z)" in results.skipped["likely"]
    assert list(results.found) == ["length"]
    shown = capsys.readouterr().err
    assert "[1/3] fails failed: there is no file x.csv" in shown
    assert "[2/3] likely skipped: it needs a system" in shown
    assert "[3/3] length " in shown


def test_what_was_not_found_is_said_and_looked_for_again(tmp_path):
    partly = Partly()
    for calls in (1, 2):
        evaluate(Letters(), DATA, [partly, Length()], tmp_path)
        assert partly._calls == calls
    read = read_results(tmp_path)
    assert read.not_found == {"partly, task 2": "there is no file y.csv; get it from z"}
    assert read.found["partly"].evaluation.value("letters") == 7.5


def test_what_was_found_is_kept_until_as_much_is_found_again(tmp_path):
    def again(lost, factor=1.0):
        return evaluate(Letters(), DATA, [Partly(factor, lost=lost)], tmp_path)

    first = again(["task 2"]).found["partly"]
    failed = again(None)
    assert failed.found["partly"] == read_results(tmp_path).found["partly"] == first
    assert failed.failed == {"partly": "the hub is down (the previous results are kept)"}
    less = again(["task 1", "task 2"])
    assert less.found["partly"] == read_results(tmp_path).found["partly"] == first
    assert not less.failed
    assert read_results(tmp_path).failed == {}
    assert again(None, 2.0).found["partly"] == first
    assert read_results(tmp_path).failed["partly"].endswith("(the previous results are kept)")
    assert not again([]).not_found
    again(None, 2.0)
    assert not again([]).failed  # done already: what failed is not asked for any more
    assert read_results(tmp_path).failed == {}
    assert again(["task 2"], 2.0).found["partly"].evaluation.value("letters") == 15


def test_a_mistake_of_ours_keeps_what_is_finished(tmp_path):
    with pytest.raises(RuntimeError):
        evaluate(Letters(), DATA, [Length(), Crashes()], tmp_path)
    first = read_results(tmp_path).found["length"]
    again = Length()
    results = evaluate(Letters(), DATA, [again, Fails()], tmp_path)
    assert again._calls == 0
    assert results.found["length"] == first
    assert read_results(tmp_path).failed == {"fails": "there is no file x.csv; get it from y"}


def test_other_settings_are_measured_again(tmp_path):
    evaluate(Letters(), DATA, [Length()], tmp_path)
    results = evaluate(Letters(), DATA, [Length(2.0)], tmp_path)
    assert results.found["length"].evaluation.value("letters") == 15
    assert read_results(tmp_path).rows == results.rows


def test_evaluations_of_one_system_add_up(tmp_path):
    evaluate(Letters(), DATA, [Length()], tmp_path)
    evaluate(Letters(), DATA, [Fails()], tmp_path)
    read = read_results(tmp_path)
    assert list(read.found) == ["length"]
    assert list(read.failed) == ["fails"]


class Others(Letters):
    pass


@pytest.mark.parametrize(
    ("system", "data", "what"),
    [
        (Others(), DATA, "another model"),
        (Letters(), replace(DATA, texts=[*DATA.texts[1:], "a bee"]), "other sentences or labels"),
        (Letters(), replace(DATA, labels={}), "other sentences or labels"),
        (Letters(), replace(DATA, seed=1), "other sentences or labels"),
        (Letters(), replace(DATA, training_texts=()), "other training sentences"),
    ],
)
def test_a_folder_of_something_else_is_refused(system, data, what, tmp_path):
    evaluate(Letters(), DATA, [Length()], tmp_path)
    with pytest.raises(UserError, match=f"holds an evaluation with {what}"):
        evaluate(system, data, [Length()], tmp_path)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    (tmp_path / MARKER).write_text('{"kind": "a training run"}')
    with pytest.raises(UserError, match=r"holds a training run.*Choose another folder with --out"):
        evaluate(Letters(), DATA, [Length()], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file is in the way"):
        evaluate(Letters(), DATA, [Length()], tmp_path / "file" / "x")


@pytest.mark.parametrize("text", ["", "[]", '{"metrics": {}, "evaluators": {}}'])
def test_a_folder_without_an_evaluation(text, tmp_path):
    with pytest.raises(UserError, match=r"results\.json is missing"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        read_results(tmp_path)


def test_fingerprints_follow_the_weights():
    vae = tiny.vae()
    before = system_fingerprint(vae)
    assert system_fingerprint(vae) == before
    vae.posterior.linear.weight.data[0, 0] += 1
    assert system_fingerprint(vae) != before
    assert vae.encoder is not None
    assert system_fingerprint(vae.encoder) == vae.encoder.cache_key()
    assert system_fingerprint(vae.posterior) != before


def test_settings_are_public_attributes():
    assert _settings_of(Length(3.0)) == {"factor": 3.0}


def test_settings_tell_encoders_apart():
    mean, same, cls = (
        load_sentence_encoder(tiny.encoder(kind)) for kind in ("bert-mean", "bert-mean", "bert-cls")
    )
    settings = [_settings_of(Reconstruction(encoder=each)) for each in (mean, same, cls)]
    assert settings[0] == settings[1] != settings[2]
    assert settings[0]["encoder"] == mean.cache_key()
    (model, tokenizer) = load_encoder(tiny.encoder("bert"))
    pair = _settings_of(Reconstruction(bertscore=(model, tokenizer)))["bertscore"]
    assert pair[0] == fingerprint(model)


def test_an_evaluator_for_training_measures_on_validation_sentences():
    recipe = load_recipe("demo", ["corpus.limit=300", "evaluation.sentences=9"])
    first, *_ = model_evaluator("latent_usage", recipe)(tiny.vae())
    assert (first["metric"], first["n"]) == ("active units", 9)
    with pytest.raises(UserError, match="unknown evaluator"):
        model_evaluator("usge", recipe)
