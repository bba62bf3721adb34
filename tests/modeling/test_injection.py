"""The contract of the injection, over families of decoders.

Each statement holds for every family and every injection, and is checked against a loop that
knows nothing of our attention: a plain model, its memory put into a `DynamicCache` by hand.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import transformers as hf
from tests import tiny
from torch import nn

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.modeling.injection import (
    MEMORY_ARGUMENT,
    Injection,
    MemoryInjection,
    Steering,
    attention_shapes,
    enable_memory,
    first_inputs,
    steered,
    steered_inputs,
)

FAMILIES = list(tiny.DECODERS)
ALL = pytest.mark.parametrize(
    ("family", "injection"), [(f, i) for f in FAMILIES for i in Injection.NAMES]
)
SOME = pytest.mark.parametrize(
    ("family", "injection"),
    [(f, i) for f in ("llama-grouped", "gemma2", "gpt2") for i in Injection.NAMES],
)
STEPS = 6


@functools.cache
def model(family: str, injection: str) -> LlaMaVAE:
    """A model that no test changes. Its z acts strongly."""
    torch.manual_seed(0)
    vae = tiny.vae(injection, family)
    with torch.no_grad():
        for parameter in vae.injection.parameters():
            parameter.mul_(3.0)
    return vae


@functools.cache
def plain(family: str) -> hf.PreTrainedModel:
    return hf.AutoModelForCausalLM.from_pretrained(tiny.decoder(family)).eval()


def points(n: int = 3) -> torch.Tensor:
    return torch.randn(n, tiny.LATENT, generator=torch.Generator().manual_seed(5))


class Watch(hf.LogitsProcessor):
    def __init__(self):
        self.scores = []

    def __call__(self, input_ids, scores):
        self.scores.append(scores.clone())
        return scores


def greedy(vae, z, **options):
    """Tokens (B, T) and the logits (B, T, V) that `generate` chose them by."""
    watch = Watch()
    options = {"max_new_tokens": STEPS, "eos_token_id": None, **options}
    ids = vae.generate(z, logits_processor=hf.LogitsProcessorList([watch]), **options)
    return ids, torch.stack(watch.scores, 1)


@torch.no_grad()
def teacher(vae, z, ids):
    """Logits (B, T, V) of the inputs that training uses."""
    steering = vae.injection(z)
    inputs = first_inputs(vae.decoder.lm, ids, steering)
    inputs = steered_inputs(vae.decoder.lm, steering, **inputs, use_cache=False)
    return vae.decoder.lm(**inputs).logits[:, steering.slots :]


@torch.no_grad()
def reference(lm, steering, ids):
    """Logits (B, T, V) by transformers' own means. The memory has no position: text starts at 0."""
    embeds = lm.get_input_embeddings()(ids)
    if steering.offset is not None:
        embeds = embeds + steering.offset[:, None]
    if steering.prompt is not None:
        embeds = torch.cat([steering.prompt, embeds], 1)
    batch, width = embeds.shape[:2]
    positions = torch.arange(width).expand(batch, -1)
    inputs = {"inputs_embeds": embeds, "position_ids": positions, "use_cache": False}
    if steering.memory is not None:
        cache = hf.DynamicCache()
        for layer, (key, value) in enumerate(steering.memory):
            cache.update(key, value, layer)
        mask = torch.ones(batch, cache.get_seq_length() + width, dtype=torch.long)
        inputs |= {"past_key_values": cache, "attention_mask": mask, "use_cache": True}
    return lm(**inputs).logits[:, -ids.shape[1] :]


def start(vae, batch, prompt=""):
    ids = vae.decoder.tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else []
    return torch.tensor([[vae.decoder.tokens.bos, *ids]] * batch)


def reference_greedy(lm, steering, ids, steps):
    scores = []
    for _ in range(steps):
        scores.append(reference(lm, steering, ids)[:, -1])
        ids = torch.cat([ids, scores[-1].argmax(-1, keepdim=True)], 1)
    return ids[:, -steps:], torch.stack(scores, 1)


def has_reference(family, injection):
    # in a cache, memory takes up room in the window; ours does not
    return not (family == "mistral-window" and "memory" in injection)


# ------------------------------------------------------------ training, generation, reference


