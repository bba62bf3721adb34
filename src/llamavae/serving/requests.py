"""What the endpoints of the service share: the parts of a request, and texts as responses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from torch import Tensor

from llamavae.errors import UserError
from llamavae.parsing import as_full_texts
from llamavae.serving import schemas as s
from llamavae.serving.batching import Busy, Unavailable
from llamavae.serving.decoding import Generation
from llamavae.serving.engine import Engine
from llamavae.serving.models import Facts

R = TypeVar("R")

_POLL = 0.25  # seconds between checks whether the client is still there


def engine_of(request: Request) -> Engine:
    """The models of the application; status 503 while they are being loaded."""
    engine: Engine = request.app.state.engine
    if engine.facts is None:
        message = engine.stage or "loading the model"
        raise HTTPException(503, f"{message}; try again later", {"Retry-After": "1"})
    return engine


def facts_of(engine: Engine) -> Facts:
    """The facts of models that are loaded."""
    assert engine.facts is not None  # `engine_of` checks it
    return engine.facts


def check_definitions(engine: Engine) -> None:
    """Raise an error of status 404 without a model of definitions."""
    if not facts_of(engine).definitions:
        raise HTTPException(404, "this server has no model of definitions (--definitions)")


def check_count(engine: Engine, count: int, what: str) -> None:
    """Raise a `UserError` for more items than a request may have."""
    if count > engine.limits.texts:
        raise UserError(f"expected at most {engine.limits.texts} {what}; got {count}")


def given_texts(engine: Engine, texts: str | Sequence[str]) -> list[str]:
    """Texts within the limits; an empty list or text is an error."""
    found = as_full_texts([texts] if isinstance(texts, str) else list(texts))
    if not found:
        raise UserError("expected at least one text; got none")
    check_count(engine, len(found), "texts")
    longest = max(map(len, found))
    if longest > engine.limits.characters:
        raise UserError(
            f"expected texts of at most {engine.limits.characters} characters; got {longest}"
        )
    return found


def given_places(engine: Engine, places: Sequence[s.Place]) -> Sequence[s.Place]:
    """Texts and codes; the texts are within the limits."""
    if texts := [one for one in places if isinstance(one, str)]:
        given_texts(engine, texts)
    return places


async def texts_at(
    request: Request,
    codes: Callable[[], Awaitable[Tensor | Sequence[str]]],
    body: s.Generated,
) -> Response:
    """The texts at computed codes (B, D), as JSON or streamed in order as they are decoded.

    Texts instead of codes are reconstructed.
    """
    engine = engine_of(request)
    how = Generation(body.temperature, body.top_p, body.max_new_tokens, body.seed)
    limit = facts_of(engine).max_tokens
    if how.max_new_tokens is not None and how.max_new_tokens > limit:
        raise UserError(f"expected max_new_tokens of at most {limit}; got {how.max_new_tokens}")
    futures = engine.decode(await attended(request, codes()), how)
    if body.stream:
        return StreamingResponse(events(futures), media_type="text/event-stream")
    texts = await attended(request, all_texts(futures))
    return JSONResponse({"texts": [{"index": i, "text": text} for i, text in enumerate(texts)]})


async def all_texts(futures: Sequence[asyncio.Future[str]]) -> list[str]:
    """The texts of all futures; they are cancelled together."""
    try:
        return [await future for future in futures]
    finally:
        for future in futures:
            future.cancel()


async def events(futures: Sequence[asyncio.Future[str]]) -> AsyncIterator[str]:
    """Server-sent events of texts; an error ends the stream as an event of its own.

    `Guard` sends the event for the time limit and for errors of the service.
    """
    try:
        for index, future in enumerate(futures):
            yield event({"index": index, "text": await future})
        yield "data: [DONE]\n\n"
    except (UserError, Unavailable) as error:
        yield event(failed(error))
    finally:
        for future in futures:
            future.cancel()


def event(value: Any) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def failed(error: Exception) -> dict[str, Any]:
    """The body for an error of a request or of the model, in OpenAI's form."""
    match error:
        case Busy():
            return s.error_body("too many texts are waiting; try again later", "rate_limit_error")
        case Unavailable():
            return s.error_body(f"{error} and is started again; try again later", "server_error")
        case _:
            return s.error_body(str(error))


class Gone(Exception):
    """The client has closed the connection."""


async def attended(request: Request, work: Awaitable[R]) -> R:
    """Wait for work, and cancel it if the client goes away."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_POLL)
            if not task.done() and await request.is_disconnected():
                raise Gone
        return task.result()
    finally:
        task.cancel()
