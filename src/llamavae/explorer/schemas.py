"""Requests and responses of the page."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictInt

from llamavae.serving.schemas import Code, Count, Seed


class MapPlace(BaseModel):
    """A place on a map."""

    model_config = ConfigDict(extra="forbid")
    projection: str
    x: FiniteFloat
    y: FiniteFloat


Place = Annotated[StrictInt, Field(ge=0)] | str | Code | MapPlace
"""A sentence of the map by its index, a text, a code (D,), or a place on a map."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextsRequest(_Request):
    """Places whose texts are wanted."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"places": [0, {"projection": "pca", "x": 0, "y": 1}]}]}
    )
    places: Annotated[list[Place], Field(min_length=1)]


class NeighboursRequest(_Request):
    """A place whose nearest sentences are wanted."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"place": 0, "k": 5}]})
    place: Place
    k: Count = 10


class PathRequest(_Request):
    """Two ends of a straight path."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"a": 0, "b": 1, "steps": 9}]})
    a: Place
    b: Place
    steps: Annotated[int, Field(ge=3)] = 9


class CoordinatesRequest(_Request):
    """A place whose coordinates are changed one at a time."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"place": 0, "count": 8}]})
    place: Place
    count: Count | None = None
    """How many coordinates, those with the largest KL divergence; None for all."""


class StripRequest(_Request):
    """A place, and the coordinate that is changed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"place": 0, "dim": 3}]})
    place: Place
    dim: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=2)] = 9


class CombineRequest(_Request):
    """Places whose codes are averaged, or added with weights."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"places": [0, 1, 2], "weights": [1, -1, 1]}]}
    )
    places: Annotated[list[Place], Field(min_length=1)]
    weights: list[FiniteFloat] | None = None
    """Factor of each code in their sum; None averages the codes."""


class ConditionRequest(_Request):
    """A condition, such as a word to define, and how many codes are drawn."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"condition": "dog", "n": 8}]})
    condition: Annotated[str, Field(min_length=1)]
    n: Count = 8
    spread: Annotated[FiniteFloat, Field(ge=0)] = 0.7
    seed: Seed = 0


class Spot(BaseModel):
    """A code, its text, and its place on each map."""

    text: str
    z: list[float]
    at: dict[str, list[float]]


class Spots(BaseModel):
    """Several codes, in order."""

    spots: list[Spot]


class Path(Spots):
    """Codes on a path, and how smoothly their texts change."""

    smoothness: float
    """0 to 1, with the angle between sentence embeddings as the distance."""
    control: float
    """Mean smoothness of the same texts with the inner ones in random orders."""


class Neighbour(BaseModel):
    """A sentence of the map."""

    index: int
    text: str
    cosine: float


class Neighbours(BaseModel):
    """Sentences in descending order of the cosine of their codes."""

    neighbours: list[Neighbour]
