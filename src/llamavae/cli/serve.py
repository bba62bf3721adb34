"""The command that serves a model over HTTP."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial
from typing import Annotated

import typer

from llamavae.cli.options import ModelOptions
from llamavae.cli.output import note
from llamavae.cli.service import (
    AddressOptions,
    Definitions,
    LimitOptions,
    load_models,
    needs_serve,
)


def serve(
    model: ModelOptions,
    limit: LimitOptions,
    address: AddressOptions,
    definitions: Definitions = None,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Number of processes with the model, which share the requests."),
    ] = 1,
) -> None:
    """Serve a model over HTTP, with embeddings in OpenAI's format."""
    from llamavae.serving.server import listen, run, url
    from llamavae.serving.worker import ProcessWorker

    address.check()
    limits = limit.limits(model.batch_size)
    name = model.source
    with listen(address.host, address.port) as listener, ExitStack() as stack:
        running = [
            stack.enter_context(closing(ProcessWorker(partial(load_models, model, each), workers)))
            for each in (definitions, *["none"] * (workers - 1))  # the first one has definitions
        ]
        with needs_serve("serve"):  # while the processes load the model
            from llamavae.serving.app import app_of
        app = app_of(running, name=name, limits=limits, api_key=address.api_key)
        address.guard(app)
        note(f"{name} is served at {url(listener)} as soon as it is loaded")
        run(app, listener)
