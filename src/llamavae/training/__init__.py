"""Training: recipes, objective schedules, diagnostics and the trainer.

torch and transformers are loaded when `train` is first used; recipes do without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamavae.lazy import lazy_names

if TYPE_CHECKING:
    from llamavae.training.prior import aggregate_posterior, fit_prior
    from llamavae.training.recipe import Recipe, load_recipe, recipe_names
    from llamavae.training.run import TrainResult, train

__all__ = [
    "Recipe",
    "TrainResult",
    "aggregate_posterior",
    "fit_prior",
    "load_recipe",
    "recipe_names",
    "train",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "llamavae.training.prior": ["aggregate_posterior", "fit_prior"],
        "llamavae.training.recipe": ["Recipe", "load_recipe", "recipe_names"],
        "llamavae.training.run": ["TrainResult", "train"],
    },
)
