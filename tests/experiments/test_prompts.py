from __future__ import annotations

import pytest
import torch
from tests import tiny

from llamavae.baselines import PromptedDecoder
from llamavae.experiments.prompts import definition_prompts, validate_prompts
from llamavae.guidance import Pairs
from llamavae.metrics.definitions import lemma_bleus

CHAT = (
    "{% for m in messages %}<s>{{ m.role }} {x} {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
"""A chat template that starts with bos and has a brace of its own."""


@pytest.mark.parametrize("in_sentences", [False, True])
def test_prompts(in_sentences):
    tokenizer = tiny.tokenizer()
    plain = definition_prompts(tokenizer, in_sentences)
    assert list(plain) == ["bare", "examples"]
    tokenizer.chat_template = CHAT
    prompts = definition_prompts(tokenizer, in_sentences)
    assert prompts == {**plain, "chat": prompts["chat"]}
    decoder = tiny.text_decoder()
    for template in prompts.values():
        model = PromptedDecoder(decoder, template)
        (ids,) = model.tokenize([("owl", "an owl {reads} letters") if in_sentences else "owl"])
        text = decoder.tokenizer.decode(ids)
        assert "owl" in text
        assert ("an owl {reads} letters" in text) == in_sentences
        assert (ids[0], ids.count(1)) == (1, 2 if template == prompts["chat"] else 1)
    shown = prompts["chat"].format(word="owl", context="")
    assert shown.startswith("user {x} ")
    assert shown.endswith("</s><s>assistant\n")


def test_prompts_are_validated_by_sense_bleu():
    decoder = tiny.text_decoder(max_tokens=8)
    words = ["dog", "dog", "owl"]
    pairs = Pairs(tiny.SENTENCES[:3], torch.zeros(3, 1), words)
    prompts = {"a": "{word}:", "b": "the {word} is"}
    found = validate_prompts(decoder, prompts, pairs)
    for name, template in prompts.items():
        texts = PromptedDecoder(decoder, template).generate(words, spread=0)
        assert found[name] == lemma_bleus(texts, pairs.texts, [0, 1, 2]).mean()