@ALL
def test_generation_scores_tokens_as_training_does(family, injection):
    vae, z = model(family, injection), points()
    ids, scores = greedy(vae, z)
    forced = teacher(vae, z, torch.cat([start(vae, 3), ids[:, :-1]], 1))
    torch.testing.assert_close(forced, scores, rtol=1e-4, atol=1e-4)


@ALL
def test_greedy_generation_equals_a_plain_loop(family, injection):
    if not has_reference(family, injection):
        pytest.skip("the cache counts memory as part of the window")
    vae, z = model(family, injection), points()
    ids, scores = greedy(vae, z)
    expected_ids, expected_scores = reference_greedy(
        plain(family), vae.injection(z), start(vae, 3), STEPS
    )
    assert ids.tolist() == expected_ids.tolist()
    torch.testing.assert_close(scores, expected_scores, rtol=1e-4, atol=1e-4)


@ALL
def test_different_points_give_different_scores(family, injection):
    vae = model(family, injection)
    _, scores = greedy(vae, points(2), max_new_tokens=1)
    assert (scores[0] - scores[1]).abs().max() > 1e-2


@SOME
def test_samples_are_grouped_by_point(family, injection):
    vae, z = model(family, injection), points()
    ids, _ = greedy(vae, z)
    samples, _ = greedy(vae, z, do_sample=True, top_k=1, num_return_sequences=3)
    assert samples.tolist() == ids.repeat_interleave(3, 0).tolist()


@SOME
def test_samples_differ_and_follow_the_seed(family, injection):
    vae = model(family, injection)
    draw = functools.partial(
        vae.generate, points(1), do_sample=True, num_return_sequences=4, temperature=3.0
    )
    torch.manual_seed(1)
    first = draw().tolist()
    torch.manual_seed(1)
    assert draw().tolist() == first
    assert len({tuple(row) for row in first}) > 1


