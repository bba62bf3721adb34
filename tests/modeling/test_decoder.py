from __future__ import annotations

import logging
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from tests import tiny

from llamavae.errors import UserError
from llamavae.modeling import LlaMaVAE, Steering, TextDecoder, cross_entropy
from llamavae.modeling.injection import Injection, first_inputs, steered_inputs

FAMILIES = ["llama", "qwen3", "gemma2", "gemma3", "gpt2", "opt"]
INJECTED = pytest.mark.parametrize("injection", Injection.NAMES)


def batch(vae, n=4):
    rows, _ = vae.decoder.tokenize(tiny.SENTENCES[:n])
    return vae.decoder.pad(rows)


def encoder_inputs(vae, n=4):
    assert vae.encoder is not None
    return vae.encoder.tokenize(tiny.SENTENCES[:n])


def points(n=4):
    return torch.randn(n, tiny.LATENT, generator=torch.Generator().manual_seed(5))


def loss_and_gradients(vae, ids, mask, z, **options):
    """The loss, and its gradient at z and at every trained parameter of injection and decoder."""
    z = z.clone().requires_grad_()
    trained = [p for m in (vae.injection, vae.decoder) for p in m.parameters() if p.requires_grad]
    loss = vae.decoder.nll(ids, mask, vae.injection(z), **options)
    return loss.detach(), torch.autograd.grad(loss.sum(), [z, *trained])


