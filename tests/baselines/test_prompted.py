from __future__ import annotations

import pytest
import torch
from tests import tiny

from llamavae.baselines import PromptedDecoder
from llamavae.errors import UserError
from llamavae.modeling.injection import Steering

WORDS = ["dog", "river", "lemon", "owl", "an old tree", "moon", "dog"]


@pytest.fixture(scope="module")
def decoder():
    return tiny.text_decoder("llama", max_tokens=8)


def alone(decoder, prompt: str) -> str:
    """Greedy text after one prompt, by the decoder itself."""
    return decoder.texts(decoder.generate(Steering(), 1, prompt))[0].partition("\n")[0]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_greedy_equals_a_loop_over_single_prompts(family, batch_size):
    decoder = tiny.text_decoder(family, max_tokens=8)
    prompts = [f"the {word} is" for word in WORDS]
    lengths = {len(decoder.tokenizer(p)["input_ids"]) for p in prompts}
    assert 1 < len(lengths) < len(set(WORDS))  # some share a batch, some do not
    predictions = PromptedDecoder(decoder, "the {word} is").generate(WORDS, batch_size=batch_size)
    assert predictions == [alone(decoder, prompt) for prompt in prompts]
    assert len(set(predictions)) > 1


def test_the_prompt_is_not_in_the_text(decoder):
    """A decoder whose next token is always the same one writes that token and nothing else."""
    decoder = tiny.text_decoder(max_tokens=3)
    token = decoder.tokenizer("q", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        decoder.head.weight.zero_()
        decoder.head.bias = torch.nn.Parameter(torch.zeros(len(decoder.head.weight)))
        decoder.head.bias[token] = 9.0
    assert PromptedDecoder(decoder).generate(["dog", "an old tree"]) == ["qqq", "qqq"]


def test_a_text_ends_at_its_first_line_break(decoder, monkeypatch):
    monkeypatch.setattr(decoder, "texts", lambda ids: ["a beast\ncat: another"] * len(ids))
    assert PromptedDecoder(decoder).generate(["dog"]) == ["a beast"]


def test_the_decoder_of_a_vae_writes_without_z():
    model = tiny.vae("memory+add", max_tokens=8)
    plain = tiny.text_decoder(max_tokens=8)
    assert PromptedDecoder(model.decoder).generate(WORDS) == PromptedDecoder(plain).generate(WORDS)


def test_samples_of_one_word_lie_side_by_side(decoder):
    """At a temperature that leaves no choice, each sample is the greedy text of its own word."""
    baseline = PromptedDecoder(decoder)
    greedy = baseline.generate(WORDS)
    cold = baseline.generate(WORDS, n=3, temperature=1e-4)
    assert cold == [text for text in greedy for _ in range(3)]


def test_a_seed_repeats_and_disturbs_nobody(decoder):
    baseline = PromptedDecoder(decoder)
    state = torch.get_rng_state()
    one = baseline.generate(WORDS, n=2, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(9)
    assert baseline.generate(WORDS, n=2, seed=5) == one
    assert baseline.generate(WORDS, n=2, seed=6) != one
    assert baseline.generate(WORDS, n=2) != baseline.generate(WORDS, n=2)
    assert len(one) == 2 * len(WORDS)
    assert one[0] != one[1]


def test_a_temperature_samples_a_single_text(decoder):
    baseline = PromptedDecoder(decoder)
    greedy = baseline.generate(WORDS)
    assert baseline.generate(WORDS, temperature=3.0, seed=0) != greedy
    assert baseline.generate(WORDS, temperature=1, seed=0) != greedy
    for spread in (0, 0.5, 2.0):  # of latent codes, which it does not have
        assert baseline.generate(WORDS, spread=spread, seed=1) == greedy


def test_contexts(decoder):
    baseline = PromptedDecoder(decoder, "{context}\n{word}:")
    asked: list[tuple[str, str | None]] = [("owl", "an owl reads"), ("owl", "robots paint")]
    prompts = ["an owl reads\nowl:", "robots paint\nowl:"]
    assert baseline.generate(asked) == [alone(decoder, prompt) for prompt in prompts]
    asked.append(("owl", None))
    assert PromptedDecoder(decoder).generate(asked) == [alone(decoder, "owl:")] * 3


def test_options_of_generate(decoder):
    baseline = PromptedDecoder(decoder)
    full, short = (baseline.generate(["dog"], **o)[0] for o in ({}, {"max_new_tokens": 2}))
    assert full.startswith(short)
    assert len(short) < len(full)
    assert baseline.generate(["dog"], num_beams=2)


def test_it_leaves_the_mode_of_the_decoder_alone():
    decoder = tiny.text_decoder("gpt2", training="full", max_tokens=4).train()
    baseline = PromptedDecoder(decoder)
    assert baseline.generate(["dog"]) == baseline.generate(["dog"])  # no dropout
    assert decoder.training
    assert decoder.lm.training


def test_nothing_asked(decoder):
    assert PromptedDecoder(decoder).generate([], n=2) == []


@pytest.mark.parametrize(
    "template", ["a thing:", "{word} {wrd}", "{word", "{word.upper}", "{}", "{word:{n}}"]
)
def test_templates_that_cannot_work(decoder, template):
    with pytest.raises(UserError, match="template"):
        PromptedDecoder(decoder, template)


def test_mistakes(decoder):
    baseline = PromptedDecoder(decoder)
    for asked, what in (
        (torch.ones(2, 3), "got a Tensor"),
        ("dog", "got a str"),
        ([3], "got 3"),
        ([("dog", "a", "b")], "pair"),
    ):
        with pytest.raises(UserError, match=what):
            baseline.generate(asked)
    with pytest.raises(UserError, match="n must be at least 1; got 0"):
        baseline.generate(["dog"], n=0)
    with pytest.raises(UserError, match=r"spread .* got -1"):
        baseline.generate(["dog"], spread=-1)
    with pytest.raises(UserError, match=r"temperature must be above 0; got 0"):
        baseline.generate(["dog"], temperature=0)
    with pytest.raises(UserError, match=r"pairs; got the word 'dog'"):
        PromptedDecoder(decoder, "{context} {word}:").generate(["dog"])
