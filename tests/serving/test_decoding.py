"""Decoding in the process of the model: the texts of `LlaMaVAE.decode`, whatever fails or stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny

from llamavae.errors import UserError
from llamavae.modeling.continuous import ContinuousBatch
from llamavae.serving.decoding import Code, Decoding, Generation, each, portable


def codes(n: int) -> Code:
    return 3 * np.random.default_rng(0).standard_normal((n, tiny.LATENT), np.float32)


def decode(
    decoding: Decoding, new: Sequence[tuple[int, tuple[Code | str, Generation]]]
) -> dict[int, Any]:
    found = dict(decoding.advance(new, []))
    for _ in range(100):
        found |= dict(decoding.advance([], []))
        time.sleep(0.001)  # what is fresh waits for others
    return found


@pytest.mark.parametrize("injection", ["memory", "soft_prompt"])
def test_codes_that_come_one_after_the_other_have_their_texts(injection):
    vae, z = tiny.vae(injection).eval(), codes(12)
    decoding, found = Decoding(vae), dict[int, Any]()
    for i, code in enumerate(z):
        found |= dict(decoding.advance([(i, (code, Generation()))], []))
    found |= decode(decoding, [])
    assert [found[i] for i in range(12)] == vae.decode(torch.from_numpy(z))


def test_sampled_and_short_texts_beside_greedy_ones(vae):
    z = codes(4)
    sampled, short = Generation(0.9, 0.8, seed=7), Generation(max_new_tokens=2)
    hows = [Generation(), sampled, short, Generation()]
    found = decode(Decoding(vae), list(enumerate(zip(z, hows, strict=True))))
    for i, how in enumerate(hows):
        torch.manual_seed(7)
        assert [found[i]] == vae.decode(torch.from_numpy(z[i]), **how.arguments())


@pytest.mark.parametrize("injection", ["memory", "soft_prompt"])
def test_a_code_that_fails_fails_alone(injection):
    torch.manual_seed(0)  # some weights leave such a code finite
    vae, z = tiny.vae(injection).eval(), codes(3)
    z[1] = 3e38
    found = decode(Decoding(vae), [(i, (code, Generation())) for i, code in enumerate(z)])
    assert isinstance(found.pop(1), UserError)
    assert found == dict(zip((0, 2), vae.decode(torch.from_numpy(z[[0, 2]])), strict=True))


def test_codes_beside_one_that_fails_are_decoded_together(vae, monkeypatch):
    z = codes(20)
    z[7] = np.inf
    monkeypatch.setattr(type(vae), "decode", None)  # each by itself would take long
    found = decode(Decoding(vae), [(i, (code, Generation())) for i, code in enumerate(z)])
    assert [i for i, text in found.items() if isinstance(text, Exception)] == [7]
    assert len(found) == 20


@pytest.mark.parametrize("injection", ["memory", "soft_prompt"])
def test_sampling_leaves_the_state_of_the_generator_alone(injection):
    vae, z = tiny.vae(injection).eval(), codes(1)[0]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    decode(Decoding(vae), [(0, (z, Generation(1.0, seed=5)))])
    assert torch.rand(1) == expected


def test_a_call_decodes_one_sampled_text_where_they_cannot_join(monkeypatch):
    vae, z = tiny.vae("soft_prompt").eval(), codes(4)
    decoding = Decoding(vae)
    new = [(i, (code, Generation(1.0, seed=i))) for i, code in enumerate(z)]
    assert [n for n, _ in decoding.advance(new, [])] == [0]
    assert [n for n, _ in decoding.advance([], [1])] == [2]  # 1 is stopped
    assert [n for n, _ in decoding.advance([], [])] == [3]
    assert decoding.advance([], []) == []


def test_after_a_failed_step_what_was_running_is_decoded_again(vae, monkeypatch):
    z, decoding = codes(3), Decoding(vae)

    def fail(_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(ContinuousBatch, "step", fail)
    assert decoding.advance([(i, (code, Generation())) for i, code in enumerate(z)], []) == []
    found = decode(decoding, [])
    monkeypatch.undo()
    assert found == dict(enumerate(vae.decode(torch.from_numpy(z))))
    assert decode(decoding, [(5, (z[0], Generation()))]) == {5: found[0]}


def test_codes_that_are_stopped_have_no_text(vae, monkeypatch):
    monkeypatch.setattr("llamavae.serving.decoding._SLICE", 0.0)  # nothing is decoded at once
    z, decoding = codes(3), Decoding(vae)
    new = [(i, (code, Generation())) for i, code in enumerate(z)]
    assert decoding.advance(new, [1]) == []
    decoding.advance([], [0, 99])
    monkeypatch.undo()
    assert decode(decoding, []) == {2: vae.decode(torch.from_numpy(z[2]))[0]}


def test_texts_are_reconstructed_and_one_that_cannot_be_encoded_fails_alone(vae, monkeypatch):
    texts = ["a dog runs", "the old moon", "a red house"]
    encode, decoding = type(vae).encode, Decoding(vae)

    def refuse(self: Any, given: Any, **options: Any) -> Any:
        if texts[1] in given:
            raise UserError("not this one")
        return encode(self, given, **options)

    monkeypatch.setattr(type(vae), "encode", refuse)
    found = decode(decoding, [(i, (text, Generation())) for i, text in enumerate(texts)])
    assert str(found.pop(1)) == "not this one"
    monkeypatch.undo()
    assert found == dict(zip((0, 2), vae.reconstruct([texts[0], texts[2]]), strict=True))


def test_an_item_that_fails_fails_alone():
    found = each(lambda items: [1 / x for x in items], [(3, 1), (5, 0), (8, 4)])
    assert [found[0], found[2]] == [(3, 1.0), (8, 0.25)]
    assert isinstance(found[1][1], ZeroDivisionError)
    assert each(lambda _: [], []) == []


class Own(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def test_an_error_that_cannot_be_sent_to_another_process_is_replaced():
    assert str(portable(Own(1, 2))) == "Own: 1 and 2"
    locked = ValueError("locked")
    locked.lock = threading.Lock()  # type: ignore[attr-defined]
    assert str(portable(locked)) == "ValueError: locked"
    error = UserError("this one can")
    assert portable(error) is error
