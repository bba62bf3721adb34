from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch
import transformers as hf
from sentence_transformers import SentenceTransformer
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.modeling.loading import load_sentence_encoder
from llamavae.modeling.transformers_encoder import AttentionPooling

KINDS = ["bert", "t5", "bert-cls", "bert-mean", "bert-last", "sentence-t5"]


def load(kind="bert-mean", **options):
    return load_sentence_encoder(tiny.encoder(kind), **options).eval()


def assert_same(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_sentence_transformers(kind):
    encoder = load(kind)
    h = encoder.encode(tiny.SENTENCES)
    expected = SentenceTransformer(str(tiny.encoder(kind)), device="cpu").encode(
        tiny.SENTENCES, convert_to_tensor=True, show_progress_bar=False
    )
    assert h.shape == (len(tiny.SENTENCES), encoder.dim)
    assert_same(h, expected.clone())
    assert torch.equal(h, encoder.encode(tiny.SENTENCES))


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_path_gives_the_same_vectors(kind):
    encoder = load(kind)
    assert_same(encoder(encoder.tokenize(tiny.SENTENCES)), encoder.encode(tiny.SENTENCES))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_order_and_batches_do_not_matter(batch_size):
    encoder = load()
    h = encoder.encode(tiny.SENTENCES, batch_size)
    assert_same(h, torch.cat([encoder.encode([text]) for text in tiny.SENTENCES]))
    assert_same(encoder.encode(tiny.SENTENCES[::-1], batch_size), h.flip(0))
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_a_default_prompt_is_used_in_training_too():
    model = SentenceTransformer(
        str(tiny.encoder()), device="cpu", prompts={"query": "seven "}, default_prompt_name="query"
    )
    encoder = load_sentence_encoder(model).eval()
    h = encoder.encode(tiny.SENTENCES)
    assert_same(encoder(encoder.tokenize(tiny.SENTENCES)), h)
    assert not torch.allclose(h, load().encode(tiny.SENTENCES))


def test_truncated_vectors_are_truncated_in_training_too():
    model = SentenceTransformer(str(tiny.encoder()), device="cpu", truncate_dim=5)
    encoder = load_sentence_encoder(model).eval()
    assert encoder.dim == 5
    assert_same(encoder(encoder.tokenize(tiny.SENTENCES)), encoder.encode(tiny.SENTENCES))


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_pooling_by_hand(kind, pooling):
    encoder = load(kind, pooling=pooling)
    features = encoder.tokenize(tiny.SENTENCES)
    states = encoder.model(**features).last_hidden_state
    mask = features["attention_mask"]
    expected = {
        "cls": states[:, 0],
        "mean": (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True),
        "last": states[torch.arange(len(states)), mask.sum(1) - 1],
    }[pooling]
    assert_same(encoder(features), expected)
    assert_same(encoder.encode(tiny.SENTENCES), expected)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_what_is_saved_is_a_sentence_transformers_model_too(pooling, tmp_path):
    encoder = load("bert", pooling=pooling, training="lora", lora_rank=2)
    encoder.save(tmp_path / "new" / "encoder")
    saved = tmp_path / "new" / "encoder"
    expected = load("bert", pooling=pooling).encode(tiny.SENTENCES)
    assert_same(load_sentence_encoder(saved).encode(tiny.SENTENCES), expected)
    assert_same(load_sentence_encoder(saved, pooling=pooling).encode(tiny.SENTENCES), expected)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_the_saved_format_is_the_current_one_of_sentence_transformers(pooling, tmp_path):
    load("bert", pooling=pooling).save(tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    model.save_pretrained(str(tmp_path / "theirs"))
    for name in ("modules.json", "1_Pooling/config.json"):
        ours, theirs = (json.loads((tmp_path / x / name).read_text()) for x in ("ours", "theirs"))
        assert ours == theirs


@pytest.mark.filterwarnings("ignore:Importing from 'sentence_transformers.models")
def test_the_previous_format_is_read(tmp_path):
    encoder = load("bert", pooling="cls")
    encoder.save(tmp_path)
    parts = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(parts.items())
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    settings = {"word_embedding_dimension": encoder.dim, **modes, "pooling_mode_lasttoken": False}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    found = load_sentence_encoder(tmp_path).encode(tiny.SENTENCES)
    assert_same(found, encoder.encode(tiny.SENTENCES))


def test_an_encoder_decoder_whose_encoder_cannot_be_had_alone_is_refused(tmp_path):
    sizes: dict[str, Any] = {
        "d_model": 16,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    layers: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 1}
    bart = hf.BartModel(hf.BartConfig(vocab_size=tiny.VOCAB, **sizes, **layers))
    bart.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a bart, without its decoder"):
        load_sentence_encoder(tmp_path, pooling="mean")


def test_positions_that_start_behind_the_padding_are_not_counted(tmp_path):
    sizes: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = hf.RobertaConfig(
        vocab_size=tiny.VOCAB, max_position_embeddings=18, pad_token_id=1, **sizes
    )
    hf.RobertaModel(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    encoder = load_sentence_encoder(tmp_path, pooling="mean").eval()
    assert encoder.max_tokens == 16
    assert encoder.encode(["a dog " * 30]).isfinite().all()


def test_pooling_replaces_the_models_own():
    assert_same(
        load("bert-mean", pooling="cls").encode(["a dog"]), load("bert-cls").encode(["a dog"])
    )


# --------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", ["bert-mean", "sentence-t5"])
@pytest.mark.parametrize("training", ["frozen", "lora", "full"])
def test_what_trains_gets_gradients(kind, training):
    encoder = load(kind, training=training, lora_rank=2).train()
    h = encoder(encoder.tokenize(tiny.SENTENCES))
    assert h.requires_grad == encoder.trains == (training != "frozen")
    if training == "frozen":
        assert not any(p.requires_grad for p in encoder.parameters())
        return
    (h * torch.randn_like(h)).sum().backward()
    moved = {n for n, p in encoder.named_parameters() if p.grad is not None and p.grad.any()}
    if training == "lora":  # the second matrix starts at zero, so only it moves at first
        assert moved
        assert all("lora_B" in n for n in moved)
    else:
        assert {n.split(".")[0] for n in moved} == {"model"}
        assert len(moved) > 10


@pytest.mark.parametrize("training", ["frozen", "lora", "full"])
def test_an_encoder_has_no_dropout_in_training(training):
    encoder = load(training=training).train()
    assert encoder.training is (training != "frozen")
    assert_same(encoder(encoder.tokenize(["a dog"])), encoder.encode(["a dog"]))


def test_lora_starts_as_the_encoder_itself():
    assert_same(load(training="lora").encode(["a dog"]), load().encode(["a dog"]))


# ------------------------------------------------------------------------- limits and caching


def test_long_texts_are_counted():
    encoder = load(max_tokens=9)
    lengths = [int(encoder.tokenize([text])["attention_mask"].sum()) for text in tiny.SENTENCES]
    free = load(max_tokens=32)
    real = [int(free.tokenize([text])["attention_mask"].sum()) for text in tiny.SENTENCES]
    assert max(lengths) == 9 < max(real)
    assert encoder.truncated(tiny.SENTENCES) == sum(n > 9 for n in real) > 0
    assert free.truncated(tiny.SENTENCES) == 0
    assert free.truncated([]) == 0


def test_the_cache_key_follows_all_that_decides_a_vector():
    used = load()
    key = used.cache_key()
    used.truncated(tiny.SENTENCES)  # leaves another truncation behind in the tokenizer
    assert key == used.cache_key()
    used.encode(tiny.SENTENCES)
    assert key == used.cache_key() == load().cache_key()
    assert len(key) == 32
    others = {
        "pooling": load("bert-cls"),
        "length": load(max_tokens=7),
        "architecture": load("sentence-t5"),
        "dtype": load(dtype=torch.bfloat16),
    }
    weights = load()
    with torch.no_grad():
        next(weights.parameters()).view(-1)[0] += 1e-3
    others["weights"] = weights
    prompt = {"prompts": {"q": "query: "}, "default_prompt_name": "q"}
    others["prompt"] = load_sentence_encoder(
        SentenceTransformer(str(tiny.encoder()), device="cpu", **prompt)
    )
    keys = {name: encoder.cache_key() for name, encoder in others.items()}
    assert len({key, *keys.values()}) == len(keys) + 1


def test_weights_in_half_precision():
    encoder = load(dtype=torch.bfloat16)
    assert encoder.encode(["a dog"]).dtype == torch.bfloat16
    vae = LlaMaVAE.from_backbones(tiny.encoder(), tiny.decoder(), latent_dim=2)
    vae.encoder = encoder
    assert vae.encode("a dog").mean.dtype == torch.float32


# ---------------------------------------------------------------------------- without encoder


def test_a_model_of_precomputed_vectors():
    vae = tiny.vae("memory", sentence_encoder=None)
    h = torch.randn(3, tiny.HIDDEN)
    q = vae.encode(h)
    assert q.mean.shape == (3, tiny.LATENT)
    assert len(vae.decode(q.mean)) == 3
    rows, _ = vae.decoder.tokenize(tiny.SENTENCES[:3])
    assert vae(*vae.decoder.pad(rows), sentence_vectors=h).loss.isfinite()
    with pytest.raises(UserError, match="no sentence encoder"):
        vae.encode("a dog")
    with pytest.raises(UserError, match="expected sentence vectors of shape"):
        vae.encode(torch.randn(3, 5))
    with pytest.raises(UserError, match="needs encoder_dim"):
        LlaMaVAE.from_backbones(None, tiny.decoder())


# ------------------------------------------------------------------------------------- errors


def test_an_encoder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder \./nowhere/at-all"):
        load_sentence_encoder("./nowhere/at-all")
    with pytest.raises(UserError, match="could not load the sentence encoder 'some/encoder'"):
        load_sentence_encoder("some/encoder")
    with pytest.raises(UserError, match="does not hold a usable sentence encoder"):
        load_sentence_encoder(tmp_path)


def test_what_no_sentence_vector_uses_does_not_train():
    """BERT's pooler would get no gradient, which data-parallel training refuses."""
    encoder = load_sentence_encoder(tiny.encoder("bert-cls"), training="full")
    vector = encoder(encoder.tokenize(tiny.SENTENCES[:2]))
    vector.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)


# ------------------------------------------------------------------------------- attention pooling


def test_attention_pooling_is_a_weighted_mean_for_each_query():
    pool = AttentionPooling(4, 3)
    states, mask = torch.randn(2, 5, 4), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    h = pool(states, mask).view(2, 3, 4)
    for row, length in enumerate([5, 3]):
        own = states[row, :length]
        for k in range(3):
            weights = (own @ pool.query[k]).softmax(0)
            assert_same(h[row, k], weights @ own)


def test_padding_has_no_part_in_attention_pooling():
    encoder = load(pooling="attention")
    assert encoder.dim == 8 * tiny.HIDDEN
    assert_same(
        encoder.encode(tiny.SENTENCES),
        torch.cat([encoder.encode([text]) for text in tiny.SENTENCES]),
    )


def test_queries_train_while_the_encoder_is_frozen():
    encoder = load(pooling="attention", pooling_heads=2)
    assert encoder.trains
    assert [n for n, p in encoder.named_parameters() if p.requires_grad] == ["attention.query"]
    encoder.train()
    encoder(encoder.tokenize(["a dog", "a cat"])).square().sum().backward()
    query = dict(encoder.named_parameters())["attention.query"]
    assert query.grad is not None
    assert query.grad.abs().sum() > 0
    key = encoder.cache_key()
    torch.nn.init.zeros_(query)
    assert encoder.cache_key() != key


@pytest.mark.parametrize("embed", [False, True])
def test_a_model_with_attention_pooling_is_saved_and_loaded(tmp_path, embed):
    vae = tiny.vae(
        encoder_pooling="attention",
        pooling_heads=2,
        standardise=True,
        scaled_memory=True,
        initial_std=0.1,
        embed_backbones=embed,
    )
    vae.fit_statistics(tiny.SENTENCES)
    vae.save_pretrained(tmp_path)
    loaded = LlaMaVAE.from_pretrained(tmp_path)
    a, b = vae.encode(tiny.SENTENCES), loaded.encode(tiny.SENTENCES)
    assert torch.equal(a.mean, b.mean)
    assert torch.equal(a.logvar, b.logvar)
    assert vae.reconstruct(tiny.SENTENCES) == loaded.reconstruct(tiny.SENTENCES)


def test_statistics_are_for_a_model_that_standardises():
    with pytest.raises(UserError, match="standardise=True"):
        tiny.vae().fit_statistics(tiny.SENTENCES)