def reference_beams(lm, injection, point, ids, steps, beams):
    """Beam search for one point, no sentence of which ends."""
    logp = reference(lm, injection(point[None]), ids)[:, -1].log_softmax(-1)
    score, token = logp[0].topk(beams)
    rows = torch.cat([ids.repeat(beams, 1), token[:, None]], 1)
    wide = injection(point.repeat(beams, 1))
    for _ in range(steps - 1):
        logp = reference(lm, wide, rows)[:, -1].log_softmax(-1)
        score, flat = (score[:, None] + logp).flatten().topk(beams)
        rows = torch.cat([rows[flat // logp.shape[1]], flat[:, None] % logp.shape[1]], 1)
    return rows[:, ids.shape[1] :]


@SOME
def test_beams_equal_a_plain_beam_search(family, injection):
    vae, z = model(family, injection), points()
    options = {"max_new_tokens": 4, "eos_token_id": None, "num_beams": 3}
    together = vae.generate(z, num_return_sequences=3, **options)
    for i, point in enumerate(z):
        expected = reference_beams(plain(family), vae.injection, point, start(vae, 1), 4, 3)
        assert together[3 * i : 3 * i + 3].tolist() == expected.tolist()
        assert vae.generate(point, **options).tolist() == expected[:1].tolist()


@SOME
def test_a_batch_decodes_as_its_points_do_alone(family, injection):
    vae, z = model(family, injection), points(5)
    alone = [vae.decode(point)[0] for point in z]
    assert vae.decode(z) == alone
    assert vae.decode(z, batch_size=2) == alone


@SOME
def test_a_prompt_is_continued(family, injection):
    vae, z = model(family, injection), points()
    ids, _ = greedy(vae, z, prompt="a dog is")
    first = start(vae, 3, "a dog is")
    expected, _ = reference_greedy(plain(family), vae.injection(z), first, STEPS)
    assert ids.tolist() == expected.tolist()


@SOME
def test_static_caches_and_no_cache_agree(family, injection):
    vae, z = model(family, injection), points()
    ids, scores = greedy(vae, z)
    options = [{"use_cache": False}, {"cache_implementation": "static"}]
    for option in options:
        other, other_scores = greedy(vae, z, **option)
        assert other.tolist() == ids.tolist()
        torch.testing.assert_close(other_scores, scores, rtol=1e-4, atol=1e-4)


# -------------------------------------------------------------------------- who sees what


def sensitivity(vae, ids, z):
    """|d logits_t / d input_j| and |d logits_t / d memory|: (T, T) and (T, slots * layers)."""
    steering = vae.injection(z)
    memory = [x.detach().requires_grad_() for pair in steering.memory for x in pair]
    pairs = tuple(zip(memory[::2], memory[1::2], strict=True))
    embeds = vae.decoder.embeddings(ids).detach().requires_grad_()
    logits = vae.decoder.lm(
        inputs_embeds=embeds, use_cache=False, **{MEMORY_ARGUMENT: pairs}
    ).logits
    weights = torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(0))
    tokens, slots = [], []
    for t in range(ids.shape[1]):
        grads = torch.autograd.grad(logits[0, t] @ weights, [embeds, *memory], retain_graph=True)
        tokens.append(grads[0][0].norm(dim=-1))
        slots.append(torch.cat([g[0].norm(dim=(0, 2)) for g in grads[1:]]))
    return torch.stack(tokens), torch.stack(slots)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_sees_the_prefix_and_all_memory_and_nothing_else(family):
    vae = model(family, "memory")
    ids = torch.randint(5, 300, (1, 8), generator=torch.Generator().manual_seed(0))
    tokens, memory = sensitivity(vae, ids, points(1))
    assert (memory > 0).all()
    past = torch.ones(8, 8).tril()
    if family == "mistral-window":  # two layers of three tokens reach five tokens
        past = past.triu(-4)
    assert ((tokens > 0) == past.bool()).all()


@ALL
def test_gradients_reach_the_point_and_every_trained_parameter(family, injection):
    vae, z = model(family, injection), points().requires_grad_()
    rows, _ = vae.decoder.tokenize(tiny.SENTENCES[:3])
    vae.zero_grad()
    loss = vae.decoder.nll(*vae.decoder.pad(rows), vae.injection(z))
    loss.backward()
    assert z.grad is not None
    assert (z.grad.norm(dim=1) > 0).all()
    for part in (vae.injection, vae.decoder):
        for name, parameter in part.named_parameters():
            moved = parameter.grad is not None and bool(parameter.grad.norm() > 0)
            assert moved == parameter.requires_grad, name
    vae.zero_grad()


# -------------------------------------------------------------------- attention and its masks


KERNELS = [(f, k) for f in FAMILIES for k in ("eager", "sdpa") if (f, k) != ("gemma2", "sdpa")]


@pytest.mark.parametrize(("family", "attention"), KERNELS)
def test_without_memory_an_enabled_decoder_is_unchanged(family, attention):
    before = hf.AutoModelForCausalLM.from_pretrained(
        tiny.decoder(family), attn_implementation=attention
    ).eval()
    after = hf.AutoModelForCausalLM.from_pretrained(
        tiny.decoder(family), attn_implementation=attention
    ).eval()
    enable_memory(after)
    enable_memory(after)  # twice is once
    ids = torch.randint(5, 300, (2, 7))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
    assert torch.equal(before(ids).logits, after(ids).logits)
    assert torch.equal(
        before(ids, attention_mask=mask).logits[1:], after(ids, attention_mask=mask).logits[1:]
    )


@pytest.mark.parametrize("family", [f for f, k in KERNELS if k == "sdpa"])
def test_eager_and_sdpa_agree(family):
    torch.manual_seed(0)
    eager = tiny.vae("memory", family, decoder_options={"attn_implementation": "eager"})
    torch.manual_seed(0)
    sdpa = tiny.vae("memory", family, decoder_options={"attn_implementation": "sdpa"})
    ids, scores = greedy(eager, points())
    other_ids, other_scores = greedy(sdpa, points())
    assert ids.tolist() == other_ids.tolist()
    torch.testing.assert_close(scores, other_scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("too_much", [-1, 1, 2])
def test_a_mask_of_the_wrong_length_is_an_error(family, attention, too_much):
    vae = tiny.vae("memory", family, decoder_options={"attn_implementation": attention})
    ids = torch.randint(5, 300, (2, 4))
    mask = torch.ones(2, 4 + too_much, dtype=torch.long)
    lm = steered(vae.decoder.lm, vae.injection(points(2)))
    with pytest.raises(ValueError, match="latent memory is always visible"):
        lm(input_ids=ids, attention_mask=mask)


def test_left_padding_under_memory_hides_only_the_padding():
    vae = model("llama", "memory")
    ids = torch.randint(5, 300, (2, 4))
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], 1)
    mask = torch.tensor([[0] * 3 + [1] * 4] * 2)
    positions = torch.arange(-3, 4).clamp(min=0).expand(2, -1)
    lm = steered(vae.decoder.lm, vae.injection(points(2)))
    with torch.no_grad():
        expected = lm(input_ids=ids).logits
        inputs = {"input_ids": padded, "attention_mask": mask, "position_ids": positions}
        logits = lm(**inputs).logits[:, 3:]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_rows_that_cannot_be_shared_among_points_are_an_error():
    vae = model("llama", "memory")
    lm = steered(vae.decoder.lm, vae.injection(points(2)))
    with pytest.raises(ValueError, match="3 rows cannot be shared among 2 latent codes"):
        lm(input_ids=torch.ones(3, 2, dtype=torch.long))


@pytest.mark.parametrize("injection", Injection.NAMES)
def test_nothing_stays_behind_after_generation(injection):
    vae = tiny.vae(injection)
    ids = torch.randint(5, 300, (2, 4))
    before, state = vae.decoder.lm(ids).logits, dict(vars(vae.decoder.lm))
    vae.decode(points())
    assert torch.equal(vae.decoder.lm(ids).logits, before)
    assert vars(vae.decoder.lm).keys() == state.keys()
    assert all(vars(vae.decoder.lm)[name] is value for name, value in state.items())


# ------------------------------------------------------------------------- shapes and refusals

_SMALL = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
UNREACHABLE = {
    "bloom": hf.BloomConfig(vocab_size=tiny.VOCAB, hidden_size=32, n_layer=2, n_head=4),
    "mamba": hf.MambaConfig(vocab_size=tiny.VOCAB, hidden_size=32, num_hidden_layers=2),
    "qwen3-next": tiny.small(
        hf.Qwen3NextConfig,
        num_key_value_heads=2,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=0,
        layer_types=["linear_attention", "full_attention"],
    ),
}


@pytest.mark.parametrize("family", UNREACHABLE)
def test_a_decoder_that_memory_cannot_reach_is_refused(family, tmp_path):
    folder = tiny.save_decoder(UNREACHABLE[family], tmp_path)
    with pytest.raises(UserError, match=r"memory injection does not support .*soft_prompt"):
        LlaMaVAE.from_backbones(None, folder, encoder_dim=4)


def test_a_swallowed_keyword_is_refused(monkeypatch):
    """A decoder whose blocks do not pass the memory on, although they use the interface."""
    lm = hf.AutoModelForCausalLM.from_pretrained(tiny.decoder("llama"))
    block = lm.model.layers[1]
    forward = block.self_attn.forward

    def forgetful(*args, latent_memory=None, **kwargs):
        return forward(*args, **kwargs)

    monkeypatch.setattr(block.self_attn, "forward", forgetful)
    with pytest.raises(UserError, match="1 of its 2 layers"):
        attention_shapes(lm)


def test_bloom_takes_a_soft_prompt(tmp_path):
    folder = tiny.save_decoder(UNREACHABLE["bloom"], tmp_path)
    vae = LlaMaVAE.from_backbones(
        None, folder, encoder_dim=4, injection="soft_prompt", latent_dim=tiny.LATENT
    )
    ids, scores = greedy(vae, points())
    forced = teacher(vae, points(), torch.cat([start(vae, 3), ids[:, :-1]], 1))
    torch.testing.assert_close(forced, scores, rtol=1e-4, atol=1e-4)


def test_other_attention_kernels_are_refused():
    lm = hf.AutoModelForCausalLM.from_pretrained(
        tiny.decoder("llama"), attn_implementation="flex_attention"
    )
    with pytest.raises(UserError, match="'flex_attention'"):
        enable_memory(lm)


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("llama", (4, 8, 8)),
        ("llama-grouped", (2, 8, 8)),
        ("qwen3", (2, 16, 16)),
        ("gemma", (1, 8, 8)),
        ("gpt2", (4, 8, 8)),
    ],
)
def test_shapes_are_read_from_each_layer(family, shape):
    lm = hf.AutoModelForCausalLM.from_pretrained(tiny.decoder(family))
    before = lm.config._attn_implementation
    assert attention_shapes(lm) == [shape] * tiny.LAYERS
    assert lm.config._attn_implementation == before


