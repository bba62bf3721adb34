"""Special tokens of sentences, and tokenizers that several threads share.

A call sets truncation and padding of a fast tokenizer, which raises "Already borrowed" while
another thread uses it. So there is one call at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerBase

from llamavae.errors import UserError
from llamavae.parsing import as_texts

TOKENIZER_LOCK = threading.Lock()
AS_TEXT = {"split_special_tokens": True}
"""Option of a tokenizer by which names of special tokens in a text, such as `</s>`, are text."""


@dataclass(frozen=True)
class TokenPolicy:
    """Special tokens of a sentence: `bos x_1 ... x_n eos`, padded with `pad`."""

    bos: int
    eos: int
    pad: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> TokenPolicy:
        """The tokens of the tokenizer; eos replaces a missing bos and a missing pad.

        Raises:
            UserError: The tokenizer has no end-of-sentence token.
        """
        eos = tokenizer.eos_token_id
        if eos is None:
            raise UserError(
                "the decoder's tokenizer has no end-of-sentence token, so generation could not "
                "stop. Set `tokenizer.eos_token` and save the tokenizer, then load it again"
            )
        bos = tokenizer.bos_token_id
        pad = tokenizer.pad_token_id
        return cls(_id(eos if bos is None else bos), _id(eos), _id(eos if pad is None else pad))


def _id(token: Any) -> int:
    if not isinstance(token, int):
        raise UserError(
            f"expected a single id for each special token of the tokenizer; got {token!r}"
        )
    return token


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: Any, part: str) -> None:
    """Check that the tokenizer has a vocabulary, and an embedding for each entry.

    Special tokens without an embedding are allowed, except bos, eos and pad: no text contains them.

    Args:
        tokenizer: The tokenizer.
        model: A transformers model.
        part: `encoder` or `decoder`, for the error.

    Raises:
        UserError: It has only special tokens, or more entries than the embedding has rows.
    """
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise UserError(
            f"the {part}'s tokenizer has no entry besides special tokens: its files are missing or "
            f"damaged. Copy the files of the tokenizer into the folder of the {part}"
        )
    rows = getattr(getattr(model.get_input_embeddings(), "weight", None), "shape", [len(tokenizer)])
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    used = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    lost = len(tokenizer) > rows[0] and any(
        number >= rows[0] and (token not in special or number in used)
        for token, number in tokenizer.get_vocab().items()
    )
    if lost:
        raise UserError(
            f"the {part}'s tokenizer has {len(tokenizer)} entries, but its embedding only {rows[0]}"
            f" rows. Use the tokenizer of the {part}, or call "
            f"model.resize_token_embeddings({len(tokenizer)}), save the {part} and train it"
        )


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: str | Sequence[str], **options: Any
) -> BatchEncoding:
    """What the tokenizer, called with `options`, makes of a text or several; one call at a time."""
    found = as_texts(texts)
    with TOKENIZER_LOCK:
        return tokenizer(texts if isinstance(texts, str) else found, **options)


def detokenize(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[str]:
    """Texts of rows of token ids, without special tokens; one call at a time."""
    if not rows:
        return []  # batch_decode takes an empty list for one empty text
    with TOKENIZER_LOCK:
        return tokenizer.batch_decode(
            rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def unknown_bytes(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """UTF-8 bytes of the unknown words of each text, and one more for the end of each such word.

    A likelihood of tokens leaves open what an unknown word is; spelling it takes these bytes. A
    tokenizer of bytes or of pieces of words has no unknown words.

    Args:
        tokenizer: The tokenizer.
        texts: N texts.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None or not tokenizer.is_fast or not texts:
        return [0] * len(texts)
    options = {"add_special_tokens": False, "return_offsets_mapping": True, **AS_TEXT}
    found = tokenize(tokenizer, texts, **options)
    return [
        sum(
            len(text[start:end].encode()) + 1
            for token, (start, end) in zip(ids, offsets, strict=True)
            if token == unknown
        )
        for text, ids, offsets in zip(
            texts, found["input_ids"], found["offset_mapping"], strict=True
        )
    ]
