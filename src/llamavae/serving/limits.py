"""Limits of the service: what a request may ask for, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass, fields

from llamavae.errors import UserError


@dataclass(frozen=True)
class Limits:
    """Limits of the service.

    Attributes:
        texts: Maximum number of texts or codes of a request, given or generated.
        characters: Maximum number of characters of a text.
        body: Maximum number of bytes of a request's body.
        waiting: Maximum number of texts and codes that wait for the model; beyond it requests are
            answered with status 429.
        seconds: Maximum duration of a request, from its headers to the end of its response.
        batch: Maximum number of texts or codes in a forward pass of the model.

    Raises:
        UserError: A limit is not positive, or a request may have more texts than may wait.
    """

    texts: int = 256
    characters: int = 10_000
    body: int = 8 * 2**20
    waiting: int = 1024
    seconds: float = 60.0
    batch: int = 64

    def __post_init__(self) -> None:
        for each in fields(self):
            if not getattr(self, each.name) > 0:
                raise UserError(f"expected {each.name} above 0; got {getattr(self, each.name)}")
        if self.texts > self.waiting:
            raise UserError(
                f"a request may have {self.texts} texts (--max-texts), but only {self.waiting} may "
                "wait (--max-waiting), so the largest requests would always be refused. Raise "
                "--max-waiting or lower --max-texts"
            )
