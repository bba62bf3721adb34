"""The service with the page: its files, its data, and what it asks the model."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from numpy.typing import ArrayLike
from torch import Tensor

from llamavae.errors import UserError, unknown
from llamavae.explorer import schemas as s
from llamavae.explorer.scores import path_smoothness, text_changes
from llamavae.explorer.space import Space
from llamavae.latent import average, traversal
from llamavae.latent.paths import lerp
from llamavae.serving import Limits
from llamavae.serving.app import app_of
from llamavae.serving.batching import Busy, Unavailable
from llamavae.serving.decoding import Generation
from llamavae.serving.engine import Engine
from llamavae.serving.models import Models
from llamavae.serving.requests import (
    all_texts,
    attended,
    check_count,
    check_definitions,
    engine_of,
    event,
    facts_of,
    failed,
    given_texts,
)
from llamavae.serving.worker import ThreadWorker, Worker

if TYPE_CHECKING:
    from llamavae.guidance import InvertibleCVAE
    from llamavae.modeling import LlaMaVAE

_PART = 8  # coordinates that are decoded together, so that other requests wait briefly
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def create_explorer(
    model: LlaMaVAE,
    space: Space,
    definitions: InvertibleCVAE | None = None,
    *,
    name: str = "llamavae",
    limits: Limits | None = None,
    api_key: str | None = None,
) -> FastAPI:
    """The service of `create_app` with the page `/explore/`.

    Args:
        model: The VAE.
        space: Sentences of this model.
        definitions: Model from conditions to codes of this VAE.
        name: Name of the model.
        limits: Limits of requests.
        api_key: Key that requests must have, except those for the files of the page.

    Raises:
        UserError: The model has no sentence encoder.
    """
    worker = ThreadWorker(Models(model, definitions))
    return explorer_of(worker, space, name=name, limits=limits, api_key=api_key)


def explorer_of(
    worker: Worker,
    space: Space | Callable[[Models], Space],
    *,
    name: str,
    limits: Limits | None = None,
    api_key: str | None = None,
) -> FastAPI:
    """The explorer of the models of a worker.

    Args:
        worker: Runs functions of the models.
        space: Sentences of the model, or a function that the worker calls for them. Until it has,
            the page says what the worker is doing.
        name: See `create_explorer`.
        limits: See `create_explorer`.
        api_key: See `create_explorer`.
    """
    files = _files()

    async def arrange() -> None:
        if not isinstance(app.state.space, Space):
            app.state.space = await worker.run(app.state.space)

    app = app_of(
        [worker],
        name=name,
        limits=limits,
        api_key=api_key,
        open_paths=("/", "/explore", *files),
        arrange=arrange,
    )
    app.state.space, app.state.files = space, files
    for path in ("/", "/explore", *files):
        app.get(path, include_in_schema=False)(file if path in files else page)
    app.get("/explore/progress", response_model=None)(progress)
    app.get("/explore/map", response_model=None)(map_)
    app.get("/explore/usage", response_model=None)(usage)
    for path, endpoint, response in (
        ("texts", texts, s.Spots),
        ("neighbours", neighbours, s.Neighbours),
        ("path", path_, s.Path),
        ("coordinates", coordinates, None),
        ("strip", strip, s.Spots),
        ("combine", combine, s.Spots),
        ("condition", condition, s.Spots),
    ):
        app.post(f"/explore/{path}", response_model=response, name=f"explore {path}")(endpoint)
    return app


def _files() -> dict[str, Response]:
    """The files of the page by path."""
    found: dict[str, Response] = {}
    for one in (resources.files("llamavae.explorer") / "static").iterdir():
        kind = _TYPES[one.name.rpartition(".")[2]]
        path = "/explore/" + ("" if one.name == "index.html" else one.name)
        found[path] = Response(one.read_bytes(), 200, _HEADERS, kind)
    return found


def _map(space: Space, name: str, definitions: bool) -> bytes:
    """The sentences, their labels and their places, as JSON."""
    labels = {}
    for column, values in space.labels.items():
        words = list(map(str, values))
        names, codes, counts = np.unique(words, return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")  # the most frequent first
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        labels[column] = {"values": names[order].tolist(), "codes": _packed(rank[codes], "<i4")}
    found = {
        "model": name,
        "dim": space.mean.shape[1],
        "definitions": definitions,
        "texts": list(space.texts),
        "labels": labels,
        "colour": space.clearest(),
        "layouts": {
            method: {
                "points": _packed(layout.points, "<f4"),
                "exact": layout.exact,
                "explained": layout.explained,
            }
            for method, layout in space.layouts.items()
        },
    }
    return json.dumps(found, ensure_ascii=False).encode()


def _packed(values: ArrayLike, kind: str) -> str:
    return base64.b64encode(np.asarray(values).astype(kind).tobytes()).decode()


# ------------------------------------------------------------------------------------- endpoints


async def page() -> Response:
    """The page."""
    return RedirectResponse("/explore/")


async def file(request: Request) -> Response:
    """A file of the page."""
    return request.app.state.files[request.url.path]


async def progress(request: Request) -> dict[str, Any]:
    """Whether the map is there, and otherwise what the service is doing."""
    engine: Engine = request.app.state.engine
    return {"ready": engine.facts is not None, "stage": engine.stage}


async def map_(request: Request) -> Response:
    """The sentences, their labels, and their places on each map (float32, base64)."""
    state, facts = request.app.state, facts_of(engine_of(request))
    if not hasattr(state, "map"):
        state.map = await asyncio.to_thread(
            _map, state.space, state.name, definitions=facts.definitions
        )
    return Response(state.map, media_type="application/json")


async def usage(request: Request) -> dict[str, Any]:
    """KL divergence of each dimension, and which are active."""
    return _space(request).usage()


async def texts(body: s.TextsRequest, request: Request) -> s.Spots:
    """The text of each place; that of a sentence is its reconstruction."""
    return await _decoded(request, await _codes(request, body.places))


async def neighbours(body: s.NeighboursRequest, request: Request) -> s.Neighbours:
    """The sentences nearest to a place."""
    check_count(engine_of(request), body.k, "neighbours")
    space = _space(request)
    [z] = await _codes(request, [body.place])
    found = space.neighbours(z, body.k)
    return s.Neighbours(
        neighbours=[s.Neighbour(index=i, text=space.texts[i], cosine=c) for i, c in found]
    )


async def path_(body: s.PathRequest, request: Request) -> s.Path:
    """Texts along a straight path, their smoothness, and that of a shuffled control."""
    engine = engine_of(request)
    check_count(engine, body.steps, "steps")
    a, b = await _codes(request, [body.a, body.b])
    found = await _decoded(request, lerp(a, b, body.steps))
    along = [spot.text for spot in found.spots]
    value, control = await attended(request, engine.run(path_smoothness, along))
    return s.Path(spots=found.spots, smoothness=value, control=control)


async def coordinates(body: s.CoordinatesRequest, request: Request) -> Response:
    """How much the text changes with each coordinate, as server-sent events.

    An event has the coordinate `dim`, the texts `low` and `high` at the ends of the central 95 % of
    the prior, and `change`: the mean over both ends of 1 - token F1 with the text of the place.
    """
    [z] = await _codes(request, [body.place])
    [start] = (await _decoded(request, z[None])).spots
    return StreamingResponse(
        _changes(request, z, start.text, body.count), media_type="text/event-stream"
    )


async def strip(body: s.StripRequest, request: Request) -> s.Spots:
    """Texts while one coordinate covers the central 95 % of the prior."""
    check_count(engine_of(request), body.steps, "steps")
    [z] = await _codes(request, [body.place])
    return await _decoded(request, traversal(z, body.dim, body.steps))


async def combine(body: s.CombineRequest, request: Request) -> s.Spots:
    """The text at the mean of several codes, or at their weighted sum."""
    z = await _codes(request, body.places)
    if body.weights is None:
        return await _decoded(request, average(z)[None])
    if len(body.weights) != len(z):
        raise UserError(f"expected {len(z)} weights; got {len(body.weights)}")
    return await _decoded(request, (torch.tensor(body.weights) @ z)[None])


async def condition(body: s.ConditionRequest, request: Request) -> s.Spots:
    """Codes drawn from a condition, such as a word, and their texts."""
    engine = engine_of(request)
    check_definitions(engine)
    check_count(engine, body.n, "texts")
    given_texts(engine, body.condition)
    drawn = engine.run_first(Models.define, body.condition, body.n, body.spread, body.seed)
    return await _decoded(request, torch.from_numpy(await attended(request, drawn)))


# ------------------------------------------------------------------------------------ their parts


def _space(request: Request) -> Space:
    engine_of(request)  # the models, and so the space, are there
    return request.app.state.space


async def _codes(request: Request, places: Sequence[s.Place]) -> Tensor:
    """The codes (B, D) of places."""
    engine, space = engine_of(request), _space(request)
    check_count(engine, len(places), "places")
    found: list[str | list[float]] = []
    for place in places:
        if isinstance(place, int):
            if place >= len(space):
                raise HTTPException(404, f"expected a sentence below {len(space)}; got {place}")
            found.append(space.mean[place].tolist())
        elif isinstance(place, s.MapPlace):
            if place.projection not in space.layouts:
                raise unknown("projection", place.projection[:80], space.layouts)
            layout = next(v for m, v in space.layouts.items() if m == place.projection)
            found.append(layout.code([place.x, place.y]).tolist())
        else:
            found.append(place)
    if given := [place for place in found if isinstance(place, str)]:
        given_texts(engine, given)
    return await attended(request, engine.codes(found))


async def _decoded(request: Request, z: Tensor) -> s.Spots:
    """The text and the places of each code (B, D)."""
    futures = engine_of(request).decode(z, Generation())
    found = await attended(request, all_texts(futures))
    rows = zip(found, z.tolist(), _space(request).places(z), strict=True)
    return s.Spots(spots=[s.Spot(text=text, z=code, at=at) for text, code, at in rows])


async def _changes(request: Request, z: Tensor, text: str, count: int | None) -> AsyncIterator[str]:
    """Events of coordinates, those with a large KL divergence first."""
    engine, space = engine_of(request), _space(request)
    dims = np.argsort(-np.array(space.usage()["kl"])).tolist()[:count]
    try:
        for part in (dims[i : i + _PART] for i in range(0, len(dims), _PART)):
            ends = torch.cat([traversal(z, dim, 2) for dim in part])
            found = await all_texts(engine.decode(ends, Generation()))
            scores = await engine.run(text_changes, found, text)
            for dim, low, high, change in zip(part, found[::2], found[1::2], scores, strict=True):
                yield event({"dim": dim, "change": round(change, 4), "low": low, "high": high})
        yield "data: [DONE]\n\n"
    except (Busy, Unavailable, UserError) as error:
        yield event(failed(error))