def test_keys_and_values_may_differ_in_size(tmp_path):
    config = tiny.small(
        hf.DeepseekV3Config,
        head_dim=4,
        moe_intermediate_size=16,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=6,
        first_k_dense_replace=1,
    )
    folder = tiny.save_decoder(config, tmp_path)
    settings: dict[str, Any] = {"encoder_dim": 4, "latent_dim": tiny.LATENT, "slots": 2}
    vae = LlaMaVAE.from_backbones(None, folder, **settings)
    assert vae.config.attention_shapes == [[4, 12, 6]] * 2
    ids, scores = greedy(vae, points())
    forced = teacher(vae, points(), torch.cat([start(vae, 3), ids[:, :-1]], 1))
    torch.testing.assert_close(forced, scores, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="tied_kv needs keys and values of equal size"):
        LlaMaVAE.from_backbones(None, folder, tied_kv=True, **settings)


def test_tied_keys_and_values_are_one_vector():
    steering = tiny.vae("memory", tied_kv=True).injection(points())
    for key, value in steering.memory:
        assert torch.equal(key, value)


def test_memory_has_the_layout_of_its_decoder():
    steering = tiny.vae("memory", "qwen3", slots=3).injection(points(5))
    assert [(k.shape, v.shape) for k, v in steering.memory] == [((5, 2, 3, 16),) * 2] * 2
    assert steering.prompt is None
    assert steering.offset is None


