from __future__ import annotations

import math

import pytest
import torch
from tests import tiny

from llamavae.baselines import PromptedDecoder, TunedDecoder
from llamavae.errors import UserError
from llamavae.guidance.pairs import Pairs
from llamavae.modeling import TextDecoder
from llamavae.modeling.backbones import fingerprint

WORDS = ["dog", "robot", "gardener", "river", "baker", "owl", "train", "lemon"]
PAIRS = Pairs(tiny.SENTENCES, torch.zeros(8, 1), WORDS)
SHORT = {"steps": 3, "batch_size": 4, "learning_rate": 0.01, "progress": False}


def weights(decoder: TextDecoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in decoder.state_dict().items()}


def tuned(baseline: TunedDecoder) -> TextDecoder:
    assert baseline.model is not None
    return baseline.model.decoder


def flags(decoder: TextDecoder) -> dict[str, tuple[bool, int]]:
    return {name: (p.requires_grad, id(p)) for name, p in decoder.named_parameters()}


@pytest.fixture(scope="module")
def fitted():
    baseline = TunedDecoder(tiny.text_decoder(max_tokens=40), lora_rank=32, lora_alpha=64)
    run = {"steps": 120, "batch_size": 4, "learning_rate": 1e-2, "progress": False}
    return baseline.fit(PAIRS.select(range(4)), **run)


def test_the_loss_falls_and_the_texts_of_known_words_are_generated(fitted):
    assert len(fitted.losses) == 120
    assert fitted.losses[-1] < 0.3 * fitted.losses[0]  # the frozen head limits it
    assert fitted.generate(WORDS[:4]) == tiny.SENTENCES[:4]
    assert fitted.prompted.generate(WORDS[:4]) != tiny.SENTENCES[:4]
    hot = {"n": 3, "temperature": 3.0}
    assert fitted.generate(["owl"], seed=1, **hot) == fitted.generate(["owl"], seed=1, **hot)
    assert fitted.generate(["owl"], seed=1, **hot) != fitted.generate(["owl"], seed=2, **hot)


def test_the_loss_is_that_of_text_and_eos_given_the_prompt():
    decoder = tiny.text_decoder(max_tokens=40)
    baseline = TunedDecoder(decoder, "define {word}:").fit(PAIRS, steps=1, batch_size=8)
    expected = 0.0
    for word, text in zip(WORDS, tiny.SENTENCES, strict=True):
        prompt, whole = (
            decoder.tokenizer(t, add_special_tokens=False)["input_ids"]
            for t in (f"define {word}:", f"define {word}: {text}")
        )
        ids = torch.tensor([[1, *whole, 2]])
        with torch.no_grad():
            log_p = decoder.lm(input_ids=ids).logits.log_softmax(-1)[0, :-1]
        tokens = log_p.gather(1, ids[0, 1:, None])[:, 0]
        expected -= tokens[len(prompt) :].sum().item()
    assert baseline.losses == [pytest.approx(expected / 8, rel=1e-5)]  # LoRA starts at 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
@pytest.mark.parametrize("training", ["frozen", "heads", "lora", "full"])
def test_only_lora_trains_and_the_decoder_is_not_changed(family, training):
    decoder = tiny.text_decoder(family, training=training)
    before, state, settings = fingerprint(decoder), weights(decoder), flags(decoder)
    text = PromptedDecoder(decoder).generate(["dog"])
    baseline = TunedDecoder(decoder, lora_rank=2).fit(PAIRS, **SHORT)
    assert fingerprint(decoder) == before
    assert flags(decoder) == settings
    assert all(p.grad is None for p in decoder.parameters())
    assert PromptedDecoder(decoder).generate(["dog"]) == text

    after = {n.replace(".base_layer", ""): p for n, p in weights(tuned(baseline)).items()}
    state = {n.replace(".base_layer", ""): p for n, p in state.items()}
    lora = {name for name in after if "lora_" in name}
    assert lora
    assert state.keys() - lora == after.keys() - lora
    assert all(torch.equal(state[name], after[name]) for name in after.keys() - lora)
    assert all(after[name].count_nonzero() for name in lora)  # lora_B starts at 0
    own = {p.data_ptr() for p in decoder.parameters()}
    lone = [n for n, p in tuned(baseline).named_parameters() if p.data_ptr() not in own]
    assert all("lora_" in name for name in lone)  # all other weights share memory


