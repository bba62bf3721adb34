"""The command that serves a model over HTTP."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from llamavae.cli.options import ModelOptions, placement, quiet
from llamavae.cli.output import note
from llamavae.errors import UserError

if TYPE_CHECKING:
    from llamavae import InvertibleCVAE, LlaMaVAE
    from llamavae.serving import Limits


@dataclass
class _LimitOptions:
    """Limits of requests; the defaults are those of `llamavae.serving.Limits`."""

    panel: ClassVar[str] = "Limits"

    max_texts: Annotated[
        int, typer.Option(min=1, help="Maximum number of texts or codes of a request.")
    ] = 256
    max_characters: Annotated[
        int, typer.Option(min=1, help="Maximum number of characters of a text.")
    ] = 10_000
    max_body: Annotated[
        int, typer.Option(min=1, help="Maximum number of bytes of a request's body.")
    ] = 8 * 2**20
    max_waiting: Annotated[
        int,
        typer.Option(
            min=1,
            help="Maximum number of texts and codes that wait for the model; beyond it, requests "
            "are answered with status 429.",
        ),
    ] = 1024
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Maximum duration of a request, in seconds.")
    ] = 60.0

    def limits(self, batch_size: int) -> Limits:
        """The limits, with the size of batches."""
        from llamavae.serving import Limits

        return Limits(
            self.max_texts,
            self.max_characters,
            self.max_body,
            self.max_waiting,
            self.timeout,
            batch_size,
        )


def serve(
    model: ModelOptions,
    limit: _LimitOptions,
    definitions: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER_OR_ID",
            help="Model of definitions, fitted to the same VAE. Default: that of a bundled model; "
            "none disables it.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than a local one requires --api-key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 chooses a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="LLAMAVAE_API_KEY",
            help="Key that requests must have as `Authorization: Bearer KEY`.",
        ),
    ] = None,
) -> None:
    """Serve a model over HTTP, with embeddings in OpenAI's format."""
    if api_key is not None and not api_key.strip():
        raise UserError("expected an --api-key that is not empty")
    if api_key is None and not _is_local(host):
        raise UserError(
            f"--host {host} can be reached from other machines. Add --api-key KEY, or set "
            "LLAMAVAE_API_KEY"
        )
    try:
        from llamavae.serving import create_app
        from llamavae.serving.server import listen, run, url
    except ModuleNotFoundError as error:
        raise UserError(f"serve needs {error.name}: pip install 'llamavae[serve]'") from error

    limits = limit.limits(model.batch_size)
    with listen(host, port) as listener:  # before the model is loaded, which takes seconds
        vae, cvae = _load(model, definitions)
        app = create_app(vae, cvae, name=model.source, limits=limits, api_key=api_key)
        note(f"{model.source} is served at {url(listener)}")
        run(app, listener)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _load(model: ModelOptions, definitions: str | None) -> tuple[LlaMaVAE, InvertibleCVAE | None]:
    """The VAE, and the model of definitions with the same VAE."""
    from llamavae.pretrained import DEFINITIONS

    default = f"{model.source}-definitions"
    if definitions is None and default in DEFINITIONS:
        definitions = default
    if definitions in (None, "none"):
        return model.load(), None
    quiet()
    from llamavae import InvertibleCVAE

    options = placement(model.device, model.dtype)
    vae = None if definitions == default else model.source
    cvae = InvertibleCVAE.from_pretrained(str(definitions), vae, **options)
    return cvae.vae, cvae
