from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import tiny

from llamavae.cli.fitting import FlowOptions
from llamavae.flows import FitConfig, load_flow
from llamavae.modeling.loading import load_sentence_encoder

LABELS = ["short", "long"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved VAE, a corpus with words, labels and vectors, and word vectors."""
    place = tmp_path_factory.mktemp("guidance")
    tiny.vae().save_pretrained(place / "vae")
    texts = [f"{text} {i}" for i in range(6) for text in tiny.SENTENCES]
    rows = [
        {
            "text": text,
            "word": text.split()[1],
            "size": LABELS[len(text) > 28],
            "c": [float(len(text)), float(text.count("e"))],
        }
        for text in texts
    ]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = sorted({row["word"] for row in rows})
    vectors = "".join(f"{word} {len(word)} {i} 1\n" for i, word in enumerate(words[1:]))
    (place / "words.vec").write_text(vectors, encoding="utf-8")
    items = [
        {"id": f"it.test.defmod.{i}", "word": w, "gloss": t, "sgns": [float(i), 1.0]}
        for i, (w, t) in enumerate(zip(words, texts, strict=False), 1)
    ]
    (place / "codwoe.json").write_text(json.dumps(items), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def made():
    return {}


@pytest.fixture
def fit(folder, run, made):
    """Fits once for each set of options; returns the folder of the result."""

    def call(*options: str) -> str:
        if options not in made:
            place = folder / f"guided-{len(made)}"
            result = run(
                *("fit-condition", "--model", str(folder / "vae"), "--steps", "5", *options),
                *("--corpus", str(folder / "rows.jsonl"), "--split", "all", "-o", str(place)),
            )
            assert result.exit_code == 0, result.stderr
            made[options] = str(place)
        return made[options]

    return call


def test_fit_shows_the_gaussians_beside(folder, run, tmp_path):
    result = run(
        *("fit-condition", "--model", str(folder / "vae"), "--steps", "5", "--split", "all"),
        *("--corpus", str(folder / "rows.jsonl"), "-o", str(tmp_path / "new")),
    )
    assert result.exit_code == 0, result.stderr
    names = {line.split("\t")[1] for line in result.stdout.splitlines()}
    assert names == {"gaussian", "linear-gaussian", "this flow"}
    assert str(tmp_path / "new") in result.stderr
    assert not (tmp_path / "new" / "state").exists()


def test_define(fit, run):
    guided = fit()
    result = run("define", "dog", "--model", guided, "-n", "2", "--seed", "1", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["word"] for row in rows] == ["dog", "dog"]
    again = run("define", "dog", "--model", guided, "-n", "2", "--seed", "1", "--json")
    assert again.stdout == result.stdout
    centre = run("define", "dog", "river", "--model", guided, "--spread", "0")
    assert [line.split("\t")[0] for line in centre.stdout.splitlines()] == ["dog", "river"]


def test_define_in_a_context(fit, run):
    guided = fit()
    options = ("--model", guided, "--spread", "0", "--json")
    alone, inside = (
        run("define", "dog", *options),
        run("define", "dog", "--context", "a dog barks at the moon", *options),
    )
    assert json.loads(inside.stdout)["word"] == "dog"
    assert alone.exit_code == inside.exit_code == 0


def test_define_shows_the_best_of_several_draws(fit, run):
    options = ("define", "dog", "river", "--model", fit(), "--seed", "1", "--json")
    result = run(*options, "-n", "2", "--draws", "5")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["word"] for row in rows] == ["dog", "dog", "river", "river"]
    assert run(*options, "-n", "2", "--draws", "5").stdout == result.stdout
    wrong = run(*options, "-n", "2", "--draws", "1")
    assert wrong.exit_code == 2
    assert "at least as many draws as texts, 2" in wrong.stderr


def test_a_fit_with_contexts_has_each_word_both_ways(folder, run, tmp_path):
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        row["sentence"] = f"here is {row['word']} now" if i % 2 else None
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = run(
        *("fit-condition", "--model", str(folder / "vae"), "--steps", "5", "--split", "all"),
        *("--corpus", str(tmp_path / "rows.jsonl"), "--context", "sentence"),
        *("-o", str(tmp_path / "new")),
    )
    assert result.exit_code == 0, result.stderr
    assert f"{len(rows) + len(rows) // 2} pairs" in result.stderr
    words = (tmp_path / "new" / "vocabulary.txt").read_text().splitlines()
    assert set(words) == {row["word"] for row in rows}  # without sentences


def test_guide_by_labels(fit, run):
    guided = fit("--labels", "size")
    result = run("guide", "size=short", "size=long", "--model", guided, "-n", "2", "--json")
    asked = [json.loads(line)["condition"] for line in result.stdout.splitlines()]
    assert asked == ["size=short"] * 2 + ["size=long"] * 2
    wrong = run("guide", "size=shrt", "--model", guided)
    assert wrong.exit_code == 2
    assert "Did you mean 'short'" in wrong.stderr


def test_a_model_of_words_refuses_labels(fit, run):
    guided = fit()
    for arguments, label in [
        (("guide", "river", "size=short"), "size=short"),
        (("translate", "a dog", "--from", "river", "--to", "size=long"), "size=long"),
    ]:
        result = run(*arguments, "--model", guided)
        assert result.exit_code == 2
        assert f"{label!r} is a label, but {guided} takes words" in result.stderr
        assert "`llamavae fit-condition --labels` with --model" in result.stderr
    assert run("guide", "river", "--model", guided).exit_code == 0


def test_a_model_of_word_vectors_refuses_labels(folder, fit, run):
    guided = fit("--word-vectors", str(folder / "words.vec"))
    result = run("guide", "river", "size=short", "--model", guided)
    assert result.exit_code == 2
    assert "1 word without a vector" in result.stderr


def test_known_words_may_contain_an_equals_sign(folder, run, tmp_path):
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    text = "\n".join(json.dumps(row | {"word": f"{row['word']}=x"}) for row in rows)
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    guided = tmp_path / "guided"
    fitted = run(
        *("fit-condition", "--model", str(folder / "vae"), "--steps", "5", "--split", "all"),
        *("--corpus", str(tmp_path / "rows.jsonl"), "-o", str(guided)),
    )
    assert fitted.exit_code == 0, fitted.stderr
    assert run("guide", "river=x", "--model", str(guided)).exit_code == 0
    assert run("guide", "river=y", "--model", str(guided)).exit_code == 2


def test_translate(fit, run):
    guided = fit("--labels", "size")
    same = run(
        *("translate", "a dog is a kind of animal", "--model", guided),
        *("--from", "size=short", "--to", "size=short", "--json"),
    )
    found = json.loads(same.stdout)
    assert found["text"] == "a dog is a kind of animal"
    config = json.loads((Path(guided) / "config.json").read_text(encoding="utf-8"))
    kept = run("reconstruct", found["text"], "--model", config["vae"], "--json")
    assert found["translation"] == json.loads(kept.stdout)["reconstruction"]


def test_reverse(fit, run, tmp_path):
    guided = fit()
    result = run("reverse", "a kind of animal", "--model", guided, "-k", "3", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    densities = [row["log_prob"] for row in rows]
    assert len(rows) == 3
    assert densities == sorted(densities, reverse=True)
    (tmp_path / "words.txt").write_text("dog\nmoon\n", encoding="utf-8")
    chosen = run(
        *("reverse", "a kind of animal", "--model", guided, "--json"),
        *("--candidates", str(tmp_path / "words.txt")),
    )
    assert {json.loads(line)["word"] for line in chosen.stdout.splitlines()} == {"dog", "moon"}


def test_the_options_of_a_fit_arrive(fit, run):
    networks = ("--base-hidden", "8, 6", "--ensemble-size", "3", "--dropout", "0.2")
    training = ("--contrastive-weight", "2", "--context-noise", "0.3", "--train-batch-size", "8")
    guided = Path(fit(*networks, *training, "--patience", "7", "--posterior-scale", "0.4"))
    settings = load_flow(guided / "flow.safetensors").settings
    assert settings["base_hidden"] == [8, 6]
    assert settings["ensemble_size"] == 3
    assert settings["dropout"] == 0.2
    report = json.loads((guided / "config.json").read_text())["report"]
    assert report["posterior_scale"] == 0.4
    assert report["history"][-1]["temperature"] != 1
    assert report["fitting"] == vars(
        FitConfig(steps=5, contrastive_weight=2, context_noise=0.3, batch_size=8, patience=7)
    )
    card = (guided / "README.md").read_text()
    assert "3, each with hidden layers of 8, 6" in card
    assert "Posterior scale: 0.4" in card
    assert "contrastive_weight 2.0, context_noise 0.3" in card
    assert run("reverse", "a kind of animal", "--model", str(guided)).exit_code == 0
    assert run("define", "river", "--model", str(guided)).exit_code == 0


def test_defaults_are_those_of_the_library():
    assert FlowOptions().config() == FitConfig()


def test_an_encoder_of_its_own_reads_the_words(folder, fit, run, tmp_path):
    reader = tmp_path / "reader"
    load_sentence_encoder(tiny.encoder("bert-mean")).save(reader)
    guided = fit("--encoder", str(reader))
    settings = json.loads((Path(guided) / "config.json").read_text())
    assert settings["condition"]["source"] == str(reader)
    reader.rename(tmp_path / "moved")
    lost = run("define", "dog", "--model", guided)
    assert lost.exit_code == 2
    assert "does not exist at" in lost.stderr
    assert "--encoder" in lost.stderr
    found = run("define", "dog", "--model", guided, "--encoder", str(tmp_path / "moved"))
    assert found.exit_code == 0, found.stderr


def test_word_vectors_leave_unknown_words_out_and_say_so(folder, fit, run, tmp_path):
    guided = fit("--word-vectors", str(folder / "words.vec"))
    assert run("define", "river", "--model", guided).exit_code == 0
    unknown = run("define", "xyzzy", "--model", guided)
    assert unknown.exit_code == 2
    assert "'xyzzy'" in unknown.stderr
    (tmp_path / "words.txt").write_text("river\nxyzzy\nriver\n", encoding="utf-8")
    chosen = run(
        *("reverse", "a kind of animal", "--model", guided, "--json"),
        *("--candidates", str(tmp_path / "words.txt")),
    )
    assert [json.loads(line)["word"] for line in chosen.stdout.splitlines()] == ["river"]
    assert "left out 1 of 2 candidates, which have no vector: 'xyzzy'" in chosen.stderr
    context = run("define", "river", "--context", "the river", "--model", guided)
    assert context.exit_code == 2
    assert "not support a context" in context.stderr


def test_codwoe_submissions(folder, fit, run, tmp_path):
    guided = fit("--vectors", "c")
    defmod, revdict = tmp_path / "defmod.json", tmp_path / "revdict.json"
    options = ("--file", str(folder / "codwoe.json"), "--vectors", "sgns", "--model", guided)
    assert run("define", *options, "--submission", str(defmod)).exit_code == 0
    assert run("reverse", *options, "--submission", str(revdict)).exit_code == 0
    ids = [item["id"] for item in json.loads((folder / "codwoe.json").read_text())]
    assert [set(item) for item in json.loads(defmod.read_text())] == [{"id", "gloss"}] * len(ids)
    written = json.loads(revdict.read_text())
    assert [item["id"] for item in written] == ids
    assert all(len(item["sgns"]) == 2 for item in written)


def test_a_submission_of_vectors_needs_a_model_of_vectors(folder, fit, run, tmp_path):
    options = ("--file", str(folder / "codwoe.json"), "--vectors", "sgns")
    result = run(
        *("reverse", *options, "--model", fit("--labels", "size")),
        *("--submission", str(tmp_path / "revdict.json")),
    )
    assert result.exit_code == 2
    assert "expected a model with word vectors as condition; got labels" in result.stderr
    assert not (tmp_path / "revdict.json").exists()


def test_a_submission_needs_a_folder(folder, run):
    for verb in ("define", "reverse"):
        result = run(
            *(verb, "--file", str(folder / "codwoe.json"), "--vectors", "sgns", "--model", "x"),
            *("--submission", str(folder / "nowhere" / "a.json")),
        )
        assert result.exit_code == 2
        assert "no folder" in result.stderr


def test_a_submission_replaces_no_file(folder, run):
    place = folder / "codwoe.json"
    before = place.read_text()
    for verb in ("define", "reverse"):
        options = ("--vectors", "sgns", "--model", "x", "--submission", str(place))
        result = run(verb, "--file", str(place), *options)
        assert result.exit_code == 2
        assert "already exists" in result.stderr
        assert place.read_text() == before


def test_a_model_of_vectors_is_not_asked_in_words(fit, run):
    for arguments in (("define", "dog"), ("reverse", "a kind of animal")):
        result = run(*arguments, "--model", fit("--vectors", "c"))
        assert result.exit_code == 2
        assert "a tensor (" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--flow", "glw"), "Did you mean 'glow'"),
        (("--learning-rate", "0"), "learning_rate must be above 0"),
        (("--base-hidden", "512,wide"), "--base-hidden expects hidden sizes of at least 2"),
        (("--base-hidden", "-3"), "--base-hidden expects hidden sizes of at least 2"),
        (("--base-hidden", "8", "--form", "conditional"), "require the reference form"),
        (("--ensemble-size", "2"), "--ensemble-size above 1 requires --base-hidden"),
        (("--contrastive-weight", "1", "--form", "conditional"), "require the reference form"),
        (("--dropout", "1.5"), "dropout"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_loaded(run, tmp_path, options, message):
    result = run("fit-condition", "--model", "nowhere", "-o", str(tmp_path / "x"), *options)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("text", ["", "  "])
def test_no_definition_no_words(run, text):
    result = run("reverse", text, "--model", "nowhere")
    assert result.exit_code == 2
    assert "expected a definition" in result.stderr


def test_a_folder_that_cannot_be_made(folder, run, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(
        *("fit-condition", "--model", str(folder / "vae"), "--flow", "gaussian", "--split", "all"),
        *("--corpus", str(folder / "rows.jsonl"), "-o", str(tmp_path / "file" / "x")),
    )
    assert result.exit_code == 2
    assert "a file is in the way. Choose another --output" in result.stderr


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_matrix_with_a_row_for_each_text(folder, run, tmp_path, suffix):
    rows = len((folder / "rows.jsonl").read_text().splitlines())
    matrix = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    path = tmp_path / f"c{suffix}"
    if suffix == ".npy":
        np.save(path, matrix)
    else:
        pq.write_table(pa.table({"c": list(matrix)}), path)
    common = ("fit-condition", "--model", str(folder / "vae"), "--steps", "5", "--split", "all")
    corpus = ("--corpus", str(folder / "rows.jsonl"), "--vectors", str(path))
    assert run(*common, *corpus, "-o", str(tmp_path / "fits")).exit_code == 0
    fewer = run(*common, *corpus, "--limit", "9", "-o", str(tmp_path / "not"))
    assert fewer.exit_code == 2
    assert f"got {rows} for 9 rows" in fewer.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("define", "--model", "x"), "expected words"),
        (
            ("define", "--file", "f.json", "--context", "c", "--model", "x"),
            "requires words, not --file",
        ),
        (("define", "dog", "--device", "nothing", "--model", "x"), "unknown device 'nothing'"),
        (("reverse", "--model", "x"), "expected a definition"),
        (("reverse", "--file", "f.json", "--model", "x"), "--submission"),
        (("define", "dog", "--vectors", "sgns", "--model", "x"), "require --file"),
        (("define", "dog", "--model", "nowhere"), "nowhere"),
    ],
)
def test_refused(run, arguments, message, monkeypatch):
    monkeypatch.delenv("LLAMAVAE_GUIDE", raising=False)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_two_conditions_are_refused(folder, run, tmp_path):
    result = run(
        *("fit-condition", "--model", str(folder / "vae"), "--corpus", str(folder / "rows.jsonl")),
        *("--labels", "size", "--encoder", "e", "--vectors", "c", "-o", str(tmp_path / "x")),
    )
    assert result.exit_code == 2
    assert "--encoder and --labels and --vectors" in result.stderr
    assert not (tmp_path / "x").exists()


def test_a_fit_is_not_overwritten(folder, fit, run):
    guided = fit()
    result = run("fit-condition", "--model", str(folder / "vae"), "-o", guided)
    assert result.exit_code == 2
    assert "already contains" in result.stderr


def test_an_interrupted_fit_goes_on(folder, run, tmp_path, monkeypatch):
    from llamavae.flows import fitting

    config = FlowOptions.config
    monkeypatch.setattr(FlowOptions, "config", lambda *given: replace(config(*given), eval_every=3))
    command = (
        *("fit-condition", "--model", str(folder / "vae"), "--steps", "5", "--split", "all"),
        *("--corpus", str(folder / "rows.jsonl"), "-o"),
    )
    evaluate = fitting._Run._train_and_evaluate
    calls = []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(self, *arguments)

    monkeypatch.setattr(fitting._Run, "_train_and_evaluate", interrupted)
    stopped = run(*command, str(tmp_path / "guided"))
    assert stopped.exit_code == 130
    assert "--resume" in stopped.stderr
    assert "--resume" in run(*command, str(tmp_path / "guided")).stderr
    resumed = run(*command, str(tmp_path / "guided"), "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert len(calls) == 3  # the first evaluation is not repeated
    monkeypatch.setattr(fitting._Run, "_train_and_evaluate", evaluate)
    whole = run(*command, str(tmp_path / "whole"))
    assert resumed.stdout == whole.stdout
