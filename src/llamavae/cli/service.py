"""Options and models of the commands that answer requests."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from llamavae.cli.options import ModelOptions, quiet
from llamavae.cli.output import configure
from llamavae.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from llamavae.serving import Limits
    from llamavae.serving.models import Models


@dataclass
class LimitOptions:
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


Definitions = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER_OR_ID",
        help="Model of definitions, fitted to the same VAE. Default: that of a bundled model; "
        "none disables it.",
    ),
]


@dataclass
class AddressOptions:
    """Where the service listens, and its key."""

    panel: ClassVar[str] = "Address"

    host: Annotated[
        str, typer.Option(help="Address to listen on; other than a local one requires --api-key.")
    ] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 chooses a free one.")] = 8000
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="LLAMAVAE_API_KEY",
            help="Key that requests must have as `Authorization: Bearer KEY`.",
        ),
    ] = None

    def guard(self, app: FastAPI) -> None:
        """Without a key, answer only requests that name this machine.

        A page of another site, whose name resolves to this machine, could read the answers
        otherwise (DNS rebinding).
        """
        if self.api_key is None:
            from starlette.middleware.trustedhost import TrustedHostMiddleware

            hosts = ["localhost", "127.0.0.1", "[::1]", self.host]
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)

    def check(self) -> None:
        """Raise an error for an empty key, or an address of other machines without a key."""
        if self.api_key is not None and not self.api_key.strip():
            raise UserError("expected an --api-key that is not empty")
        if self.api_key is None and not _is_local(self.host):
            raise UserError(
                f"--host {self.host} can be reached from other machines. Add --api-key KEY, or set "
                "LLAMAVAE_API_KEY"
            )


@contextmanager
def needs_serve(command: str) -> Iterator[None]:
    """Name the extra `serve` if one of its packages is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{command} needs {error.name}: pip install 'llamavae[serve]'") from error


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_models(model: ModelOptions, definitions: str | None, say: Callable[[str], None]) -> Models:
    """The VAE, and the model of definitions with the same VAE, in the process of the models.

    Args:
        model: Options of the VAE.
        definitions: Option of the model of definitions.
        say: Called with what is being done, in words.
    """
    from llamavae.pretrained import DEFINITIONS
    from llamavae.serving.models import Models

    configure()
    say(f"loading the model {model.source}")
    default = f"{model.source}-definitions"
    if definitions is None and default in DEFINITIONS:
        definitions = default
    if definitions in (None, "none"):
        return Models(model.load())
    quiet()
    from llamavae import InvertibleCVAE
    from llamavae.pretrained.loading import placement

    options = placement(model.device, model.dtype)
    vae = None if definitions == default else model.source
    cvae = InvertibleCVAE.from_pretrained(str(definitions), vae, **options)
    return Models(cvae.vae, cvae)
