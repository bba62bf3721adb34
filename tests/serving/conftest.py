from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests import tiny

from llamavae import InvertibleCVAE, LlaMaVAE
from llamavae.serving import Limits, create_app

Make = Callable[..., TestClient]


@pytest.fixture(scope="session")
def vae() -> LlaMaVAE:
    """A tiny model."""
    return tiny.vae().eval()


@pytest.fixture(scope="session")
def cvae(vae: LlaMaVAE) -> InvertibleCVAE:
    """A model of the definitions of two words."""
    return tiny.definitions(vae)


@pytest.fixture
def make(vae: LlaMaVAE, cvae: InvertibleCVAE) -> Iterator[Make]:
    """Starts services with options of `create_app` and limits."""
    clients: list[TestClient] = []

    def client(
        api_key: str | None = None, definitions: InvertibleCVAE | None = cvae, **limits: Any
    ) -> TestClient:
        app = create_app(vae, definitions, name="tiny", limits=Limits(**limits), api_key=api_key)
        clients.append(TestClient(app).__enter__())
        return clients[-1]

    yield client
    for each in clients:
        each.__exit__(None, None, None)


@pytest.fixture
def client(make: Make) -> TestClient:
    """A service with the default limits."""
    return make()
