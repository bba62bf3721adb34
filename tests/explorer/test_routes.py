"""What the page asks the service, and what a page of another origin cannot do."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from tests import tiny

from llamavae.explorer import create_explorer
from llamavae.serving import Limits

A, B = tiny.SENTENCES[0], tiny.SENTENCES[5]
Make = Callable[..., TestClient]


@pytest.fixture
def make(vae, cvae, space) -> Iterator[Make]:
    """Starts explorers with limits."""
    clients: list[TestClient] = []

    def client(api_key: str | None = None, definitions: Any = cvae, **limits: Any) -> TestClient:
        app = create_explorer(
            vae, space, definitions, name="tiny", limits=Limits(**limits), api_key=api_key
        )
        clients.append(TestClient(app).__enter__())
        return clients[-1]

    yield client
    for each in clients:
        each.__exit__(None, None, None)


@pytest.fixture
def client(make) -> TestClient:
    """An explorer with the default limits."""
    return make()


def post(client: TestClient, path: str, **body: Any) -> Any:
    response = client.post(f"/explore/{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def spots(client: TestClient, path: str, **body: Any) -> list[dict[str, Any]]:
    return post(client, path, **body)["spots"]


def message(response: Any) -> str:
    assert set(response.json()) == {"error"}
    return response.json()["error"]["message"]


# ------------------------------------------------------------------------------------- the page


def test_the_files_of_the_page(client):
    assert client.get("/").url.path == "/explore/"
    page = client.get("/explore/")
    assert page.headers["content-type"].startswith("text/html")
    for path in ("explore.js", "explore.css", "map.js", "icon.svg"):
        assert client.get(f"/explore/{path}").status_code == 200, path
    assert "http://" not in page.text
    assert "https://" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_no_other_file_is_served(client):
    for path in ("icon.svg/../../routes.py", "..%2froutes.py", "index.html", "%2e%2e/space.py"):
        assert client.get(f"/explore/{path}").status_code == 404, path


def test_a_key_protects_everything_but_the_files(make):
    client = make(api_key="key")
    assert client.get("/").status_code == 200
    assert client.get("/explore/map.js").status_code == 200
    for path in (
        "/explore/map",
        "/explore/progress",
        "/explore/usage",
        "/explore/map.js/",
        "/docs",
    ):
        assert client.get(path).status_code == 401, path
    assert client.post("/explore/texts", json={"places": [0]}).status_code == 401
    headers = {"Authorization": "Bearer key"}
    assert client.get("/explore/map", headers=headers).status_code == 200


def test_the_map(client, space):
    assert client.get("/explore/progress").json() == {"ready": True, "stage": ""}
    found = client.get("/explore/map").json()
    assert found["texts"] == tiny.SENTENCES
    assert (found["model"], found["dim"], found["definitions"]) == ("tiny", tiny.LATENT, True)
    for method, layout in space.layouts.items():
        packed = base64.b64decode(found["layouts"][method]["points"])
        points = np.frombuffer(packed, "<f4").reshape(-1, 2)
        np.testing.assert_allclose(points, layout.points, rtol=1e-5, atol=1e-5)
    label = found["labels"]["long"]
    codes = np.frombuffer(base64.b64decode(label["codes"]), "<i4")
    assert [label["values"][c] for c in codes] == [str(len(t) > 30) for t in tiny.SENTENCES]
    assert found["colour"] == "long"
    assert len(client.get("/explore/usage").json()["kl"]) == tiny.LATENT


# ------------------------------------------------------------------------------------- the texts


def test_texts_of_all_kinds_of_places(client, vae, space):
    z = torch.randn(tiny.LATENT)
    place = {"projection": "pca", "x": 0.5, "y": -0.2}
    found = spots(client, "texts", places=[0, A, z.tolist(), place])
    code = torch.tensor(space.layouts["pca"].code([0.5, -0.2])).float()
    expected = torch.stack([space.mean[0], vae.encode(A).mean[0], z, code])
    torch.testing.assert_close(
        torch.tensor([spot["z"] for spot in found]), expected, atol=1e-5, rtol=0
    )
    assert [spot["text"] for spot in found] == vae.decode(expected)
    assert found[3]["at"]["pca"] == pytest.approx([0.5, -0.2], abs=1e-5)
    assert found[0]["at"]["tsne"] == pytest.approx(space.layouts["tsne"].points[0], abs=1e-3)


def test_neighbours(client, space):
    found = post(client, "neighbours", place=3, k=2)["neighbours"]
    assert [(each["index"], each["text"]) for each in found] == [
        (i, tiny.SENTENCES[i]) for i, _ in space.neighbours(space.mean[3], 2)
    ]


def test_a_path_has_smoothness_and_a_control(client, vae):
    found = post(client, "path", a=A, b=B, steps=5)
    assert [spot["text"] for spot in found["spots"]] == vae.interpolate(A, B, 5)
    for name in ("smoothness", "control"):
        assert 0 <= found[name] <= 1 + 1e-9
    again = post(client, "path", a=A, b=B, steps=5)
    assert again["control"] == found["control"]


def test_changes_of_all_coordinates_are_streamed(client, vae):
    text = client.post("/explore/coordinates", json={"place": A}).text
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    found = {each["dim"]: each for each in map(json.loads, events)}
    assert sorted(found) == list(range(tiny.LATENT))
    for dim, each in found.items():
        assert [each["low"], each["high"]] == vae.traverse(A, dim, 2)
        assert 0 <= each["change"] <= 1


def test_the_coordinates_with_the_largest_kl_come_first(client, space):
    text = client.post("/explore/coordinates", json={"place": 0, "count": 2}).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n")[:2]]
    kl = space.usage()["kl"]
    assert [each["dim"] for each in events] == sorted(range(len(kl)), key=lambda i: -kl[i])[:2]


def test_a_strip_is_a_traversal(client, vae):
    found = spots(client, "strip", place=A, dim=2, steps=4)
    assert [spot["text"] for spot in found] == vae.traverse(A, 2, 4)
    assert found[0]["z"][2] == pytest.approx(-1.96, abs=1e-3)


def test_combinations(client, vae):
    [mean] = spots(client, "combine", places=[A, B])
    assert [mean["text"]] == vae.average([A, B])
    [sum_] = spots(client, "combine", places=[A, B, A], weights=[1, -1, 1])
    assert [sum_["text"]] == vae.arithmetic(A, B, A)


def test_a_condition_gives_reproducible_samples(client, cvae):
    body = {"condition": "word=dog", "n": 3, "seed": 4}
    found = spots(client, "condition", **body)
    z = cvae.sample_codes(["word=dog"], 3, 0.7, 4)
    torch.testing.assert_close(torch.tensor([spot["z"] for spot in found]), z.float())
    assert spots(client, "condition", **body) == found


def test_without_a_model_of_definitions(make):
    client = make(definitions=None)
    assert client.get("/explore/map").json()["definitions"] is False
    response = client.post("/explore/condition", json={"condition": "dog"})
    assert response.status_code == 404
    assert "--definitions" in message(response)


# ------------------------------------------------------------------------------------- the limits


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("texts", {"places": []}, "at least 1 item"),
        ("texts", {"places": [0] * 9}, "at most 8 places; got 9"),
        ("texts", {"places": [[1.0]]}, "(B, 6)"),
        ("texts", {"places": [""]}, "text"),
        ("texts", {"places": [-1]}, "greater than or equal to 0"),
        ("texts", {"places": [True]}, ""),
        ("texts", {"places": [{"projection": "umap", "x": 0, "y": 0}]}, "unknown projection"),
        ("texts", {"places": [{"projection": "pca", "x": 1e999, "y": 0}]}, ""),
        ("texts", {"places": [0], "more": 1}, "Extra inputs"),
        ("texts", {"places": [[]]}, "List should have at least 1 item"),
        ("combine", {"places": [[], 0], "weights": [1, 1]}, "List should have at least 1 item"),
        ("neighbours", {"place": 0, "k": 9}, "at most 8 neighbours"),
        ("path", {"a": 0, "b": 1, "steps": 2}, "greater than or equal to 3"),
        ("path", {"a": 0, "b": 1, "steps": 9}, "at most 8 steps"),
        ("strip", {"place": 0, "dim": 6, "steps": 3}, "dim"),
        ("strip", {"place": 0, "dim": 0, "steps": 9}, "at most 8 steps"),
        ("combine", {"places": [0, 1], "weights": [1]}, "expected 2 weights; got 1"),
        ("condition", {"condition": "word=cat"}, "cat"),
        ("condition", {"condition": "word=dog", "n": 9}, "at most 8 texts"),
    ],
)
def test_wrong_requests(make, path, body, expected):
    text = json.dumps(body)
    response = make(texts=8).post(
        f"/explore/{path}", content=text, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400, response.text
    assert expected in message(response)


def test_an_unknown_sentence(client):
    response = client.post("/explore/texts", json={"places": [len(tiny.SENTENCES)]})
    assert response.status_code == 404
    assert message(response) == "expected a sentence below 8; got 8"


def test_coordinates_of_a_busy_service(make):
    client = make(texts=1, waiting=1, batch=4)
    text = client.post("/explore/coordinates", json={"place": 0}).text
    assert "too many texts are waiting" in text
