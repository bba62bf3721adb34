"""Pretrained models by name.

Some come with the library, a folder each, and load without a network: `mini` is a small open-domain
`LlaMaVAE`; `mini-definitions` is an `InvertibleCVAE` on it that leads from a word to its definition
and back. Each has a model card, README.md, in its folder.

Others, the backbones, are fetched once: `fetch(name)`, or `llamavae models get NAME`. From then on
their names stand for them wherever an encoder or a decoder is asked for.
"""

from llamavae.pretrained.catalogue import CATALOGUE, Backbone, File, needed, shipped, shipped_names
from llamavae.pretrained.fetching import (
    Available,
    Fetched,
    available,
    fetch,
    find,
    megabytes,
    models_folder,
    resolve,
)

__all__ = [
    "CATALOGUE",
    "Available",
    "Backbone",
    "Fetched",
    "File",
    "available",
    "fetch",
    "find",
    "megabytes",
    "models_folder",
    "needed",
    "resolve",
    "shipped",
    "shipped_names",
]