def test_steerings_join_and_repeat():
    a = Steering(offset=torch.arange(4.0).view(2, 2))
    b = Steering(prompt=torch.zeros(2, 1, 2))
    both = a | b
    assert both.offset is a.offset
    assert both.prompt is b.prompt
    ones = torch.ones(2, 2)
    assert (a | Steering(offset=ones)).offset is ones
    repeated = both.expand(4).offset
    assert repeated is not None
    assert repeated[:, 0].tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "memry"}, "Did you mean 'memory'"),
        ({"name": "memory", "slots": 0}, "slots must be at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Injection(**{"latent_dim": 2, "hidden_size": 4, "shapes": [(1, 2, 2)], **settings})


def test_injections_are_modules_of_their_own():
    injection = Injection("memory+add", 2, 4, [(1, 2, 2)], slots=3, hidden=0)
    assert isinstance(injection, nn.Module)
    steering = injection(torch.zeros(1, 2))
    assert steering.memory[0][0].shape == (1, 1, 3, 2)
    assert steering.offset.shape == (1, 4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_an_untrained_offset_is_small_beside_the_embeddings(family):
    """A large one would destroy what the decoder knows before training starts."""
    vae = tiny.vae(family=family, injection="memory+add")
    z = torch.randn(512, tiny.LATENT)
    offset = vae.injection.parts["add"](z).offset
    embeddings = vae.decoder.lm.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    own = embeddings(torch.arange(embeddings.num_embeddings))
    assert offset is not None
    assert 0.07 < (offset.std() / own.std()).item() < 0.14


@pytest.mark.parametrize("family", ["llama", "llama-grouped", "gpt2", "gemma3"])
def test_scaled_memory_has_the_sizes_of_the_decoders_own_keys_and_values(family):
    vae = tiny.vae(family=family, scaled_memory=True)
    memory = vae.injection.parts["memory"]
    assert isinstance(memory, MemoryInjection)
    plain = tiny.vae(family=family).injection.parts["memory"]
    assert isinstance(plain, MemoryInjection)
    plain.net.load_state_dict(memory.net.state_dict())
    lm, ids = vae.decoder.lm, torch.arange(3, 15)[None]
    with torch.no_grad():
        cache = lm(input_ids=ids, use_cache=True).past_key_values
    z = torch.randn(1, tiny.LATENT)
    for layer, (scaled, unscaled) in enumerate(zip(memory(z).memory, plain(z).memory, strict=True)):
        own = cache.layers[layer].keys, cache.layers[layer].values
        for a, b, x in zip(scaled, unscaled, own, strict=True):
            factor = (a / b)[0].mean(1)  # (G, C)
            assert torch.allclose(a[0] / b[0], factor[:, None], rtol=1e-4)
            assert 0.3 < factor.mean() / x[0, :, 1:].std() < 3


def test_scales_are_kept_with_the_model_and_do_not_train():
    vae = tiny.vae(scaled_memory=True)
    assert "injection.parts.memory.scales" in vae.trained_names
    assert not any("scales" in name for name, _ in vae.named_parameters())
