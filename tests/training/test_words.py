from __future__ import annotations

from tests.training import runs

from llamavae.training.words import train_word_tokenizer


def decoded(tokenizer, text: str) -> str:
    ids = tokenizer(text)["input_ids"]
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_known_sentences_come_back() -> None:
    tokenizer = train_word_tokenizer(runs.SENTENCES, 100)
    assert [decoded(tokenizer, text) for text in runs.SENTENCES] == runs.SENTENCES


def test_words_and_punctuation() -> None:
    text = "It's a well-known owl; (an old one, of 3.5 kg) Übermut!"
    tokenizer = train_word_tokenizer([text], 100)
    words = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert words[:5] == ["it's", "a", "well-known", "owl", ";"]
    assert decoded(tokenizer, text) == text.lower()


def test_the_most_frequent_words_are_kept() -> None:
    texts = ["the dog", "the dog", "the owl", "the owl", "the owl", "a fox"]
    assert set(train_word_tokenizer(texts, 6).get_vocab()) == {
        *("<pad>", "<s>", "</s>", "<unk>"),
        *("the", "owl"),
    }
    tokenizer = train_word_tokenizer(texts, 100, min_count=2)
    assert set(tokenizer.get_vocab()) >= {"the", "owl", "dog"}
    assert tokenizer("a fox")["input_ids"] == [tokenizer.unk_token_id] * 2


def test_names_of_special_tokens_are_words() -> None:
    tokenizer = train_word_tokenizer(runs.SENTENCES, 100)
    ids = tokenizer("</s> owl", split_special_tokens=True)["input_ids"]
    assert tokenizer.eos_token_id not in ids
