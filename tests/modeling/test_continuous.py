"""Continuous batches decode what static ones do, whenever rows join and leave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny
from transformers import BartConfig

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.modeling.continuous import ContinuousBatch, Sampler


def strong(injection: str = "memory", family: str = "llama") -> LlaMaVAE:
    """A model whose texts differ much between codes, also in length."""
    torch.manual_seed(0)
    vae = tiny.vae(injection, family)
    with torch.no_grad():
        for parameter in vae.injection.parameters():
            parameter.mul_(3.0)
        vae.decoder.head.weight[vae.decoder.tokens.eos] *= 4  # many texts end early
    return vae


def codes(n: int) -> torch.Tensor:
    return torch.randn(n, tiny.LATENT, generator=torch.Generator().manual_seed(3))


def static(vae: LlaMaVAE, z: torch.Tensor, **options: Any) -> list[str]:
    """The texts of one static batch, by transformers' `generate`."""
    return vae.decoder.texts(vae.generate(z, **options))


def decode(
    batch: ContinuousBatch[int], z: torch.Tensor, joins: Iterator[int], limit: int | None = None
) -> dict[int, str]:
    """The text of each code, where as many codes join before a step as `joins` says."""
    found: dict[int, str] = {}
    added = 0
    while len(found) < len(z):
        n = min(next(joins, len(z)), len(z) - added)
        if n:
            batch.add(range(added, added + n), z[added : added + n], limit)
            added += n
        found.update(batch.step())
    assert not len(batch)
    return found


@pytest.mark.parametrize("family", ["llama", "llama-grouped", "qwen3", "gemma", "gpt2", "opt"])
@pytest.mark.parametrize("injection", ["memory", "memory+add"])
def test_rows_that_join_later_have_the_same_texts(family, injection):
    vae, z = strong(injection, family), codes(40)
    assert ContinuousBatch.supports(vae)
    expected = static(vae, z)
    assert len(set(expected)) > 8
    found = decode(ContinuousBatch(vae), z, iter([3, 0, 0, 1, 5, 0, 2, 9]))
    assert [found[i] for i in range(len(z))] == expected


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=30), st.sampled_from([None, 1, 3, 9]))
def test_texts_do_not_depend_on_when_rows_join(joins, limit):
    vae, z = strong(), codes(30)
    options = {} if limit is None else {"max_new_tokens": limit}
    found = decode(ContinuousBatch(vae), z, iter(joins), limit)
    assert [found[i] for i in range(len(z))] == static(vae, z, **options)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (2.0, 0.5)])
def test_sampled_texts_are_those_of_the_same_seed_alone(temperature, top_p):
    vae, z = strong(), codes(8)
    options = {"do_sample": True, "temperature": temperature, "top_p": top_p}
    expected = []
    for i in range(len(z)):
        torch.manual_seed(i)
        expected += static(vae, z[i], **options)
    batch = ContinuousBatch[int](vae)
    batch.add(range(5), z[:5], samplers=[Sampler(temperature, top_p, i) for i in range(5)])
    found = dict(batch.step())
    batch.add(range(5, 8), z[5:], samplers=[Sampler(temperature, top_p, i) for i in range(5, 8)])
    found |= dict(text for _ in range(30) for text in batch.step())
    assert [found[i] for i in range(8)] == expected
    assert expected != static(vae, z)


def test_a_row_leaves_when_its_text_has_ended():
    vae, z = strong(), codes(40)
    eos, most = vae.decoder.tokens.eos, vae.config.max_tokens
    rows = [[*row, *[eos] * most][:most] for row in vae.generate(z).tolist()]
    lengths = {i: row.index(eos) + 1 if eos in row else most for i, row in enumerate(rows)}
    batch = ContinuousBatch[int](vae)
    batch.add(range(len(z)), z)
    ended = {key: step for step in range(1, 17) for key, _ in batch.step()}
    assert ended == lengths
    assert len(set(lengths.values())) > 5