@pytest.mark.parametrize("injection", ["memory", "memory+add"])
def test_the_decoder_of_a_vae_is_tuned_without_z(injection):
    vae = tiny.vae(injection)
    z = vae.sample_codes(3, seed=0)
    texts, before = vae.decode(z), fingerprint(vae)
    one = TunedDecoder(vae.decoder).fit(PAIRS, **SHORT)
    other = TunedDecoder(tiny.text_decoder()).fit(PAIRS, **SHORT)
    assert one.losses == pytest.approx(other.losses)
    assert one.generate(WORDS) == other.generate(WORDS)
    assert fingerprint(vae) == before
    assert vae.decode(z) == texts


def test_lora_is_float32_on_a_bfloat16_decoder():
    decoder = tiny.text_decoder(dtype="bfloat16")
    copy = tuned(TunedDecoder(decoder).fit(PAIRS, **SHORT))
    for name, weight in copy.named_parameters():
        assert weight.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)


def test_a_decoder_is_loaded_by_its_folder():
    one, other = TunedDecoder(tiny.decoder()), TunedDecoder(tiny.text_decoder(max_tokens=64))
    assert one.fit(PAIRS, **SHORT).generate(WORDS) == other.fit(PAIRS, **SHORT).generate(WORDS)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_seed_gives_one_result(family):
    baseline = TunedDecoder(tiny.text_decoder(family).train())
    state = torch.get_rng_state()
    one = fingerprint(tuned(baseline.fit(PAIRS, **SHORT)))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert fingerprint(tuned(baseline.fit(PAIRS, **SHORT))) == one
    assert fingerprint(tuned(baseline.fit(PAIRS, seed=1, **SHORT))) != one


def test_words_in_contexts():
    words = [(word, f"about {word}") for word in WORDS]
    pairs = Pairs(tiny.SENTENCES, torch.zeros(8, 1), WORDS, words=words)
    decoder = tiny.text_decoder()
    baseline = TunedDecoder(decoder, "{context}\n{word}:").fit(pairs, **SHORT)
    assert len(baseline.generate(words)) == 8
    plain = TunedDecoder(decoder).fit(pairs, **SHORT)
    assert plain.generate(words) == TunedDecoder(decoder).fit(PAIRS, **SHORT).generate(WORDS)
    with pytest.raises(UserError, match=r"pairs; got the word 'dog'"):
        TunedDecoder(decoder, "{context}\n{word}:").fit(PAIRS, **SHORT)


def test_truncation_and_progress_are_shown(capsys):
    TunedDecoder(tiny.text_decoder(max_tokens=4)).fit(PAIRS, steps=1)
    shown = capsys.readouterr()
    assert "sentences are longer than 4 tokens and were truncated" in shown.err
    assert "tuned decoder" in shown.err
    assert not shown.out


# ------------------------------------------------------------------------------- mistakes


def test_mistakes():
    decoder = tiny.text_decoder()
    baseline = TunedDecoder(decoder)
    with pytest.raises(UserError, match="Call fit"):
        baseline.generate(WORDS)
    with pytest.raises(UserError, match="at least one pair"):
        baseline.fit(PAIRS.select([]), steps=1)
    for name, value in (("steps", -1), ("batch_size", 0), ("learning_rate", 0.0), ("seed", -1)):
        with pytest.raises(UserError, match=name):
            baseline.fit(PAIRS, **{**SHORT, name: value})
    with pytest.raises(UserError, match="lora_rank"):
        TunedDecoder(decoder, lora_rank=0)
    with pytest.raises(UserError, match="template"):
        TunedDecoder(decoder, "no word")


def test_a_decoder_without_layers_for_lora(monkeypatch):
    decoder = tiny.text_decoder()
    monkeypatch.setattr(decoder.lm, "modules", lambda: iter([decoder.lm, decoder.head]))
    with pytest.raises(UserError, match="linear layers for LoRA"):
        TunedDecoder(decoder)


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops(bad, monkeypatch):
    true, calls = TextDecoder.nll, []

    def broken(*args, **options):
        nll = true(*args, **options)
        calls.append(nll)
        if len(calls) == 3:
            nll = nll * math.nan if bad == "loss" else (nll - nll.detach()).sqrt()
        return nll

    monkeypatch.setattr(TextDecoder, "nll", broken)
    baseline = TunedDecoder(tiny.text_decoder())
    with pytest.raises(UserError, match=r"tuned decoder .* not finite at step 2.*learning_rate"):
        baseline.fit(PAIRS, **{**SHORT, "steps": 5})
    with pytest.raises(UserError, match="Call fit"):
        baseline.generate(WORDS)
