"""Pretrained models by name.

Some come with the library, a folder each with a model card, README.md. `small`, an open-domain
`LlaMaVAE`, holds what was trained; its pretrained backbones are fetched once. `mini` needs nothing
else and loads without a network; `mini-definitions` is an `InvertibleCVAE` on it that leads from a
word to its definition and back.

Backbones are fetched by `fetch(name)`, or `llamavae models get NAME`. From then on their names
stand for them wherever an encoder or a decoder is asked for.
"""

from llamavae.pretrained.catalogue import (
    CATALOGUE,
    DEFINITIONS,
    MODELS,
    Backbone,
    File,
    bundled,
    bundled_names,
    needed,
)
from llamavae.pretrained.fetching import (
    Available,
    Fetched,
    available,
    fetch,
    find,
    megabytes,
    models_folder,
    preferred,
    resolve,
)

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
