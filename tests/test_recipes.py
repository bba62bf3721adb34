from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
import yaml

from llamavae.errors import UserError
from llamavae.training.recipe import (
    CorpusPart,
    Recipe,
    describe_settings,
    load_recipe,
    parse_recipe,
    recipe_names,
    recipe_text,
)

PART = CorpusPart(name="a", limit=3)
MINIMAL = {"encoder": {"model": "e"}, "decoder": {"model": "d"}}


def save(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------ shipped ones


def test_the_promised_recipes_are_there() -> None:
    assert {"demo", "wordnet-cpu", "paper", "optimus", "stories260k"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe(name: str) -> None:
    recipe = load_recipe(name)
    text = recipe_text(name)
    assert recipe.name == name
    assert recipe.description
    assert "\n" not in recipe.description
    assert f"llamavae train --recipe {name}" in text  # the exact command, in the comment on top
    assert text.startswith("# ")
    # runs/demo is where `llamavae demo` writes
    assert recipe.output.folder == ("runs/factors" if name == "demo" else f"runs/{name}")


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_survives_its_own_dump(name: str) -> None:
    recipe = load_recipe(name)
    dumped = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    assert parse_recipe(yaml.safe_load(dumped)) == recipe


@pytest.mark.parametrize(("name", "tags"), [("paper", 5), ("optimus", 2)])
def test_every_value_of_a_reproduction_names_its_source(name: str, tags: int) -> None:
    text = recipe_text(name)
    known = set(re.findall(r"^#   \[(\w+)\]", text, re.MULTILINE))
    assert len(known) == tags
    body = text[text.index("corpus:") :]
    for line in body.splitlines():
        if re.match(r"  \w+: ", line):
            found = re.findall(r"\[(\w+)\]", line)
            assert found, f"no source: {line}"
            assert set(found) <= known


def test_optimus_is_trained_as_its_script_says() -> None:
    recipe = load_recipe("optimus")
    assert (recipe.latent.injection, recipe.latent.tied_kv, recipe.latent.dim) == (
        "memory+add",
        True,
        32,
    )
    assert (recipe.encoder.training, recipe.decoder.training) == ("full", "full")
    assert (recipe.objective.zero, recipe.objective.ramp) == (0.5, 0.25)


def test_recipes_are_files_of_the_package() -> None:
    folder = resources.files("llamavae.recipes")
    assert [f.name for f in folder.iterdir() if f.name.endswith(".yml")] == []


# ------------------------------------------------------------------------------ reading


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown recipe .wordnet.\. Did you mean .wordnet-cpu."):
        load_recipe("wordnet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("- a\n- b", "expected settings by name"),
        ("just words", "expected settings by name"),
        ("", "encoder: set one of model, scratch, lstm and vectors"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe(save(tmp_path / "mine.yaml", text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no recipe file .*nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(UserError) as caught:
        parse_recipe(
            {
                "corpus": {"nam": "x", "limit": 0},
                "encoder": {"model": "e", "vectors": "v"},
                "decoder": {"scratch": {"layer": 3}, "training": "half"},
                "objective": {"kl_rule": "free_bits"},
                "optimisation": {"epochs": 1, "steps": 1},
                "latnet": {},
            }
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "the recipe has 8 mistakes:"
    assert len(lines) == 9
    text = str(caught.value)
    for part in (
        "corpus.nam: no such setting; did you mean 'name'?",
        "corpus.limit: Input should be greater than or equal to 1 (got 0)",
        "encoder: set one of model, scratch, lstm and vectors, not model and vectors",
        "decoder.scratch.layer: no such setting; did you mean 'layers'?",
        "decoder.training: Input should be 'frozen', 'heads', 'lora' or 'full' (got 'half')",
        "objective: kl_rule and kl_threshold must be set together",
        "optimisation: set one of epochs and steps",
        "latnet: no such setting; did you mean 'latent'?",
    ):
        assert part in text


def test_an_unlike_setting_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"objective\.foo: no such setting; expected one of .*beta,"
    ):
        parse_recipe({**MINIMAL, "objective": {"foo": 1}})


def test_mistakes_in_a_list_are_reported_by_place() -> None:
    mix = [{"naem": "a"}, {"name": "b", "limit": 0}, "c"]
    with pytest.raises(UserError) as caught:
        parse_recipe({**MINIMAL, "corpus": {"mix": mix}, "objective": {"zero": 0.9}})
    lines = str(caught.value).splitlines()
    assert lines[0] == "the recipe has 5 mistakes:"
    assert {line.strip() for line in lines[1:5]} == {
        "corpus.mix.0.naem: no such setting; did you mean 'name'?",
        "corpus.mix.0.name: is required",
        "corpus.mix.1.limit: Input should be greater than or equal to 1 (got 0)",
        "corpus.mix.2: expected settings by name (got 'c')",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["objective.schedule=target_rate"], "target_rate must be set together"),
        (["objective.target_rate=5"], "target_rate must be set together"),
        (["objective.schedule=linear", "objective.start=0.8"], "at most 1, the whole run"),
        (["objective.zero=0.8"], "at most 1, a whole cycle"),
        (["encoder.model=null"], "encoder: set one of"),
        (["decoder.scratch.layers=2"], "set one of model, scratch and lstm, not model and scratch"),
        (["decoder.model=null", "decoder.lstm.layers=1"], "decoder.lstm: an LSTM has no attention"),
        (["decoder.model=null", "decoder.lstm={}", "decoder.training=heads"], "must be trained"),
        (["encoder.model=null", "encoder.lstm.layers=1"], "Set training to full"),
        (["objective.logvar_penalty=1", "objective.sample=false"], "no effect without noise"),
        (["decoder.quantization=4bit", "decoder.training=full"], "cannot be trained in full"),
        (["optimisation.epochs=1", "optimisation.micro_batch_size=7"], "not a multiple"),
        (["corpus.streaming=true"], "no known length"),
        (["encoder.model=null", "encoder.scratch.layers=1"], "Set training to full"),
        (["encoder.model=null", "encoder.vectors=v", "encoder.training=full"], "cannot be trained"),
        (["corpus.mix=[{name: a}]", "corpus.streaming=true"], "corpus.mix: only one corpus"),
        (
            ["corpus.mix=[{name: a}]", "encoder.model=null", "encoder.vectors=v"],
            "corpus.mix: precomputed vectors",
        ),
        (["teacher.model=t", "corpus.streaming=true"], "teacher.model: .* before training"),
        (["teacher.weight=-1"], "teacher.weight: .*greater than or equal to 0"),
        (["start_from=x"], "start_from: .* Omit encoder.model, decoder.model"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: list[str], message: str) -> None:
    path = save(tmp_path / "mine.yaml", yaml.safe_dump(MINIMAL))
    assert load_recipe(path).encoder.model == "e"
    with pytest.raises(UserError, match=message):
        load_recipe(path, changes)


# ------------------------------------------------------------------------------ --set


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimisation.learning_rate=1e-3", 1e-3),
        ("optimisation.learning_rate=0.5", 0.5),
        ("optimisation.seed=7", 7),
        ("corpus.streaming=true", True),
        ("corpus.path=/a=b", "/a=b"),
        ("corpus.path=~", None),
        ("output.report_to=[tensorboard]", ["tensorboard"]),
        ("decoder.scratch.layers=5", 5),
        ("corpus.mix=[{name: worldtree}]", [CorpusPart(name="worldtree")]),
        ("corpus.mix=[{name: a, limit: 3}, {name: b}]", [PART, CorpusPart(name="b")]),
    ],
)
def test_override(override: str, expected: object) -> None:
    value: object = load_recipe("demo", [override])
    for name in override.partition("=")[0].split("."):
        value = getattr(value, name)
    assert value == expected


@pytest.mark.parametrize("value", ["2024-01-01", "no", "1e3", "a=b", ""])
def test_values_are_taken_as_they_are(value: str) -> None:
    recipe = load_recipe("demo", ["output.folder=x"], values={"output.folder": value})
    assert recipe.output.folder == value


def test_values_are_validated_and_replace_the_length() -> None:
    recipe = load_recipe("demo", values={"optimisation.epochs": 2})
    assert (recipe.optimisation.epochs, recipe.optimisation.steps) == (2, None)
    with pytest.raises(UserError, match="did you mean 'folder'"):
        load_recipe("demo", values={"output.foldr": "x"})


@pytest.mark.parametrize("override", ["optimisation.steps", "=3", "corpus.path=[1"])
def test_odd_override(override: str) -> None:
    with pytest.raises(UserError, match="--set"):
        load_recipe("demo", [override])


# ------------------------------------------------------------------------------ --help


def test_every_setting_is_described() -> None:
    rows = list(describe_settings())
    keys = [key for key, *_ in rows]
    assert len(keys) == len(set(keys))
    for key, kind, _, meaning in rows:
        assert kind, key
        assert meaning.endswith("."), key
    assert {"name", "corpus.name", "decoder.scratch.warmup_steps", "output.report_to"} <= set(keys)
    assert {"corpus.mix", "corpus.mix.N.max_words", "start_from"} <= set(keys)
    assert ("corpus.mix", "list of sections", "[]") in [row[:3] for row in rows]


def test_described_defaults_are_the_ones_in_use() -> None:
    recipe = Recipe.model_validate(MINIMAL)
    for key, _, default, _ in describe_settings():
        value: object = recipe
        for name in key.split("."):
            value = getattr(value, name, None)
        if ".scratch." not in key and value is not None and key not in _SET:
            assert str(value) == default, key


_SET = {"encoder.model", "decoder.model", "optimisation.epochs"}


def test_a_length_given_with_set_replaces_the_recipes_own() -> None:
    recipe = load_recipe("demo", ["optimisation.epochs=2"])
    assert (recipe.optimisation.epochs, recipe.optimisation.steps) == (2, None)
    with pytest.raises(UserError, match="not both"):
        load_recipe("demo", ["optimisation.epochs=2", "optimisation.steps=3"])
