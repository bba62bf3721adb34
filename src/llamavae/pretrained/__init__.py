"""Pretrained models by name.

Some are bundled with the library, each in a folder with a model card, README.md. `small`, an
open-domain `LlaMaVAE`, contains the trained weights; its pretrained backbones are downloaded once.
`mini` is complete and loads without a network. `small-definitions` and `mini-definitions` are
`InvertibleCVAE`s of these that generate definitions of words and find words for definitions.

Backbones are downloaded by `fetch(name)`, or `llamavae models get NAME`. Their names can then be
used for every encoder or decoder argument.
"""

from llamavae.pretrained.catalogue import (
    CATALOGUE,
    DEFINITIONS,
    MODELS,
    Available,
    Backbone,
    File,
    available,
    bundled,
    bundled_names,
    find,
    megabytes,
    models_folder,
    needed,
    preferred,
    resolve,
)
from llamavae.pretrained.fetching import Fetched, fetch

__all__ = [
    "CATALOGUE",
    "DEFINITIONS",
    "MODELS",
    "Available",
    "Backbone",
    "Fetched",
    "File",
    "available",
    "bundled",
    "bundled_names",
    "fetch",
    "find",
    "megabytes",
    "models_folder",
    "needed",
    "preferred",
    "resolve",
]
