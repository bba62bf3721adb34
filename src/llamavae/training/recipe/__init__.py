"""Recipes: the settings of a training run as a YAML file, a Python object and `--help` text."""

from llamavae.training.recipe.description import describe_groups, describe_settings
from llamavae.training.recipe.fresh import LSTMBackbone, ScratchDecoder, ScratchEncoder
from llamavae.training.recipe.reading import load_recipe, parse_recipe, recipe_names, recipe_text
from llamavae.training.recipe.schema import (
    CorpusPart,
    CorpusSettings,
    ObjectiveSettings,
    Recipe,
)

__all__ = [
    "CorpusPart",
    "CorpusSettings",
    "LSTMBackbone",
    "ObjectiveSettings",
    "Recipe",
    "ScratchDecoder",
    "ScratchEncoder",
    "describe_groups",
    "describe_settings",
    "load_recipe",
    "parse_recipe",
    "recipe_names",
    "recipe_text",
]
