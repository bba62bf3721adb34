"""The web service: texts, codes and embeddings over HTTP, in batches across requests."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import torch
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as HTTPError
from torch import Tensor

from llamavae import __version__
from llamavae.errors import UserError
from llamavae.latent import arithmetic, average, traversal
from llamavae.latent.paths import PATHS, as_codes
from llamavae.serving import schemas as s
from llamavae.serving.batching import Busy, Unavailable
from llamavae.serving.engine import Arrange, Engine
from llamavae.serving.guard import Guard
from llamavae.serving.limits import Limits
from llamavae.serving.metrics import Metrics
from llamavae.serving.models import Models, Unprepared
from llamavae.serving.requests import (
    Gone,
    attended,
    check_count,
    check_definitions,
    engine_of,
    facts_of,
    failed,
    given_places,
    given_texts,
    texts_at,
)
from llamavae.serving.worker import ThreadWorker, Worker

if TYPE_CHECKING:
    from llamavae.guidance import InvertibleCVAE
    from llamavae.modeling import LlaMaVAE

_RETRY = {"Retry-After": "1"}  # seconds


def create_app(
    model: LlaMaVAE,
    definitions: InvertibleCVAE | None = None,
    *,
    name: str = "llamavae",
    limits: Limits | None = None,
    api_key: str | None = None,
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        model: The VAE.
        definitions: Model from words to codes of this VAE, for `/v1/define` and `/v1/lookup`.
        name: Name of the model in responses, which requests for embeddings may give.
        limits: Limits of requests.
        api_key: Key that requests must have; None needs no key.

    Raises:
        UserError: The model has no sentence encoder.
    """
    worker = ThreadWorker(Models(model, definitions))
    return app_of([worker], name=name, limits=limits, api_key=api_key)


