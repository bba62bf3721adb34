"""Requests and responses of the service, with the names and defaults of the Python methods."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

Code = Annotated[list[FiniteFloat], Field(min_length=1)]
Place = str | Code
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(ge=1)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EmbeddingsRequest(BaseModel):
    """Texts to embed, in the format of OpenAI's API; unknown fields are ignored."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "mini", "input": ["a dog is an animal"]}]}
    )
    input: str | list[str]
    """A text, or several; arrays of tokens are not supported."""
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    """The size of z; another value is an error."""
    user: str | None = None


class Generated(_Request):
    """Options of generation that all requests for texts have."""

    temperature: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    """Sampling temperature of tokens; 0 decodes greedily."""
    top_p: Annotated[FiniteFloat, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling, with a temperature above 0."""
    max_new_tokens: Count | None = None
    """Maximum number of tokens; default: the maximum length in training."""
    seed: Seed | None = None
    """Makes samples reproducible."""
    stream: bool = False
    """Send each text as a server-sent event, in order, once it and those before it are decoded."""


class DecodeRequest(Generated):
    """Latent codes to decode."""

    z: Code | list[Code]
    """A code (D,) or several (B, D)."""


class ReconstructRequest(Generated):
    """Texts to encode and decode."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["a dog is an animal"]}]})
    texts: str | list[str]


class InterpolateRequest(Generated):
    """Two ends, texts or codes (D,)."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"a": "a dog is an animal", "b": "a river in a town"}]}
    )
    a: Place
    b: Place
    steps: Annotated[int, Field(ge=2)] = 9
    mode: Literal["linear", "slerp"] = "linear"


class TraverseRequest(Generated):
    """A text or code, and the coordinate of z to change."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"start": "a dog is an animal", "dim": 3}]}
    )
    start: Place
    dim: Annotated[int, Field(ge=0)]
    steps: Count = 7


class ArithmeticRequest(Generated):
    """The text at a - b + c, of texts or codes."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"a": "a big dog", "b": "a dog", "c": "a cat"}]}
    )
    a: Place
    b: Place
    c: Place


class AverageRequest(Generated):
    """The text at the weighted mean of several texts or codes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["a dog", "a cat"]}]})
    texts: list[Place]
    weights: list[FiniteFloat] | None = None


class SampleRequest(Generated):
    """Texts at codes drawn from the prior."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"n": 3, "seed": 0}]})
    n: Count = 1
    prior: Literal["standard", "default"] = "default"
    spread: Annotated[FiniteFloat, Field(ge=0)] = 1.0


class DefineRequest(Generated):
    """A word to define."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"word": "dog", "n": 1}]})
    word: Annotated[str, Field(min_length=1)]
    n: Count = 1
    spread: Annotated[FiniteFloat, Field(ge=0)] = 0.7


class LookupRequest(_Request):
    """A definition whose word is sought."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a domestic animal"}]})
    text: str
    k: Count = 10


class Text(BaseModel):
    """A generated text."""

    index: int
    text: str


class Texts(BaseModel):
    """Generated texts, in order."""

    texts: list[Text]


class Word(BaseModel):
    """A word that matches a definition."""

    word: str
    log_prob: float
    """log p(z|c), in nats."""


class Words(BaseModel):
    """Words in descending order of their density."""

    words: list[Word]


def error_body(
    message: str, kind: str = "invalid_request_error", param: str | None = None, code: Any = None
) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
