"""The command that serves a model over HTTP."""

from __future__ import annotations

from contextlib import closing
from functools import partial

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
) -> None:
    """Serve a model over HTTP, with embeddings in OpenAI's format."""
    from llamavae.serving.server import listen, run, url
    from llamavae.serving.worker import ProcessWorker

    address.check()
    limits = limit.limits(model.batch_size)
    name = model.source
    load = partial(load_models, model, definitions)
    with listen(address.host, address.port) as listener, closing(ProcessWorker(load)) as worker:
        with needs_serve("serve"):  # while the process loads the model
            from llamavae.serving.app import app_of
        app = app_of(worker, name=name, limits=limits, api_key=address.api_key)
        address.guard(app)
        note(f"{name} is served at {url(listener)} as soon as it is loaded")
        run(app, listener)
