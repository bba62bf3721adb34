"""Training: recipes, objective schedules, diagnostics and the trainer."""

from llamavae.training.recipe import Recipe, load_recipe, recipe_names
from llamavae.training.run import TrainResult, train

__all__ = ["Recipe", "TrainResult", "load_recipe", "recipe_names", "train"]
