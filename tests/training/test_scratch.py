from __future__ import annotations

import pytest
from sentence_transformers import SentenceTransformer
from tests.training import runs
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamavae.errors import UserError
from llamavae.modeling import TextDecoder
from llamavae.training.recipe import ScratchDecoder, ScratchEncoder
from llamavae.training.scratch import _make_decoder, _make_encoder, _train_tokenizer

SMALL = {"hidden_size": 16, "layers": 1, "ffn": 16, "vocabulary": 320}


def test_tokenizer_writes_any_text(tmp_path):
    tokenizer = _train_tokenizer(runs.SENTENCES, 320)
    assert len(tokenizer) <= 320
    for text in ("the owl paints bread", "Zwölf Boxkämpfer – 十二 🙂", "a  b\tc"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        written = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert str(written).strip() == text


def test_decoder(tmp_path):
    _make_decoder(ScratchDecoder(**SMALL, heads=4, kv_heads=2), runs.SENTENCES, tmp_path)
    config = AutoModelForCausalLM.from_pretrained(tmp_path).config
    assert (config.hidden_size, config.num_key_value_heads) == (16, 2)
    assert config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path))
    decoder = TextDecoder.load(tmp_path)
    assert len({decoder.tokens.bos, decoder.tokens.eos, decoder.tokens.pad}) == 3


def test_encoder(tmp_path):
    _make_encoder(ScratchEncoder(**SMALL, heads=4), runs.SENTENCES, tmp_path / "encoder")
    model = SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    assert model.encode(runs.SENTENCES[:3], show_progress_bar=False).shape == (3, 16)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "words"),
    [
        (3, 1, "heads 3 does not divide hidden_size 16"),
        (4, 3, "kv_heads 3 does not divide heads 4"),
    ],
)
def test_sizes_that_do_not_fit(tmp_path, heads, kv_heads, words):
    settings = ScratchDecoder(**SMALL, heads=heads, kv_heads=kv_heads)
    with pytest.raises(UserError, match=words):
        _make_decoder(settings, runs.SENTENCES, tmp_path)
