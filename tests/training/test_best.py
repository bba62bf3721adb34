from __future__ import annotations

import json
import math

import pytest
from tests import tiny
from tests.training import runs

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.training import train
from llamavae.training.best import BestModel


def scores(values, direction="higher"):
    """An evaluator that returns one value after the other."""
    left = iter(values)
    return lambda model: [
        {"metric": "score", "group": "", "value": next(left), "direction": direction},
        {"metric": "score", "group": "a part", "value": 7.0, "direction": direction},
        {"metric": "other", "group": "", "value": float(model.training), "direction": ""},
    ]


@pytest.mark.parametrize(
    ("direction", "values", "step"),
    [
        ("higher", [1, 3, 2], 1),
        ("lower", [1, 3, 2], 0),
        ("higher", [2, 2, 2], 0),
        ("lower", [math.nan, 3, math.nan], 1),
    ],
)
def test_the_best_is_kept(direction, values, step, tmp_path):
    vae = tiny.vae()
    best = BestModel(scores(values, direction), tmp_path)
    for i in range(len(values)):
        vae.posterior.linear.bias.data.fill_(i)
        assert best(vae, i) == pytest.approx({"score": values[i], "other": 0}, nan_ok=True)
    assert json.loads((tmp_path / "best" / "best.json").read_text()) == {
        "metric": "score",
        "value": values[step],
        "step": step,
    }
    kept = LlaMaVAE.from_pretrained(tmp_path / "best")
    assert kept.posterior.linear.bias.eq(step).all()
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_resumed_run_knows_what_was_best(tmp_path):
    BestModel(scores([5]), tmp_path)(tiny.vae(), 10)
    again = BestModel(scores([4, 6]), tmp_path)
    again(tiny.vae(), 20)
    assert again.found is not None
    assert again.found["step"] == 10
    again(tiny.vae(), 30)
    assert json.loads((tmp_path / "best" / "best.json").read_text())["step"] == 30


def test_only_one_process_writes(tmp_path):
    BestModel(scores([5]), tmp_path)(tiny.vae(), 10, save=False)
    assert not list(tmp_path.iterdir())


def test_a_measure_without_a_better_direction(tmp_path):
    with pytest.raises(UserError, match="cannot be chosen by score"):
        BestModel(scores([5], ""), tmp_path)(tiny.vae(), 0)


def test_a_run_logs_the_measures_and_keeps_its_best_model(tmp_path):
    recipe = runs.recipe(tmp_path, "run", optimisation={"steps": 4}, evaluation={"every": 2})
    result = train(recipe, progress=False, evaluator=scores([1.0, 3.0, 2.0]))
    logged = {line["step"]: line for line in runs.log(result) if "eval_score" in line}
    assert {step: line["eval_score"] for step, line in logged.items()} == {0: 1, 2: 3, 4: 2}
    assert all(line["eval_other"] == 0 for line in logged.values())
    assert json.loads((result.folder / "best" / "best.json").read_text())["step"] == 2
    assert LlaMaVAE.from_pretrained(result.folder / "best").reconstruct(["the owl paints bread."])
    assert "score" not in result.metrics
    saved = json.loads((result.folder / "results.json").read_text())
    assert [row["value"] for row in saved["measured"]] == [2, 7, 0]
    card = (result.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "| score | 2 |  |  | higher |  |" in card
    assert "| 7 |" not in card  # of a part of the data


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"metric": "a", "step": 1, "value": "x"}'])
def test_a_damaged_score(text, tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "best.json").write_text(text)
    with pytest.raises(UserError, match=r"best\.json is damaged: .*Delete its folder"):
        BestModel(lambda _: [], tmp_path)
