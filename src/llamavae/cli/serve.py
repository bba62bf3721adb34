"""The command that serves a model over HTTP."""

from __future__ import annotations

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
    address.check()
    with needs_serve("serve"):
        from llamavae.serving import create_app
        from llamavae.serving.server import listen, run, url

    limits = limit.limits(model.batch_size)
    with listen(address.host, address.port) as listener:  # before the model, which takes seconds
        vae, cvae = load_models(model, definitions)
        key = address.api_key
        app = create_app(vae, cvae, name=model.source, limits=limits, api_key=key)
        note(f"{model.source} is served at {url(listener)}")
        run(app, listener)
