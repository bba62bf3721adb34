"""The word tokenizer of LSTM backbones: a closed vocabulary of lower-cased words."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

_WORD = r"\w+(?:[-'’.]\w+)*|[^\w\s]"
"""A word, also with hyphens, apostrophes or points inside, or one character of punctuation."""
_MAX_TOKENS = 512

_SPECIAL = {
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}


def train_word_tokenizer(
    texts: Iterable[str], vocabulary: int, min_count: int = 1
) -> PreTrainedTokenizerFast:
    """A tokenizer of lower-cased words, in which rare words are `<unk>`.

    Words are separated at white space and before and after punctuation, as the corpora of Shen et
    al., arXiv 1905.12777, are. A decoded text is lower-case, without unknown words, and without a
    space before punctuation such as a comma or after an opening bracket.

    Args:
        texts: Texts of the training set.
        vocabulary: Maximum number of entries, the most frequent words and four special tokens.
        min_count: Minimum number of occurrences of a word in the vocabulary. With 1, `<unk>` does
            not occur in the training set if all its words fit, and is not learned.

    Example:
        >>> tokenizer = train_word_tokenizer(["A dog, (an old one) barks."] * 2, 20)
        >>> tokenizer.decode(tokenizer("a dog (one old dog) sings, barks.")["input_ids"])
        'a dog (one old dog) <unk>, barks.'
    """
    words = Tokenizer(models.WordLevel(unk_token=_SPECIAL["unk_token"]))
    words.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), "removed", invert=True)
    words.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="\0", cleanup=False),  # joins words with spaces
            decoders.Fuse(),
            decoders.Replace(Regex(r" (?=[.,;:!?)\]%])"), ""),
            decoders.Replace(Regex(r"(?<=[(\[]) "), ""),
        ]
    )
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary,
        min_frequency=min_count,
        special_tokens=list(_SPECIAL.values()),
        show_progress=False,
    )
    words.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=_MAX_TOKENS, **_SPECIAL)
