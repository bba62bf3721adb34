from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
import transformers as hf
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.modeling import TransformersEncoder
from llamavae.modeling.loading import load_sentence_encoder
from llamavae.modeling.selfcheck import check_decoder, check_encoder


def bert(kind: type[Any] = hf.BertConfig, **changes):
    """A BERT-like config with the sizes of the other tiny decoders."""
    return kind(
        vocab_size=tiny.VOCAB,
        hidden_size=tiny.HIDDEN,
        intermediate_size=48,
        num_hidden_layers=tiny.LAYERS,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **changes,
    )


CTRL = hf.CTRLConfig(
    vocab_size=tiny.VOCAB, n_positions=64, n_embd=tiny.HIDDEN, dff=48, n_layer=2, n_head=4
)
RWKV = hf.RwkvConfig(
    vocab_size=tiny.VOCAB,
    context_length=64,
    hidden_size=tiny.HIDDEN,
    num_hidden_layers=2,
    attention_hidden_size=tiny.HIDDEN,
    intermediate_size=48,
    bos_token_id=1,
    eos_token_id=2,
)
GEMMA4 = tiny.small(
    hf.Gemma4TextConfig,
    hidden_size_per_layer_input=8,
    vocab_size_per_layer_input=tiny.VOCAB,
    layer_types=["sliding_attention", "full_attention"],
    num_kv_shared_layers=0,
    tie_word_embeddings=True,
)


def build(folder, config, injection, **options):
    torch.manual_seed(0)
    return LlaMaVAE.from_backbones(
        None,
        tiny.save_decoder(config, folder),
        encoder_dim=tiny.HIDDEN,
        latent_dim=tiny.LATENT,
        injection=injection,
        decoder_options=options,
    )


@pytest.mark.parametrize("injection", ["memory", "soft_prompt", "add"])
@pytest.mark.parametrize("family", tiny.DECODERS)
def test_a_family_that_works_is_built(family, injection):
    tiny.vae(injection, family, None)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama-grouped", "gemma2", "gpt2", "opt"])
def test_half_precision_is_within_the_tolerance(family, dtype):
    tiny.vae("memory+add", family, None, decoder_options={"dtype": dtype})


@pytest.mark.parametrize(
    ("config", "injections", "message"),
    [
        (bert(), ["memory", "soft_prompt", "add"], "BertLMHeadModel reads later tokens"),
        (bert(hf.RobertaConfig), ["memory", "add"], "RobertaForCausalLM"),
        (
            bert(hf.RobertaConfig, is_decoder=True),
            ["memory", "soft_prompt", "add"],
            "does not generate from the distribution",
        ),
        (RWKV, ["soft_prompt", "add"], "does not generate from the distribution"),
        (GEMMA4, ["soft_prompt", "add"], "reads token ids in addition to its input embeddings"),
        (CTRL, ["soft_prompt"], "CTRLLMHeadModel cannot be used with injection 'soft_prompt'"),
    ],
    ids=["bert", "roberta", "roberta-decoder", "rwkv", "gemma4", "ctrl"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_family_that_would_write_wrong_texts_is_refused_by_name(
    config, injections, message, tmp_path
):
    for injection in injections:
        with pytest.raises(UserError, match=message):
            build(tmp_path, config, injection)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("config", "injection"),
    [(bert(is_decoder=True), "soft_prompt"), (GEMMA4, "memory"), (CTRL, "memory")],
    ids=["bert", "gemma4", "ctrl"],
)
def test_what_works_of_these_families_is_not_refused(config, injection, tmp_path):
    build(tmp_path, config, injection)


def test_the_check_changes_neither_weights_nor_random_numbers():
    model = tiny.vae("memory+add").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_encoder(model)
    check_decoder(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_decoder_that_overflows_is_refused():
    model = tiny.vae("memory", "llama", None)
    with torch.no_grad():
        model.decoder.head.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"LlamaForCausalLM.*not finite in float32"):
        check_decoder(model)


def test_an_encoder_whose_vectors_are_not_finite_is_refused(tmp_path):
    encoder = hf.AutoModel.from_pretrained(tiny.encoder("bert"))
    torch.nn.init.constant_(encoder.get_input_embeddings().weight, torch.nan)
    encoder.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"encoder cannot be used.*got NaN"):
        LlaMaVAE.from_backbones(tmp_path, tiny.decoder(), encoder_pooling="mean")


