"""Geometry of the latent space: pure functions of latent codes, usable with any model."""

from llamavae.latent.paths import (
    arithmetic,
    average,
    contrast,
    lerp,
    nearest_neighbours,
    slerp,
    traversal,
)

__all__ = [
    "arithmetic",
    "average",
    "contrast",
    "lerp",
    "nearest_neighbours",
    "slerp",
    "traversal",
]
