"""The best model of a run, by a metric of an evaluator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llamavae.errors import UserError
from llamavae.evaluation.data import evaluation_data
from llamavae.evaluation.registry import load_evaluator
from llamavae.files import replacing_folder, write_json
from llamavae.modeling import LlaMaVAE
from llamavae.modeling.checkpoint import frozen_state, write
from llamavae.modes import evaluating
from llamavae.parsing import damage_errors, read_json
from llamavae.training import Recipe

ModelEvaluator = Callable[[LlaMaVAE], Sequence[Mapping[str, Any]]]
"""Evaluates a model: rows with `metric`, `group`, `value` and `direction`. Models are chosen by the
first row."""

_ADVICE = "Delete its folder to choose the best of the later models"


class BestModel:
    """Keeps the best model so far in `best/` of a run's folder, and its score in `best.json` there.

    Args:
        evaluator: Evaluates a model.
        folder: Folder of the run.

    Attributes:
        rows: Rows of the last evaluation.
        found: `metric`, `value` and `step` of the best model; None before the first.
    """

    def __init__(self, evaluator: ModelEvaluator, folder: Path) -> None:
        self.evaluator, self.folder = evaluator, folder / "best"
        self.rows: Sequence[Mapping[str, Any]] = ()
        file = self.folder / "best.json"
        self.found: dict[str, Any] | None = None
        if file.is_file():
            self.found = read_json(file, {"metric": str, "step": int}, _ADVICE)
            with damage_errors(file, _ADVICE):
                self.found["value"] = float(self.found["value"])

    def __call__(self, model: LlaMaVAE, step: int, save: bool = True) -> dict[str, float]:
        """Evaluate the model, and keep it if it is the best.

        Args:
            model: The VAE.
            step: Steps that it is trained for.
            save: Whether this process writes files.

        Returns:
            Metric -> value, over all the data.

        Raises:
            UserError: Neither direction of the metric is better, or `best/` cannot be written.
        """
        with evaluating(model):
            self.rows = rows = self.evaluator(model)
        first = rows[0]
        metric, value, direction = first["metric"], first["value"], first["direction"]
        if direction not in ("higher", "lower"):
            raise UserError(
                f"models cannot be chosen by {metric}: neither high nor low values are better"
            )
        sign = 1 if direction == "higher" else -1
        best = math.nan if self.found is None else self.found["value"]
        if math.isnan(best) or sign * value > sign * best:
            self.found = {"metric": metric, "value": value, "step": step}
            self._save(model, save)
        return {row["metric"]: row["value"] for row in rows if not row["group"]}

    def _save(self, model: LlaMaVAE, main: bool) -> None:
        state = frozen_state(model, main)
        if main:
            with replacing_folder(self.folder) as new:
                write(model, new, state)
                write_json(new / "best.json", self.found)


def model_evaluator(name: str, recipe: Recipe) -> ModelEvaluator:
    """The evaluator of `train` that selects the best model of a run.

    It uses the recipe's validation sentences, `evaluation.sentences` of them.

    Args:
        name: A name of `EVALUATORS`.
        recipe: Of the run.

    Raises:
        UserError: There is no such evaluator, or the corpus cannot be read.
    """
    each = load_evaluator(name)
    data = evaluation_data(
        split="validation",
        recipe=recipe.model_dump(mode="json"),
        limit=recipe.evaluation.sentences,
        seed=recipe.optimisation.seed,
    )
    return lambda model: each(model, data).rows
