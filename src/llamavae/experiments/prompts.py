"""Prompts for definitions, and the choice of one on validation pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from llamavae.baselines import PromptedDecoder
from llamavae.guidance import Pairs
from llamavae.metrics.definitions import lemma_bleus
from llamavae.modeling import TextDecoder

_WORDS = {
    "bare": "{word}:",
    "examples": (
        "Short definitions of words, one per line.\n"
        "umbrella: a cover on a stick that keeps off the rain\n"
        "whisper: say something so quietly that few can hear it\n"
        "brave: not afraid to do something dangerous\n"
        "{word}:"
    ),
    "chat": (
        'Define the word "{word}" in one short line, as a dictionary does. Answer with the '
        "definition only, without the word."
    ),
}
_IN_SENTENCES = {
    "bare": "{context}\n{word}:",
    "examples": (
        "Short definitions of words as they are used in a sentence.\n"
        "Sentence: It rained, so she opened her umbrella.\n"
        "umbrella: a cover on a stick that keeps off the rain\n"
        "Sentence: They whisper because the baby sleeps.\n"
        "whisper: say something so quietly that few can hear it\n"
        "Sentence: The brave girl went into the burning house.\n"
        "brave: not afraid to do something dangerous\n"
        "Sentence: {context}\n"
        "{word}:"
    ),
    "chat": (
        'Define the word "{word}" in one short line, as a dictionary does, with the meaning that '
        'it has in this sentence: "{context}" Answer with the definition only, without the word.'
    ),
}


def definition_prompts(
    tokenizer: PreTrainedTokenizerBase, in_sentences: bool = False
) -> dict[str, str]:
    """Maps names to templates of `PromptedDecoder`.

    Args:
        tokenizer: Without a chat template, there is no prompt `chat`.
        in_sentences: Whether the words have a context.
    """
    prompts = dict(_IN_SENTENCES if in_sentences else _WORDS)
    chat = prompts.pop("chat")
    if tokenizer.chat_template is not None:
        message = [{"role": "user", "content": chat}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        text = cast(str, text).removeprefix(cast(str, tokenizer.bos_token or ""))
        text = text.replace("{", "{{").replace("}", "}}")
        for name in ("word", "context"):
            text = text.replace(f"{{{{{name}}}}}", f"{{{name}}}")
        prompts["chat"] = text
    return prompts


def validate_prompts(
    decoder: TextDecoder, prompts: Mapping[str, str], pairs: Pairs
) -> dict[str, float]:
    """sense-BLEU of the greedy definitions of N pairs, by the name of the prompt.

    Args:
        decoder: A causal language model.
        prompts: Maps names to templates.
        pairs: Words, or (word, context) pairs, with their definitions.
    """
    items: list[Any] = list(range(len(pairs)))  # each is a lemma of its own
    found = {}
    for name, template in prompts.items():
        texts = PromptedDecoder(decoder, template).generate(pairs.words, spread=0)
        found[name] = float(lemma_bleus(texts, pairs.texts, items).mean())
    return found