def assert_same(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------ the loss


@INJECTED
@pytest.mark.parametrize("family", FAMILIES)
def test_nll_is_the_masked_sum_of_token_losses(family, injection):
    vae = tiny.vae(injection, family)
    ids, mask = batch(vae)
    steering = vae.injection(points())
    lm = vae.decoder.lm
    first = first_inputs(lm, ids[:, :-1], steering)
    inputs = steered_inputs(lm, steering, **first, use_cache=False)
    logits = lm(**inputs).logits[:, steering.slots :]
    expected = torch.zeros(len(ids))
    for row in range(len(ids)):
        for t in range(1, ids.shape[1]):
            if mask[row, t]:
                expected[row] -= logits[row, t - 1].log_softmax(-1)[ids[row, t]]
    assert_same(vae.decoder.nll(ids, mask, steering, per_sentence=True), expected)
    assert_same(vae.decoder.nll(ids, mask, steering), expected.sum())


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_tokens_of_a_prompt_are_not_counted(family):
    decoder = tiny.text_decoder(family)
    rows, _ = decoder.tokenize(tiny.SENTENCES[:3])
    ids, mask = decoder.pad(rows)
    start = torch.tensor([1, 3, len(rows[2])])  # all tokens, all but two, none
    found = decoder.nll(ids, mask, start=start, per_sentence=True)
    whole = decoder.nll(ids, mask, per_sentence=True)
    first_two = decoder.nll(ids[1:2, :3], mask[1:2, :3])
    assert_same(found, torch.stack([whole[0], whole[1] - first_two, whole[2] * 0]))
    assert_same(decoder.nll(ids, mask, start=start), found.sum())


def test_without_steering_it_is_the_plain_language_model():
    decoder = tiny.text_decoder("llama")
    rows, _ = decoder.tokenize(tiny.SENTENCES[:3])
    ids, mask = decoder.pad(rows)
    labels = ids.masked_fill(mask == 0, -100)
    mean = decoder.lm(input_ids=ids, attention_mask=mask, labels=labels).loss
    assert_same(decoder.nll(ids, mask), mean * mask[:, 1:].sum())


@INJECTED
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_neither_loss_nor_gradients(family, injection):
    vae = tiny.vae(injection, family)
    ids, mask = batch(vae)
    z = points()
    loss, gradients = loss_and_gradients(vae, ids, mask, z, per_sentence=True)
    for filler in (vae.decoder.tokens.pad, 77):
        wide = F.pad(ids, (0, ids.shape[1]), value=filler)
        more, other = loss_and_gradients(vae, wide, F.pad(mask, (0, mask.shape[1])), z)
        assert_same(more, loss.sum())
        assert_same(other, gradients)
    alone = [
        vae.decoder.nll(row[None, : m.sum()], m[None, : m.sum()], vae.injection(point[None]))
        for row, m, point in zip(ids, mask, z, strict=True)
    ]
    assert_same(loss, torch.stack(alone))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
@pytest.mark.parametrize("per_sentence", [False, True])
def test_the_chunked_loss_equals_the_full_one(family, dtype, per_sentence, monkeypatch):
    vae = tiny.vae("memory", family)
    vae.decoder.to(dtype)
    ids, mask = batch(vae)
    full = loss_and_gradients(vae, ids, mask, points(), per_sentence=per_sentence)
    monkeypatch.setattr(cross_entropy, "_SMALL", 0)
    monkeypatch.setattr(cross_entropy, "CHUNK", 5)
    chunked = loss_and_gradients(vae, ids, mask, points(), per_sentence=per_sentence)
    assert chunked[0].dtype == full[0].dtype == torch.float32
    if dtype == torch.float32:
        assert_same(chunked, full)
    else:
        assert_same(chunked[0], full[0], 0.02)
        for a, b in zip(chunked[1], full[1], strict=True):
            assert (a - b).norm() <= 0.05 * b.norm()


@pytest.mark.parametrize("size", [-1, 1, 2])
def test_a_mask_of_another_shape_is_an_error(size):
    vae = tiny.vae("memory")
    ids, mask = batch(vae)
    other = F.pad(mask, (0, size))
    with pytest.raises(ValueError, match="without memory slots"):
        vae.decoder.nll(ids, other, vae.injection(points()))


def test_left_padding_is_an_error():
    vae = tiny.vae("memory")
    ids, mask = batch(vae)
    assert 0 in mask
    with pytest.raises(ValueError, match="expected padding on the right"):
        vae.decoder.nll(ids.flip(1), mask.flip(1), vae.injection(points()))


@INJECTED
def test_word_dropout_blanks_inputs_and_never_targets(injection):
    vae = tiny.vae(injection)
    ids, mask = batch(vae)
    steering = vae.injection(points())
    keep = torch.ones_like(ids[:, 1:], dtype=torch.bool)
    whole = vae.decoder.nll(ids, mask, steering, per_sentence=True)
    assert_same(vae.decoder.nll(ids, mask, steering, keep, per_sentence=True), whole)
    keep[2, 4] = False
    dropped = vae.decoder.nll(ids, mask, steering, keep, per_sentence=True)
    assert_same(dropped[[0, 1, 3]], whole[[0, 1, 3]])
    assert (dropped[2] - whole[2]).abs() > 1e-3
    # the targets before the blanked input are scored as before
    before = mask.clone()
    before[2, 5:] = 0
    assert_same(
        vae.decoder.nll(ids, before, steering, keep), vae.decoder.nll(ids, before, steering)
    )


@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere"])
def test_heads_that_are_not_linear_are_noticed(family, tmp_path):
    if family == "gemma2":
        folder = tiny.decoder(family)
    else:
        kind, changes = {
            "granite": (hf.GraniteConfig, {"logits_scaling": 3.0}),
            "cohere": (hf.CohereConfig, {"logit_scale": 0.25}),
        }[family]
        folder = tiny.save_decoder(tiny.small(kind, **changes), tmp_path)
    assert not TextDecoder.load(folder)._head_is_linear


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gemma3", "gpt2", "opt", "mistral"])
def test_plain_heads_are_noticed_in_training_too(family):
    decoder = tiny.text_decoder(family, training="full").train()
    assert decoder._head_is_linear
    assert decoder.training
    assert decoder.lm.training


def test_a_decoder_that_reads_ids_beside_embeddings_takes_memory_alone(tmp_path):
    config = tiny.small(
        hf.Gemma3nTextConfig,
        intermediate_size=[48, 48],
        num_kv_shared_layers=0,
        vocab_size_per_layer_input=tiny.VOCAB,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        layer_types=["sliding_attention", "full_attention"],
        activation_sparsity_pattern=[0.0, 0.0],
    )
    folder = tiny.save_decoder(config, tmp_path)
    settings: dict[str, Any] = {"encoder_dim": 4, "latent_dim": tiny.LATENT, "max_tokens": 8}
    vae = LlaMaVAE.from_backbones(None, folder, injection="memory", **settings)
    ids, mask = batch(vae)
    steering = vae.injection(points())
    assert vae.decoder.nll(ids, mask, steering).isfinite()
    with pytest.raises(UserError, match="in addition to its input embeddings"):
        vae.decoder.nll(ids, mask, steering, keep=torch.ones_like(ids[:, 1:]))
    with pytest.raises(UserError, match="in addition to its input embeddings"):
        LlaMaVAE.from_backbones(None, folder, injection="soft_prompt", **settings)


# ----------------------------------------------------------------- what trains, and how quietly


@pytest.mark.parametrize("training", ["heads", "lora", "full"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_frozen_means_bit_identical(family, training):
    vae = tiny.vae("memory", family, decoder_training=training, lora_rank=2).train()
    names = set(vae.trained_names)
    before = {n: p.detach().clone() for n, p in vae.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in vae.parameters() if p.requires_grad], lr=1e-2)
    ids, mask = batch(vae)
    for _ in range(3):
        optimizer.zero_grad()
        features = encoder_inputs(vae)
        vae(ids, mask, encoder_inputs=features).loss.backward()
        optimizer.step()
    changed = {n for n, p in vae.named_parameters() if not torch.equal(p, before[n])}
    assert changed == names
    layers = {n for n in names if n.startswith("decoder.lm") and "embed" not in n}
    layers = {n for n in layers if "wte" not in n and "lm_head" not in n}
    assert bool(layers) == (training != "heads")
    assert all("lora_" in n for n in layers) or training == "full"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_tied_weights_stay_one_parameter(family):
    decoder = tiny.text_decoder(family)
    tied = decoder.embeddings.weight is decoder.head.weight
    assert tied == decoder.lm.config.tie_word_embeddings == (family != "llama")


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_frozen_layers_have_no_dropout_in_training(family):
    vae = tiny.vae("memory", family)
    ids, mask = batch(vae)
    steering = vae.injection(points())
    quiet = vae.eval().decoder.nll(ids, mask, steering)
    vae.train()
    assert_same(vae.decoder.nll(ids, mask, steering), quiet)
    vae.activation_checkpointing_enable()
    assert_same(vae.decoder.nll(ids, mask, steering), quiet)
    loud = tiny.vae("memory", family, decoder_training="full").train()
    values = {loud.decoder.nll(ids, mask, steering).item() for _ in range(3)}
    assert len(values) == 3


def count_calls(block):
    """How often the block's attention runs."""
    calls = []
    part = getattr(block, "self_attn", None) or block.attn
    part.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("training", ["heads", "lora", "full"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@INJECTED
def test_checkpointing_recomputes_and_changes_nothing(family, training, injection):
    settings: dict[str, Any] = {"decoder_training": training, "lora_rank": 2}
    vae = tiny.vae(injection, family, **settings).train()
    for part in vae.decoder.lm.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    for parameter in vae.parameters():
        if parameter.requires_grad:  # LoRA starts with a zero matrix
            parameter.data += 0.05 * torch.randn_like(parameter)
    ids, mask = batch(vae)
    plain = loss_and_gradients(vae, ids, mask, points())
    vae.activation_checkpointing_enable()
    body = cast(Any, vae.decoder.lm.base_model)
    calls = count_calls((body.h if family == "gpt2" else body.layers)[1])
    checkpointed = loss_and_gradients(vae, ids, mask, points())
    assert len(calls) == 2
    assert_same(checkpointed, plain)
    vae.activation_checkpointing_disable()
    loss_and_gradients(vae, ids, mask, points())
    assert len(calls) == 3


def test_checkpointing_that_would_lose_the_memory_is_refused():
    reentrant = {"use_reentrant": True}
    with pytest.raises(UserError, match="drops the gradient"):
        tiny.vae("memory").activation_checkpointing_enable(reentrant)
    tiny.vae("soft_prompt").activation_checkpointing_enable(reentrant)


def test_generation_in_training_mode_is_that_of_eval_mode():
    vae = tiny.vae("memory", "gpt2", decoder_training="full")
    texts = vae.decode(points())
    vae.activation_checkpointing_enable()
    vae.train()
    assert vae.decode(points()) == texts
    assert vae.training
    assert vae.decoder.lm.training


@INJECTED
def test_a_half_precision_decoder_works_under_full_precision_parts(injection):
    vae = tiny.vae(injection, "llama", decoder_options={"dtype": torch.bfloat16})
    assert vae.decoder.embeddings.weight.dtype == torch.bfloat16
    assert vae.posterior.linear.weight.dtype == torch.float32
    ids, mask = batch(vae)
    features = encoder_inputs(vae)
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = vae(ids, mask, encoder_inputs=features, noise=torch.zeros(4, tiny.LATENT))
            texts = vae.decode(points())
        assert output.kl.dtype == output.mean.dtype == output.loss.dtype == torch.float32
        assert len(texts) == 4
        output.loss.backward()
    exact = tiny.vae(injection, "llama")
    exact.load_state_dict(vae.state_dict())
    expected = exact(ids, mask, encoder_inputs=features, noise=torch.zeros(4, tiny.LATENT))
    assert_same(output.loss, expected.loss, 0.05)


@INJECTED
def test_autocast_works_on_full_precision_parts(injection):
    vae = tiny.vae(injection, "gpt2").train()
    ids, mask = batch(vae)
    features = encoder_inputs(vae)
    noise = torch.zeros(4, tiny.LATENT)
    expected = vae(ids, mask, encoder_inputs=features, noise=noise).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = vae(ids, mask, encoder_inputs=features, noise=noise).loss
    loss.backward()
    assert_same(loss, expected, 0.05)


# ------------------------------------------------------------------------------- text and ids


@pytest.mark.parametrize(
    "names", [{}, {"pad": False}, {"bos": False}, {"pad": False, "bos": False}]
)
def test_text_survives_its_ids(names):
    lm = tiny.text_decoder().lm
    decoder = TextDecoder(lm, tiny.tokenizer(**names), max_tokens=40)
    texts = [*tiny.SENTENCES, "Über 7 naïve “rockets” 🚀", "", "a"]
    rows, cut = decoder.tokenize(texts)
    assert cut == 0
    assert all(r[0] == decoder.tokens.bos and r[-1] == decoder.tokens.eos for r in rows)
    ids, mask = decoder.pad(rows)
    assert mask.sum(1).tolist() == [len(r) for r in rows]
    assert decoder.texts(ids[:, 1:]) == texts
    assert decoder.tokens.bos == (2 if names.get("bos") is False else 1)
    assert decoder.tokens.pad == (2 if names.get("pad") is False else 0)
    assert decoder.nll(ids, mask).isfinite()
    assert len(decoder.generate(Steering(), 2)) == 2


def test_a_tokenizer_without_end_is_refused():
    with pytest.raises(UserError, match="no end-of-sentence token"):
        TextDecoder(tiny.text_decoder().lm, tiny.tokenizer(eos=False))


def test_long_texts_are_cut_and_counted_and_have_no_end():
    decoder = tiny.text_decoder(max_tokens=4)
    exact, whole = decoder.tokenize(["aaa"])
    assert len(exact[0]) == 5
    assert whole == 0
    rows, cut = decoder.tokenize(["aaa", "aaaa", *tiny.SENTENCES[2:]])
    assert cut == len(tiny.SENTENCES) - 1
    assert rows[0][-1] == decoder.tokens.eos
    assert all(len(r) == 5 and decoder.tokens.eos not in r for r in rows[1:])
    assert decoder.tokenize([]) == ([], 0)


def test_special_tokens_in_a_text_are_only_text_at_its_ends():
    decoder = tiny.text_decoder()
    eos = decoder.tokens.eos
    rows = torch.tensor([[70, 71, eos, 72], [eos, 70, 71, 72]])
    first, second = decoder.texts(rows)
    assert second == ""
    assert first == decoder.texts(rows[:1, :2])[0]


# --------------------------------------------------------------------------------- generation


def test_generation_stops_at_the_end_token():
    vae = tiny.vae("memory")
    ids = vae.generate(points(1), max_new_tokens=8)[0].tolist()
    end = ids[3]
    shorter = vae.generate(points(1), max_new_tokens=8, eos_token_id=end)[0].tolist()
    assert shorter == ids[: ids.index(end) + 1]


def test_sentences_that_end_early_are_filled_up_with_padding():
    vae = tiny.vae("memory")
    ids = vae.generate(points(), max_new_tokens=8, eos_token_id=None)
    end = int(ids[0, 2])
    rows = vae.generate(points(), max_new_tokens=8, eos_token_id=end)
    alone = [vae.generate(p, max_new_tokens=8, eos_token_id=end)[0].tolist() for p in points()]
    pad = vae.decoder.tokens.pad
    assert rows.tolist() == [row + [pad] * (rows.shape[1] - len(row)) for row in alone]


@INJECTED
def test_lengths_follow_the_options(injection):
    vae = tiny.vae(injection)
    free: dict[str, Any] = {"eos_token_id": None}
    assert vae.generate(points(), **free).shape == (4, 16)  # max_tokens
    assert vae.generate(points(), max_new_tokens=3, **free).shape == (4, 3)
    config = hf.GenerationConfig(max_new_tokens=5, eos_token_id=-1)
    assert vae.generate(points(), generation_config=config).shape == (4, 5)
    samples = hf.GenerationConfig(do_sample=True, num_return_sequences=2, eos_token_id=-1)
    assert vae.generate(points(), generation_config=samples).shape == (8, 16)


def test_max_length_replaces_max_new_tokens(caplog):
    vae = tiny.vae("memory")
    ids = vae.generate(points(), max_length=4, eos_token_id=None)  # bos is the first of the four
    assert ids.shape == (4, 3)
    assert not caplog.records


def test_stopping_criteria_work():
    vae = tiny.vae("memory")

    class AfterTwo(hf.StoppingCriteria):
        def __call__(self, input_ids, scores, **_) -> Any:
            return torch.full((len(input_ids),), input_ids.shape[1] >= 3)

    stop = hf.StoppingCriteriaList([AfterTwo()])
    assert vae.generate(points(), stopping_criteria=stop, eos_token_id=None).shape == (4, 2)


def test_sampling_settings_of_a_checkpoint_do_not_leak(tmp_path):
    lm = hf.AutoModelForCausalLM.from_pretrained(tiny.decoder("llama"))
    lm.generation_config = hf.GenerationConfig(do_sample=True, temperature=5.0, max_length=3)
    lm.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    decoder = TextDecoder.load(tmp_path, max_tokens=9)
    expected = tiny.text_decoder(max_tokens=9).generate(Steering(), 1)
    assert decoder.generate(Steering(), 1).tolist() == expected.tolist()


def test_generation_is_quiet(caplog):
    with caplog.at_level(logging.WARNING):
        vae = tiny.vae("memory+add", "gpt2")
        vae.decode(points())
        vae.decode(points(), do_sample=True, num_return_sequences=2)
        vae.decode(points(), num_beams=2)
    assert not caplog.records


# ------------------------------------------------------------------------------------- errors


def test_a_model_without_a_head_is_refused():
    body = hf.AutoModel.from_pretrained(tiny.encoder("bert"))
    with pytest.raises(UserError, match="with a head; got BertModel"):
        TextDecoder(body, tiny.tokenizer())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere/model", "there is no folder ./nowhere/model"),
        ("somebody/no-such-model", "could not load the decoder 'somebody/no-such-model'"),
    ],
)
def test_a_decoder_that_is_not_there(source, message):
    with pytest.raises(UserError, match=message):
        TextDecoder.load(source)


def test_a_misspelt_folder_names_the_nearest(tmp_path):
    (tmp_path / "llama").mkdir()
    with pytest.raises(UserError, match=r"Did you mean .*/llama"):
        TextDecoder.load(str(tmp_path / "lama"))


def test_an_empty_folder_is_not_a_decoder(tmp_path):
    with pytest.raises(UserError, match="does not hold a usable decoder"):
        TextDecoder.load(tmp_path)


def test_an_unknown_option_is_named():
    with pytest.raises(UserError, match="unheard_of"):
        TextDecoder.load(tiny.decoder(), unheard_of=1)


def test_a_sum_in_half_precision_keeps_its_digits(monkeypatch):
    """A bfloat16 total would move in steps of many nats."""
    monkeypatch.setattr(cross_entropy, "_SMALL", 0)
    decoder = tiny.text_decoder(max_tokens=64)
    rows, _ = decoder.tokenize(tiny.SENTENCES * 20)
    ids, mask = decoder.pad(rows)
    with torch.no_grad():
        exact = decoder.nll(ids, mask)
        decoder.to(torch.bfloat16)
        half = decoder.nll(ids, mask)
    assert half.dtype == torch.float32
    assert exact > 1000
    torch.testing.assert_close(half, exact, rtol=1e-3, atol=0)


def test_generation_keeps_no_gradients(monkeypatch):
    vae = tiny.vae("soft_prompt")
    enabled: list[bool] = []

    def observed(*args: Any) -> dict[str, torch.Tensor]:
        enabled.append(torch.is_grad_enabled())
        return first_inputs(*args)

    monkeypatch.setattr("llamavae.modeling.decoder.first_inputs", observed)
    steering = vae.injection(torch.zeros(1, tiny.LATENT))
    assert steering.prompt.requires_grad
    vae.decoder.generate(steering, 1)
    assert enabled == [False]