def test_the_cache_keeps_no_position_that_no_row_needs():
    vae, z = strong(), codes(200)
    batch, longest = ContinuousBatch[int](vae), 0
    for i, code in enumerate(z):
        batch.add([i], code[None])
        batch.step()
        longest = max(longest, batch._length)
    assert longest <= 3 * vae.config.max_tokens


def test_removed_rows_end_without_a_text():
    vae, z = strong(), codes(8)
    batch = ContinuousBatch[int](vae)
    batch.add(range(4), z[:4])
    batch.step()
    batch.add(range(4, 8), z[4:])
    batch.remove([1, 5, 99])
    found = dict(text for _ in range(40) for text in batch.step())
    assert found == {i: text for i, text in enumerate(static(vae, z)) if i not in (1, 5)}


def test_codes_too_large_for_the_decoder_are_refused_and_the_others_go_on():
    vae, z = strong(), codes(4)
    batch = ContinuousBatch[int](vae)
    batch.add(range(4), z)
    with pytest.raises(UserError, match="too large for the decoder"):
        batch.add([9], torch.full((1, tiny.LATENT), 3e38))
    found = dict(text for _ in range(20) for text in batch.step())
    assert found == dict(enumerate(static(vae, z)))


@pytest.mark.parametrize(
    ("injection", "family"),
    [
        ("soft_prompt", "llama"),
        ("add", "llama"),
        ("memory", "mistral-window"),
        ("memory", "gemma3"),
    ],
)
def test_other_injections_and_caches_are_not_supported(injection, family):
    assert not ContinuousBatch.supports(strong(injection, family))


def test_decoders_that_count_positions_themselves_are_not_supported(monkeypatch):
    bart = BartConfig(
        vocab_size=tiny.VOCAB,
        d_model=tiny.HIDDEN,
        encoder_layers=2,
        decoder_layers=2,
        decoder_ffn_dim=48,
        decoder_attention_heads=4,
        is_decoder=True,
        is_encoder_decoder=False,
    )
    monkeypatch.setitem(tiny.DECODERS, "bart", lambda: bart)
    vae, z = strong(family="bart"), codes(10)
    assert not ContinuousBatch.supports(vae)
    assert vae.decode(z, 10) == static(vae, z)


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """The number of texts in each step of continuous batches."""
    found: list[int] = []
    step = ContinuousBatch.step

    def observed(batch: ContinuousBatch[int]) -> list[tuple[int, str]]:
        found.append(len(batch))
        return step(batch)

    monkeypatch.setattr(ContinuousBatch, "step", observed)
    return found


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 16, 64])
def test_decode_takes_a_code_for_each_text_that_has_ended(batch_size, limit, steps):
    vae, z = strong(), codes(40)
    assert vae.decode(z, batch_size, max_new_tokens=limit) == static(vae, z, max_new_tokens=limit)
    assert max(steps) == min(batch_size, 40)
    if limit is None and batch_size in (3, 16):
        assert len(steps) < sum(vae.generate(part).shape[1] for part in z.split(batch_size))


def test_texts_come_as_soon_as_they_and_those_before_them_have_ended(steps):
    vae, z = strong(), codes(40)
    texts = vae.decode_each(z, 4)
    first = next(texts)
    assert len(steps) <= vae.config.max_tokens
    assert [first, *texts] == static(vae, z)
    assert len(steps) > vae.config.max_tokens


def test_texts_before_a_code_that_fails_are_decoded():
    vae, z = strong(), codes(40)
    z[20] = 3e38
    found: list[str] = []
    with pytest.raises(UserError, match="too large for the decoder"):
        found.extend(vae.decode_each(z, 4))
    assert 16 <= len(found) <= 20  # those that would have joined with it are not decoded
    assert found == static(vae, z[: len(found)])


def test_changed_settings_of_generation_are_used():
    vae, z = strong(), codes(8)
    assert ContinuousBatch.supports(vae)
    vae.decoder.lm.generation_config.max_new_tokens = 1
    assert not ContinuousBatch.supports(vae)
    assert vae.decode(z) == static(vae, z)
    assert max(len(text.split()) for text in vae.decode(z)) == 1