def app_of(
    workers: Sequence[Worker],
    *,
    name: str,
    limits: Limits | None = None,
    api_key: str | None = None,
    open_paths: Sequence[str] = (),
    arrange: Arrange | None = None,
) -> FastAPI:
    """The service of the models of workers; requests are answered once the first has loaded.

    Args:
        workers: Run functions of the models. The first one has the model of definitions.
        name: See `create_app`.
        limits: See `create_app`.
        api_key: See `create_app`.
        open_paths: Paths that need no key, besides `/health`.
        arrange: What else must be done once the models of the first worker are loaded.
    """
    metrics, limits = Metrics(), limits or Limits()
    engine = Engine(workers, limits, metrics.batch, arrange)
    metrics.watch(lambda: engine.waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.close()

    app = FastAPI(
        title="LlaMaVAE",
        version=__version__,
        lifespan=lifespan,
        description="A sentence becomes a latent code, and every code a sentence.",
    )
    app.add_middleware(
        Guard, limits=limits, metrics=metrics, api_key=api_key, open_paths=open_paths
    )
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.state.engine, app.state.metrics, app.state.name = engine, metrics, name
    for path, endpoint, response in (
        ("/v1/embeddings", embeddings, None),
        ("/v1/decode", decode, s.Texts),
        ("/v1/reconstruct", reconstruct, s.Texts),
        ("/v1/interpolate", interpolate, s.Texts),
        ("/v1/traverse", traverse, s.Texts),
        ("/v1/arithmetic", arithmetic_, s.Texts),
        ("/v1/average", average_, s.Texts),
        ("/v1/sample", sample, s.Texts),
        ("/v1/define", define, s.Texts),
        ("/v1/lookup", lookup, s.Words),
    ):
        app.post(path, response_model=response, name=path.removeprefix("/v1/"))(endpoint)
    for path, endpoint in (("/health", health), ("/metrics", metrics_), ("/v1/models", models)):
        app.get(path, response_model=None)(endpoint)
    return app


# ------------------------------------------------------------------------------------- endpoints


async def embeddings(body: s.EmbeddingsRequest, request: Request) -> Response:
    """Posterior means of texts, in the format of OpenAI's API."""
    engine, name = engine_of(request), request.app.state.name
    size = facts_of(engine).latent_dim
    if body.model is not None and body.model != name:
        raise HTTPException(404, f"the model {body.model[:80]!r} is not served; served: {name}")
    if body.dimensions not in (None, size):
        raise UserError(f"dimensions must be {size}, the size of z; got {body.dimensions}")
    texts = given_texts(engine, body.input)
    z, tokens = await attended(request, engine.encode(texts))
    data = [
        {"object": "embedding", "index": i, "embedding": _embedding(code, body.encoding_format)}
        for i, code in enumerate(z)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": name, "usage": usage})


async def decode(body: s.DecodeRequest, request: Request) -> Response:
    """Decode latent codes."""
    engine = engine_of(request)
    z = as_codes(body.z, facts_of(engine).latent_dim)
    if len(z) == 0:
        raise UserError("expected at least one code; got none")
    check_count(engine, len(z), "codes")

    async def codes() -> Tensor:
        return z

    return await texts_at(request, codes, body)


async def reconstruct(body: s.ReconstructRequest, request: Request) -> Response:
    """Encode texts and decode their codes."""
    found = given_texts(engine_of(request), body.texts)

    async def places() -> list[str]:
        return found

    return await texts_at(request, places, body)


async def interpolate(body: s.InterpolateRequest, request: Request) -> Response:
    """Texts along a path between two texts or codes."""
    engine = engine_of(request)
    check_count(engine, body.steps, "steps")

    async def codes() -> Tensor:
        a, b = await engine.codes(given_places(engine, [body.a, body.b]))
        return PATHS[body.mode](a, b, body.steps)

    return await texts_at(request, codes, body)


async def traverse(body: s.TraverseRequest, request: Request) -> Response:
    """Texts while one coordinate of z covers the central 95 % of the prior."""
    engine = engine_of(request)
    check_count(engine, body.steps, "steps")

    async def codes() -> Tensor:
        [start] = await engine.codes(given_places(engine, [body.start]))
        return traversal(start, body.dim, body.steps)

    return await texts_at(request, codes, body)


async def arithmetic_(body: s.ArithmeticRequest, request: Request) -> Response:
    """The text at a - b + c."""
    engine = engine_of(request)

    async def codes() -> Tensor:
        return arithmetic(*await engine.codes(given_places(engine, [body.a, body.b, body.c])))[None]

    return await texts_at(request, codes, body)


async def average_(body: s.AverageRequest, request: Request) -> Response:
    """The text at the weighted mean of texts or codes."""
    engine = engine_of(request)
    check_count(engine, len(body.texts), "texts")
    if not body.texts:
        raise UserError("expected at least one text; got none")

    async def codes() -> Tensor:
        return average(await engine.codes(given_places(engine, body.texts)), body.weights)[None]

    return await texts_at(request, codes, body)


async def sample(body: s.SampleRequest, request: Request) -> Response:
    """Texts at codes drawn from the prior."""
    engine = engine_of(request)
    check_count(engine, body.n, "texts")
    prior = None if body.prior == "default" else body.prior

    async def codes() -> Tensor:
        drawn = await engine.run(Models.sample, body.n, prior, body.spread, body.seed)
        return torch.from_numpy(drawn)

    return await texts_at(request, codes, body)


async def define(body: s.DefineRequest, request: Request) -> Response:
    """Definitions of a word."""
    engine = engine_of(request)
    check_definitions(engine)
    check_count(engine, body.n, "texts")
    given_texts(engine, body.word)

    async def codes() -> Tensor:
        drawn = await engine.run_first(Models.define, body.word, body.n, body.spread, body.seed)
        return torch.from_numpy(drawn)

    return await texts_at(request, codes, body)


async def lookup(body: s.LookupRequest, request: Request) -> s.Words:
    """The words that match a definition (reverse dictionary)."""
    engine = engine_of(request)
    check_definitions(engine)
    check_count(engine, body.k, "words")
    [text] = given_texts(engine, body.text)
    try:
        found = await attended(request, engine.run_first(Models.lookup, text, body.k))
    except Unprepared as error:
        message = "the words are still being encoded; try again later"
        raise HTTPException(503, message, {"Retry-After": "10"}) from error
    return s.Words(words=[s.Word(word=word, log_prob=density) for word, density in found])


async def health(request: Request) -> Response:
    """Whether the model is loaded, and by how many workers; status 503 while it is not."""
    engine: Engine = request.app.state.engine
    found = {
        "model": request.app.state.name,
        "workers": engine.workers,
        "waiting": engine.waiting,
    }
    if engine.facts is not None:
        return JSONResponse({"status": "ok"} | found)
    return JSONResponse({"status": "loading", "stage": engine.stage} | found, 503)


async def metrics_(request: Request) -> Response:
    """Metrics in the format of Prometheus."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4")


async def models(request: Request) -> dict[str, Any]:
    """The served model, in the format of OpenAI's API."""
    one = {"id": request.app.state.name, "object": "model", "created": 0, "owned_by": "llamavae"}
    return {"object": "list", "data": [one]}


def _embedding(code: Tensor, form: str) -> list[float] | str:
    if form == "float":
        return code.tolist()
    return base64.b64encode(code.numpy().astype("<f4").tobytes()).decode()


# ----------------------------------------------------------------------------------------- errors


def _error(status: int, message: str, **fields: Any) -> JSONResponse:
    return JSONResponse(s.error_body(message, **fields), status)


async def _user_error(_: Request, error: Exception) -> Response:
    return _error(400, str(error))


async def _invalid(request: Request, error: Exception) -> Response:
    """The first invalid field, without its value, which can be long.

    A field that may be a text or a code has an error for each; one of its type says less.
    """
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    first = next((one for one in errors if not one["type"].endswith("_type")), errors[0])
    if tuple(first["loc"]) == ("body",) and "json" not in request.headers.get("content-type", ""):
        return _error(415, "expected JSON, with the header Content-Type: application/json")
    if first["type"] == "json_invalid":
        return _error(400, f"body: invalid JSON at character {first['loc'][-1]}")
    parts = map(str, first["loc"])  # those with a bracket are types that the field may have
    place = ".".join(part for part in parts if part != "body" and "[" not in part)[:100]
    return _error(400, f"{place or 'body'}: {first['msg'][:200]}", param=place or None)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPError)
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    response = _error(error.status_code, str(error.detail), kind=kind)
    response.headers.update(error.headers or {})
    return response


async def _busy(_: Request, error: Exception) -> Response:
    return JSONResponse(failed(error), 429, _RETRY)


async def _unavailable(_: Request, error: Exception) -> Response:
    return JSONResponse(failed(error), 503, _RETRY)


async def _gone(_: Request, error: Exception) -> Response:
    return Response(status_code=499)


_HANDLERS: dict[Any, Any] = {
    UserError: _user_error,
    RequestValidationError: _invalid,
    HTTPError: _http_error,
    Busy: _busy,
    Unavailable: _unavailable,
    Gone: _gone,
}
