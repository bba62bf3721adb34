"""Running the application with uvicorn."""

from __future__ import annotations

import logging
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, cast

from llamavae.errors import UserError
from llamavae.serving.batching import Unavailable

if TYPE_CHECKING:
    from fastapi import FastAPI

    from llamavae.serving.engine import Engine

_GRACE = 30  # seconds that running requests have after a signal to stop
_KEEP_ALIVE = 5  # seconds that an idle connection stays open
_CONNECTIONS = 1024


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address; port 0 chooses a free one.

    Raises:
        UserError: The address cannot be bound.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # clients that come now wait until the service has started
    except OSError as error:
        listener.close()
        raise UserError(
            f"cannot listen on {host}, port {port}: {error.strerror}. Choose another --port or "
            "--host"
        ) from error
    return listener


def url(listener: socket.socket) -> str:
    """The address of a socket as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; running requests are finished first.

    The log on stderr has a line of JSON for each request.

    Args:
        app: The application of `create_app` or `app_of`.
        listener: Socket to listen on.

    Raises:
        UserError: The model could not be loaded.
    """
    import uvicorn

    logger = logging.getLogger("llamavae.serving")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        http="h11",  # limits the size of headers, unlike httptools
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACE,
        limit_concurrency=_CONNECTIONS,
    )
    server, engine = uvicorn.Server(config), cast("Engine", app.state.engine)
    engine.stop = partial(setattr, server, "should_exit", True)
    server.run(sockets=[listener])
    if isinstance(engine.failure, Unavailable):
        raise UserError(
            f"{engine.failure} while it was being loaded. Check the free memory, or choose a "
            "smaller model"
        ) from engine.failure
    if engine.failure is not None:
        raise engine.failure
