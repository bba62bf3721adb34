"""The steered view of a decoder: it writes nothing to the decoder, and threads may share one."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers as hf
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.modeling import Injection, steered

THREADS = 8
DECODES = 5


def strong(injection: str, family: str = "llama", **settings) -> LlaMaVAE:
    """A model whose texts differ much between points."""
    torch.manual_seed(0)
    vae = tiny.vae(injection, family, **settings)
    with torch.no_grad():
        for parameter in vae.injection.parameters():
            parameter.mul_(3.0)
    return vae


def points(n: int = 3) -> torch.Tensor:
    return torch.randn(n, tiny.LATENT, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("injection", ["memory", "soft_prompt", "memory+add"])
def test_threads_decode_as_one_does(injection):
    vae = strong(injection)
    batches = points(THREADS * DECODES)[:, None]
    expected = [vae.decode(z) for z in batches]
    assert len({text for texts in expected for text in texts}) > 20
    vae = strong(injection)  # one that has not been used, so that threads also meet what is lazy
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(vae.decode, batches))
    assert found == expected


@pytest.mark.parametrize("pooling", [None, "mean"])
def test_threads_encode_and_count_as_one_does(pooling):
    vae = tiny.vae(sentence_encoder="bert", encoder_pooling=pooling)
    encoder = vae.encoder
    assert encoder is not None
    texts = [sentence * (1 + i % 3) for i, sentence in enumerate(tiny.SENTENCES * 10)]
    expected = [(vae.encode(text).mean, encoder.truncated([text] * 3)) for text in texts]

    def both(text: str) -> tuple[torch.Tensor, int]:
        return vae.encode(text).mean, encoder.truncated([text] * 3)

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(both, texts))
    for (mean, count), (expected_mean, expected_count) in zip(found, expected, strict=True):
        assert torch.equal(mean, expected_mean)
        assert count == expected_count


@pytest.mark.parametrize("injection", Injection.NAMES)
def test_lora_in_the_decoder_is_steered(injection):
    vae = strong(injection, decoder_training="lora")
    with torch.no_grad():
        for name, parameter in vae.decoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    options = {"max_new_tokens": 5, "eos_token_id": None}
    ids = vae.generate(points(), **options)
    assert vae.generate(points(), use_cache=False, **options).tolist() == ids.tolist()
    bos = torch.full((3, 1), vae.decoder.tokens.bos)
    full = torch.cat([bos, ids], 1)
    nll = vae.decoder.nll(full, torch.ones_like(full), vae.injection(points()))
    greedy = vae.decoder.score(full, torch.ones_like(full), vae.injection(points()))
    assert greedy.exact.all()
    torch.testing.assert_close(nll, greedy.nll.sum())


@pytest.mark.parametrize("injection", Injection.NAMES)
def test_a_forward_put_on_the_decoder_still_runs(injection):
    """As accelerate puts one there, to move the inputs to the device of the weights."""
    vae = strong(injection)
    expected = vae.decode(points())
    forward, passes = vae.decoder.lm.forward, []

    @functools.wraps(forward)
    def counted(*args, **kwargs):
        passes.append(kwargs)
        return forward(*args, **kwargs)

    vae.decoder.lm.forward = counted
    assert vae.decode(points()) == expected
    assert passes


def test_hooks_of_the_decoder_run_once_a_pass_and_see_what_it_gets():
    vae = strong("memory")
    seen = []
    vae.decoder.lm.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["latent_memory"]), with_kwargs=True
    )
    vae.generate(points(), max_new_tokens=4, eos_token_id=None)
    assert len(seen) == 4


@pytest.mark.parametrize("family", ["llama-grouped", "gpt2", "gemma3", "mistral-window"])
def test_a_cache_holds_the_memory_and_counts_the_text_alone(family):
    vae = strong("memory", family)
    options = {"max_new_tokens": 5, "eos_token_id": None}
    output = vae.generate(points(), return_dict_in_generate=True, **options)
    cache = output.past_key_values
    assert cache.get_seq_length() == 5  # bos and all new tokens but the last
    has_window = any(layer.is_sliding for layer in cache.layers)
    for layer, (key, value) in zip(cache.layers, vae.injection(points()).memory, strict=True):
        if not has_window:
            assert torch.equal(layer.keys[:, :, :2], key)
            assert torch.equal(layer.values[:, :, :2], value)
            assert layer.keys.shape[2] == 2 + 5
    assert vae.generate(points(), use_cache=False, **options).tolist() == output.sequences.tolist()
    assert has_window == (family in ("gemma3", "mistral-window"))


def test_keys_changed_behind_the_cache_are_an_error(monkeypatch):
    vae = strong("memory")
    update = hf.DynamicCache.update

    def changed(*args, **kwargs):
        keys, values = update(*args, **kwargs)
        return keys * 1.0, values

    monkeypatch.setattr(hf.DynamicCache, "update", changed)
    with pytest.raises(UserError, match="cache_implementation='static'"):
        vae.decode(points())


def test_a_prompt_fits_into_a_static_cache():
    vae = strong("memory")
    options = {"prompt": "a dog is", "max_new_tokens": 5, "eos_token_id": None}
    expected = vae.generate(points(), **options).tolist()
    assert vae.generate(points(), cache_implementation="static", **options).tolist() == expected


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_grouped_heads_in_half_precision_agree_with_full_precision(attention):
    options = {"attn_implementation": attention}
    full = strong("memory", "llama-grouped", decoder_options=options)
    half = strong("memory", "llama-grouped", decoder_options=options | {"dtype": torch.bfloat16})
    text = full.generate(points(), max_new_tokens=5, eos_token_id=None)
    scores = []
    for vae in (full, half):
        lm = steered(vae.decoder.lm, vae.injection(points()))
        with torch.no_grad():
            cache = lm(input_ids=text[:, :4], use_cache=True).past_key_values
            scores.append(lm(input_ids=text[:, 4:], past_key_values=cache).logits.float())
    torch.testing.assert_close(scores[1], scores[0], rtol=0.1, atol=0.15)


def test_prompt_and_offset_act_together():
    """Of steerings joined by hand: the offset is added to tokens, not to the prompt."""
    prompt, add = strong("soft_prompt"), strong("add")
    steering = prompt.injection(points()) | add.injection(points())
    decoder = prompt.decoder
    new = decoder.generate(steering, 3, max_new_tokens=5, eos_token_id=None)
    full = torch.cat([torch.full((3, 1), decoder.tokens.bos), new], 1)
    assert decoder.score(full, torch.ones_like(full), steering).exact.all()
