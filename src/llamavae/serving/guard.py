"""What surrounds every request: key, size, time limit, log line, metrics, and errors as JSON."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from fastapi import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamavae.serving.limits import Limits
from llamavae.serving.metrics import Metrics
from llamavae.serving.schemas import error_body

logger = logging.getLogger("llamavae.serving")

_STREAM = b"text/event-stream; charset=utf-8"
_HEADERS = 64 * 2**10  # bytes
_LAST = 1.0  # seconds for the last event of a stream that has failed


class Guard:
    """ASGI middleware around the application.

    Args:
        app: The application.
        limits: Limits of bodies and of time.
        metrics: Counts requests.
        api_key: Key that requests must have as `Authorization: Bearer KEY`; None needs no key.
        open_paths: Paths that need no key, besides `/health`.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        api_key: str | None = None,
        open_paths: Sequence[str] = (),
    ) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self._open = {"/health", *open_paths}
        self._key = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, streams = time.perf_counter(), 0, False

        async def observed(message: Message) -> None:
            nonlocal status, streams
            if message["type"] == "http.response.start":
                status = message["status"]
                streams = (b"content-type", _STREAM) in message["headers"]
            elif not message.get("more_body", False):
                streams = False
            await send(message)

        async def end(with_status: int, body: Any) -> None:
            """Respond with an error, or end a stream of events with it."""
            if not status:
                await _respond(with_status, body, scope, receive, observed)
            elif streams:
                with suppress(TimeoutError):  # a client that does not read
                    async with asyncio.timeout(_LAST):
                        content = f"data: {json.dumps(body)}\n\n".encode()
                        await observed({"type": "http.response.body", "body": content})

        try:
            async with asyncio.timeout(self.limits.seconds):
                await self._guarded(scope, receive, observed)
        except TimeoutError:
            seconds = f"{self.limits.seconds:g} seconds"
            body = error_body(f"the request took longer than {seconds}", "timeout_error")
            await end(504, body)
        except Exception:
            logger.exception("error in %s", scope["path"])
            body = error_body("internal error; the log of the server has the cause", "server_error")
            await end(500, body)
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, scope["method"], status, seconds)
            line = {
                "time": round(time.time(), 3),
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "seconds": round(seconds, 4),
            }
            logger.info("%s", json.dumps(line))

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if self._key is not None and scope["path"] not in self._open:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._key):
                body = error_body("missing or wrong API key", "authentication_error")
                await _respond(401, body, scope, receive, send)
                return
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _HEADERS:
            body = error_body(f"the headers are larger than {_HEADERS:,} bytes")
            await _respond(431, body, scope, receive, send)
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 20 or int(length) > self.limits.body:
            await _respond(413, error_body(self._too_large), scope, receive, send)
            return
        await self.app(scope, self._limited(receive), send)

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self.limits.body:,} bytes"

    def _limited(self, receive: Receive) -> Receive:
        """Receive, and raise an error when the body becomes larger than its limit."""
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.limits.body:
                raise HTTPException(413, self._too_large)
            return message

        return limited


async def _respond(status: int, body: Any, scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {"Connection": "close"}
    await JSONResponse(body, status, headers)(scope, receive, send)
