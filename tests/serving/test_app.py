"""The service gives what the Python methods give, and an error of one form for everything else."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tests import tiny

from llamavae.cli.service import AddressOptions
from llamavae.errors import UserError
from llamavae.serving import Limits, create_app

A, B, C = "a dog runs in a park", "an owl reads a letter", "two old bakers sell bread"


def texts(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    found = response.json()["texts"]
    assert [each["index"] for each in found] == list(range(len(found)))
    return [each["text"] for each in found]


def message(response: Any) -> str:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]["message"]


# ------------------------------------------------------------------------------------- embeddings


def test_embeddings_are_posterior_means(client, vae):
    expected = vae.encode([A, B]).mean
    body = client.post("/v1/embeddings", json={"input": [A, B], "model": "tiny"}).json()
    assert (body["object"], body["model"]) == ("list", "tiny")
    assert [each["index"] for each in body["data"]] == [0, 1]
    given_back = torch.tensor([each["embedding"] for each in body["data"]])
    torch.testing.assert_close(given_back, expected, atol=1e-6, rtol=0)
    tokens = int(vae.encoder.tokenize([A, B])["attention_mask"].sum())
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_embeddings_in_base64_are_little_endian_float32(client, vae):
    request = {"input": A, "encoding_format": "base64"}
    [one] = client.post("/v1/embeddings", json=request).json()["data"]
    values = np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
    np.testing.assert_allclose(values, vae.encode(A).mean[0].numpy(), atol=1e-6)


def test_dimensions_are_those_of_z(client):
    request = {"input": A, "dimensions": tiny.LATENT}
    assert client.post("/v1/embeddings", json=request).status_code == 200
    response = client.post("/v1/embeddings", json=request | {"dimensions": 2})
    assert response.status_code == 400
    assert message(response) == f"dimensions must be {tiny.LATENT}, the size of z; got 2"


def test_another_model_is_not_served(client):
    response = client.post("/v1/embeddings", json={"input": A, "model": "../../etc/passwd"})
    assert response.status_code == 404
    assert "served: tiny" in message(response)
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"


# ------------------------------------------------------------------------------------------ texts


def test_texts_are_those_of_the_methods(client, vae):
    z = torch.randn(2, tiny.LATENT)
    for path, body, expected in (
        ("decode", {"z": z.tolist()}, vae.decode(z)),
        ("decode", {"z": z[0].tolist()}, vae.decode(z[0])),
        ("reconstruct", {"texts": [A, B]}, vae.reconstruct([A, B])),
        ("reconstruct", {"texts": A}, vae.reconstruct(A)),
        ("interpolate", {"a": A, "b": B, "steps": 4}, vae.interpolate(A, B, 4)),
        ("interpolate", {"a": A, "b": z[0].tolist()}, vae.interpolate(A, z[0])),
        ("interpolate", {"a": A, "b": B, "mode": "slerp"}, vae.interpolate(A, B, mode="slerp")),
        ("traverse", {"start": A, "dim": 1}, vae.traverse(A, 1)),
        ("arithmetic", {"a": A, "b": B, "c": C}, vae.arithmetic(A, B, C)),
        ("average", {"texts": [A, B]}, vae.average([A, B])),
        ("average", {"texts": [A, B], "weights": [1, 3]}, vae.average([A, B], [1, 3])),
        ("sample", {"n": 3, "seed": 1}, vae.sample(3, seed=1)),
        ("decode", {"z": z.tolist(), "max_new_tokens": 2}, vae.decode(z, max_new_tokens=2)),
    ):
        assert texts(client.post(f"/v1/{path}", json=body)) == expected, path


def test_definitions_and_lookup(client, cvae):
    body = {"word": "word=dog", "n": 2, "seed": 3}
    expected = cvae.generate(["word=dog"], 2, 0.7, 3)
    assert texts(client.post("/v1/define", json=body)) == expected
    found = client.post("/v1/lookup", json={"text": A, "k": 2}).json()["words"]
    ranked = cvae.rank(A, k=2)
    assert [each["word"] for each in found] == [cvae.vocabulary[i] for i, _ in ranked]
    assert [each["log_prob"] for each in found] == pytest.approx([p for _, p in ranked], abs=1e-4)


def test_without_a_model_of_definitions(make):
    client = make(definitions=None)
    for path, body in (("define", {"word": "dog"}), ("lookup", {"text": A})):
        response = client.post(f"/v1/{path}", json=body)
        assert response.status_code == 404
        assert "--definitions" in message(response)


def test_samples_of_tokens_are_reproducible(client):
    body = {"z": [[0.5] * tiny.LATENT] * 3, "temperature": 1.5, "seed": 4}
    first = texts(client.post("/v1/decode", json=body))
    assert texts(client.post("/v1/decode", json=body)) == first
    assert len(set(first)) > 1  # each text has a seed of its own
    single = body | {"z": [body["z"][0]], "seed": 5}
    assert texts(client.post("/v1/decode", json=single)) == [first[1]]


def test_samples_without_a_seed_do_not_follow_from_the_seed_of_another_request(client):
    seeded = {"z": [0.5] * tiny.LATENT, "temperature": 1.5, "seed": 4}
    free = {"z": [[0.5] * tiny.LATENT] * 5, "temperature": 1.5}
    found = []
    for _ in range(2):
        client.post("/v1/decode", json=seeded)
        found.append(texts(client.post("/v1/decode", json=free)))
    assert found[0] != found[1]


def test_streamed_texts_are_the_same(client, vae):
    body = {"a": A, "b": B, "steps": 5, "stream": True}
    response = client.post("/v1/interpolate", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, last, rest = response.text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    found = [json.loads(event.removeprefix("data: ")) for event in events]
    assert found == [{"index": i, "text": text} for i, text in enumerate(vae.interpolate(A, B, 5))]


@pytest.mark.parametrize(
    ("cause", "limits", "kind", "expected"),
    [
        (KeyError("secret"), {}, "server_error", "internal error"),
        (UserError("too large"), {}, "invalid_request_error", "too large"),
        (None, {"seconds": 3}, "timeout_error", "longer than 3 seconds"),
    ],
)
def test_a_stream_ends_with_its_error(make, monkeypatch, caplog, cause, limits, kind, expected):
    client = make(**limits)

    def decode(*_: Any) -> list[asyncio.Future[str]]:
        first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
        first.set_result("a dog")
        if cause is not None:  # otherwise it never ends
            second.set_exception(cause)
        return [first, second]

    monkeypatch.setattr(client.app.state.engine, "decode", decode)
    response = client.post("/v1/reconstruct", json={"texts": [A, B], "stream": True})
    assert response.status_code == 200
    first, last, rest = response.text.split("\n\n")
    assert json.loads(first.removeprefix("data: ")) == {"index": 0, "text": "a dog"}
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["type"] == kind
    assert expected in error["message"]
    assert rest == ""
    assert "secret" not in response.text
    assert ("secret" in caplog.text) == isinstance(cause, KeyError)


def test_requests_at_once_get_their_own_texts(vae):
    import httpx2

    sentences = [f"{text} {i}" for i in range(8) for text in (A, B, C)]
    expected = [vae.reconstruct(sentence)[0] for sentence in sentences]
    app = create_app(vae, name="tiny")

    async def main() -> list[str]:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            calls = (client.post("/v1/reconstruct", json={"texts": one}) for one in sentences)
            return [texts(response)[0] for response in await asyncio.gather(*calls)]

    assert asyncio.run(main()) == expected
    batches = app.state.metrics.text().decode()
    assert "llamavae_batch_items_count" in batches
    count = float(batches.split("llamavae_batch_items_count ")[1].split()[0])
    assert count < 2 * len(sentences)  # some shared a batch
    app.state.engine.close()


# ------------------------------------------------------------------------------ errors and limits


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("embeddings", {"input": []}, "at least one text"),
        ("embeddings", {"input": ["a", " "]}, "index 1 is empty"),
        ("embeddings", {"input": [[1, 2]]}, "input"),
        ("decode", {"z": [0.0]}, "expected latent codes of shape"),
        ("decode", {"z": []}, "expected at least one code"),
        ("decode", {"z": [[0.0] * tiny.LATENT, [0.0]]}, "expected latent codes of shape"),
        ("decode", {"z": [1e39] * tiny.LATENT}, "finite"),
        ("decode", {"z": [[]]}, "z.0: List should have at least 1 item"),
        ("decode", {"z": [[0.0] * tiny.LATENT, []]}, "List should have at least 1 item"),
        ("decode", {}, "z: Field required"),
        ("reconstruct", {"texts": []}, "at least one text"),
        ("reconstruct", {"texts": A, "temprature": 1}, "temprature: Extra inputs"),
        ("reconstruct", {"texts": A, "temperature": -1}, "temperature"),
        ("reconstruct", {"texts": A, "max_new_tokens": 99}, "max_new_tokens of at most 16"),
        ("interpolate", {"a": A, "b": B, "steps": 1}, "steps"),
        ("interpolate", {"a": A, "b": [0.0]}, "expected latent codes of shape"),
        ("interpolate", {"a": A, "b": []}, "b: List should have at least 1 item"),
        ("traverse", {"start": A, "dim": 99}, "dim must be from 0 to"),
        ("traverse", {"start": [], "dim": 3}, "start: List should have at least 1"),
        ("arithmetic", {"a": [], "b": A, "c": B}, "a: List should have at least 1"),
        ("arithmetic", {"a": A, "b": B, "c": []}, "c: List should have at least 1"),
        ("average", {"texts": []}, "at least one text"),
        ("average", {"texts": [A, []]}, "texts.1: List should have at least 1"),
        ("average", {"texts": [A, B], "weights": []}, "expected 2 finite weights"),
        ("average", {"texts": [A, B], "weights": [1]}, "expected 2 finite weights"),
        ("sample", {"n": 0}, "n: Input should be greater"),
        ("define", {"word": "owl=owl"}, "owl"),
        ("define", {"word": " "}, "empty"),
        ("define", {"word": []}, "word: Input should be a valid string"),
        ("lookup", {"text": []}, "text: Input should be a valid string"),
    ],
)
def test_wrong_requests(client, path, body, expected):
    response = client.post(f"/v1/{path}", json=body)
    assert response.status_code == 400, response.text
    assert expected in message(response)


def test_limits(make):
    client = make(texts=2, characters=30, body=2000, waiting=3)
    for path, body, expected in (
        ("embeddings", {"input": ["a"] * 3}, "at most 2 texts; got 3"),
        ("reconstruct", {"texts": "a" * 31}, "at most 30 characters; got 31"),
        ("sample", {"n": 3}, "at most 2 texts; got 3"),
        ("interpolate", {"a": "a", "b": "b", "steps": 3}, "at most 2 steps; got 3"),
        ("lookup", {"text": "a", "k": 3}, "at most 2 words; got 3"),
    ):
        response = client.post(f"/v1/{path}", json=body)
        assert response.status_code == 400
        assert expected in message(response)
    response = client.post("/v1/reconstruct", json={"texts": "a" * 2001})
    assert response.status_code == 413
    assert "2,000 bytes" in message(response)
    parts = (b"x" * 500 for _ in range(10))  # without Content-Length
    assert client.post("/v1/reconstruct", content=parts).status_code == 413
    response = client.get("/health", headers={"X-Long": "a" * 70_000})
    assert response.status_code == 431
    assert "65,536 bytes" in message(response)


def test_too_many_waiting_texts(make, vae, monkeypatch):
    client, free, draw = make(texts=2, waiting=2, batch=1), Event(), vae.sample_codes

    def drawn(*args: Any) -> torch.Tensor:
        assert free.wait(60)
        return draw(*args)

    monkeypatch.setattr(vae, "sample_codes", drawn)
    body = {"texts": [A, B]}
    with ThreadPoolExecutor(2) as pool:
        try:
            sample = pool.submit(client.post, "/v1/sample", json={})
            _until_waiting(client, 1)
            first = pool.submit(client.post, "/v1/reconstruct", json=body)
            _until_waiting(client, 2)  # the other text is in the batch
            response = client.post("/v1/reconstruct", json=body)
        finally:
            free.set()
    assert response.status_code == 429
    assert response.headers["Retry-After"] == "1"
    assert sample.result().status_code == first.result().status_code == 200
    assert client.post("/v1/reconstruct", json=body).status_code == 200


def _until_waiting(client: TestClient, count: int) -> None:
    end = time.monotonic() + 30
    while client.get("/health").json()["waiting"] != count:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_request_that_takes_too_long(make):
    client = make(seconds=0.001)
    response = client.post("/v1/reconstruct", json={"texts": A})
    assert response.status_code == 504
    assert "longer than 0.001 seconds" in message(response)


def test_an_error_of_the_service_is_named_in_its_log_alone(make, vae, caplog, monkeypatch):
    client = make()
    monkeypatch.setattr(vae, "sample_codes", lambda *_: {}["secret"])
    response = client.post("/v1/sample", json={})
    assert response.status_code == 500
    assert "secret" not in message(response)
    assert "secret" in caplog.text


def test_what_is_not_json(client):
    response = client.post("/v1/decode", content=b"{", headers={"Content-Type": "text/plain"})
    assert response.status_code == 415
    assert "application/json" in message(response)
    json_type = {"Content-Type": "application/json"}
    for content in (b"", b"{", b'{"z": NaN}', b"[" * 100_000, b"\xff", b"null", b"[]"):
        response = client.post("/v1/decode", content=content, headers=json_type)
        assert response.status_code == 400, content[:10]
        assert message(response)
    response = client.post("/v1/decode", content=b'{"z": [0.5,}', headers=json_type)
    assert message(response) == "body: invalid JSON at character 11"
    assert response.json()["error"]["param"] is None


def test_paths_and_methods_that_do_not_exist(client):
    assert client.get("/v1/decode").status_code == 405
    response = client.get("/../../etc/passwd")
    assert response.status_code == 404
    assert message(response) == "Not Found"


def test_a_key(make):
    client = make(api_key="s3cret")
    for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "s3cret"}):
        response = client.get("/v1/models", headers=headers)
        assert response.status_code == 401
        assert message(response) == "missing or wrong API key"
    right = {"Authorization": "Bearer s3cret"}
    assert client.get("/v1/models", headers=right).status_code == 200
    assert client.get("/health").status_code == 200


def test_other_sites_are_not_allowed(client):
    response = client.post(
        "/v1/embeddings", json={"input": A}, headers={"Origin": "http://example.org"}
    )
    assert not [name for name in response.headers if name.startswith("access-control")]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
FIELDS = (
    *("z", "texts", "a", "b", "c", "start", "dim", "steps", "n", "seed", "weights", "stream"),
    *("word", "text", "k"),
)
PATHS = (
    *("embeddings", "decode", "reconstruct", "interpolate", "traverse", "arithmetic", "average"),
    *("sample", "define", "lookup"),
)


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(path=st.sampled_from(PATHS), body=st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_no_request_is_an_error_of_the_service(client, path, body):
    content = json.dumps(body)  # also NaN and infinity
    response = client.post(
        f"/v1/{path}", content=content, headers={"Content-Type": "application/json"}
    )
    assert response.status_code in (200, 400)
    assert client.get("/health").json()["status"] == "ok"


# ------------------------------------------------------------------------------------------ others


def test_health_and_metrics(client):
    client.post("/v1/reconstruct", json={"texts": A})
    found = client.get("/health").json()
    assert found == {"status": "ok", "model": "tiny", "workers": 1, "waiting": 0}
    found = client.get("/metrics").text
    assert 'llamavae_requests_total{method="POST",path="/v1/reconstruct",status="200"} 1.0' in found


def test_the_api_page_has_an_example_of_each_request(client):
    described = client.get("/openapi.json").json()
    for path, methods in described["paths"].items():
        if "post" in methods and path != "/v1/decode":  # whose example depends on the size of z
            content = methods["post"]["requestBody"]["content"]["application/json"]
            name = content["schema"]["$ref"].rsplit("/", 1)[1]
            assert described["components"]["schemas"][name]["examples"], path


def test_a_model_needs_an_encoder():
    with pytest.raises(UserError, match="sentence encoder"):
        create_app(tiny.vae(sentence_encoder=None))


def test_limits_are_positive():
    with pytest.raises(UserError, match="expected waiting above 0; got 0"):
        Limits(waiting=0)


def test_the_largest_request_may_wait():
    assert Limits(texts=8, waiting=8).texts == 8
    with pytest.raises(UserError, match=r"9 texts .* only 8 may wait"):
        Limits(texts=9, waiting=8)


def test_without_a_key_requests_must_name_this_machine(vae):
    """A name of another site that resolves to this machine is refused (DNS rebinding)."""
    other = {"Host": "example.org"}
    for key, status in ((None, 400), ("s3cret", 200)):
        app = create_app(vae)
        AddressOptions("127.0.0.1", 8000, key).guard(app)
        with TestClient(app, "http://localhost:8000") as client:
            assert client.get("/health", headers=other).status_code == status
            for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
                assert client.get("/health", headers={"Host": host}).status_code == 200
