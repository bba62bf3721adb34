"""Tokenizers that several threads share.

A call sets truncation and padding of a fast tokenizer, which raises "Already borrowed" while
another thread uses it. So there is one call at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerBase

TOKENIZER_LOCK = threading.Lock()


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: str | Sequence[str], **options: Any
) -> BatchEncoding:
    """What the tokenizer makes of a text or several, one call at a time.

    Args:
        tokenizer: The tokenizer.
        texts: One text or several.
        **options: Other arguments of a call of the tokenizer.
    """
    with TOKENIZER_LOCK:
        return tokenizer(texts if isinstance(texts, str) else list(texts), **options)


def detokenize(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[str]:
    """Texts of token ids, without special tokens; see `tokenize`.

    Args:
        tokenizer: The tokenizer.
        rows: Token ids of each text.
    """
    with TOKENIZER_LOCK:
        return tokenizer.batch_decode(
            rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