@pytest.mark.filterwarnings("ignore")
def test_an_encoder_without_a_tokenizer_is_refused(tmp_path):
    hf.AutoModel.from_pretrained(tiny.encoder("bert")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="encoder"):
        LlaMaVAE.from_backbones(tmp_path, tiny.decoder(), encoder_pooling="mean")


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    tokens = tiny.tokenizer()
    tokens.add_tokens([f"<extra-{i}>" for i in range(tiny.VOCAB)])
    folder = tiny.save_decoder(tiny.DECODERS["llama"](), tmp_path, tokens)
    with pytest.raises(UserError, match=rf"embedding only {tiny.VOCAB} rows.*resize"):
        LlaMaVAE.from_backbones(None, folder, encoder_dim=4)
    model = hf.AutoModel.from_pretrained(tiny.encoder("bert"))
    with pytest.raises(UserError, match="the encoder's tokenizer has"):
        TransformersEncoder(model, tokens)


# ------------------------------------------------------------------ special tokens in a text


@pytest.mark.parametrize("encoder", ["bert", "bert-mean", "sentence-t5"])
@pytest.mark.parametrize("text", ["a </s> b", "<s>", "<pad> dog", "x <|endoftext|> y", "[SEP]"])
def test_names_of_special_tokens_are_text(text, encoder):
    decoder = tiny.text_decoder(max_tokens=64)
    (row,), _ = decoder.tokenize([text])
    assert not {0, 1, 2, 3, 4} & set(row[1:-1])
    assert decoder.texts(torch.tensor([row[1:]])) == [text]
    loaded = load_sentence_encoder(
        tiny.encoder(encoder), pooling="mean" if encoder == "bert" else None
    )
    ids = loaded.tokenize([text])["input_ids"]
    first = 0 if encoder == "sentence-t5" else 1  # its own special tokens: [CLS] x [SEP], or x </s>
    assert not {0, 1, 2, 3, 4} & set(ids[0, first:-1].tolist())


# ------------------------------------------------------------------ backbones given anew


@pytest.fixture
def saved(tmp_path):
    tiny.vae("memory").save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_the_original_backbones_are_recognised_in_other_places_and_types(saved, tmp_path):
    shutil.copytree(tiny.decoder(), tmp_path / "decoder")
    LlaMaVAE.from_pretrained(saved, decoder=tmp_path / "decoder", encoder=tiny.encoder())
    LlaMaVAE.from_pretrained(saved, decoder=tmp_path / "decoder", dtype="bfloat16")
    LlaMaVAE.from_pretrained(saved, decoder=tmp_path / "decoder", dtype="float16")


def test_another_backbone_of_the_same_shape_is_a_warning(saved, tmp_path):
    other = tiny.save_decoder(tiny.DECODERS["llama"](), tmp_path / "other", seed=5)
    with pytest.warns(UserWarning, match="decoder in .*other has other weights"):
        LlaMaVAE.from_pretrained(saved, decoder=other)


def test_a_backbone_that_changed_in_its_place_is_refused(saved, tmp_path):
    config = tiny.unsealed(saved) / "config.json"
    values = json.loads(config.read_text())
    other = tiny.save_decoder(tiny.DECODERS["llama"](), tmp_path / "other", seed=5)
    config.write_text(json.dumps(values | {"decoder_name_or_path": str(other)}))
    with pytest.raises(UserError, match=r"other weights than.*decoder='"):
        LlaMaVAE.from_pretrained(saved)
