"""GGUF files, written here by the `gguf` package: read as transformers reads them, or refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers as hf
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.errors import MissingData, UserError
from llamavae.modeling import TextDecoder
from llamavae.modeling.gguf import read_gguf
from llamavae.pretrained import CATALOGUE, Backbone, File

Types = gguf.GGMLQuantizationType
_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def config(**changes: Any) -> hf.LlamaConfig:
    """A tiny LLaMA with grouped heads, whose rows can be quantised in blocks of 32."""
    made = tiny.small(hf.LlamaConfig, num_key_value_heads=2, intermediate_size=64, **changes)
    assert isinstance(made, hf.LlamaConfig)
    return made


def name_in_gguf(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        return f"blk.{layer}.{_PARTS[part]}.{kind}"
    return f"{_PARTS[stem]}.{kind}"


def rotated_pairs_together(weight: np.ndarray, heads: int) -> np.ndarray:
    """The order of a query's or key's rows in GGUF."""
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write(
    file: Path,
    folder: Path,
    kind: Types = Types.F32,
    change: Callable[[dict[str, np.ndarray], gguf.GGUFWriter], None] = lambda *_: None,
) -> Path:
    """The model of a folder as a GGUF file, its matrices as blocks of a type."""
    model = hf.AutoModelForCausalLM.from_pretrained(folder)
    c = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"] for token in tokenizer["added_tokens"]}
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    tokens += [f"[unused{i}]" for i in range(len(tokens), c.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    tensors = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        array = value.float().numpy()
        if ".q_proj." in name:
            array = rotated_pairs_together(array, c.num_attention_heads)
        if ".k_proj." in name:
            array = rotated_pairs_together(array, c.num_key_value_heads)
        tensors[name_in_gguf(name)] = array
    change(tensors, writer)
    for name, array in tensors.items():
        if array.ndim == 1:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny LLaMA."""
    return tiny.save_decoder(config(), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a GGUF file of 8-bit blocks."""
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", folder, Types.Q8_0)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    hf.utils.logging.disable_progress_bar()
    yield
    hf.utils.logging.enable_progress_bar()


def logits(lm: Any, tokenizer: Any) -> torch.Tensor:
    ids = torch.tensor([tokenizer("a dog is a kind of animal")["input_ids"]])
    with torch.no_grad():
        return lm(input_ids=ids).logits


# ----------------------------------------------------------------------------- reading


@pytest.mark.parametrize("tied", [False, True])
def test_values_that_are_not_quantised_come_back_to_the_bit(tied: bool, tmp_path: Path) -> None:
    folder = tiny.save_decoder(config(tie_word_embeddings=tied), tmp_path / "llama")
    lm, tokenizer = read_gguf(write(tmp_path / "tiny.gguf", folder))
    same = hf.AutoModelForCausalLM.from_pretrained(folder)
    assert lm.dtype == torch.float32
    assert lm.config.tie_word_embeddings == tied
    assert torch.equal(logits(lm, tokenizer), logits(same, tokenizer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [Types.F16, Types.BF16, Types.Q8_0, Types.Q4_1, Types.Q5_0])
def test_weights_are_those_that_transformers_reads(
    kind: Types, dtype: torch.dtype, folder: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "tiny.gguf", folder, kind)
    lm, _ = read_gguf(file, dtype=dtype)
    reference = hf.AutoModelForCausalLM.from_pretrained(
        tmp_path,
        gguf_file=file.name,
        dtype=dtype,
        quantization_config=hf.GgufConfig(dequantize=True),
    )
    ours, theirs = lm.state_dict(), reference.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == dtype
        assert torch.equal(value, theirs[name]), name
    assert not hasattr(lm.config, "quantization_config")


def test_quantised_weights_are_near_those_of_the_folder(file: Path, folder: Path) -> None:
    lm, tokenizer = read_gguf(file)
    original = hf.AutoModelForCausalLM.from_pretrained(folder)
    for name, value in original.state_dict().items():
        assert torch.allclose(lm.state_dict()[name], value, atol=0.01), name
    assert torch.allclose(logits(lm, tokenizer), logits(original, tokenizer), atol=0.3)


def test_the_tokenizer_is_the_one_that_transformers_makes(file: Path, folder: Path) -> None:
    ours: Any = read_gguf(file)[1]
    theirs = hf.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert ours.special_tokens_map == theirs.special_tokens_map
    original = hf.AutoTokenizer.from_pretrained(folder)
    texts = [*tiny.SENTENCES, " two  spaces", "Zürich, 12345 €", "<s> inside"]
    ids = ours(texts, add_special_tokens=False)["input_ids"]
    assert ids == original(texts, add_special_tokens=False)["input_ids"]
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (1, 2, 0)


def test_frequencies_of_the_rotary_embedding_are_kept(tmp_path: Path) -> None:
    """Llama 3.1 and later: GGUF holds the divisors of the frequencies, not their rule."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    folder = tiny.save_decoder(config(rope_parameters=rope), tmp_path / "llama")
    original = hf.AutoModelForCausalLM.from_pretrained(folder)
    plain = 10000.0 ** -(torch.arange(0, 8, 2) / 8)
    divisors = plain / original.model.rotary_emb.inv_freq

    def add(tensors: dict[str, np.ndarray], _: gguf.GGUFWriter) -> None:
        tensors["rope_freqs.weight"] = divisors.float().numpy()

    lm, tokenizer = read_gguf(write(tmp_path / "tiny.gguf", folder, change=add))
    assert divisors.max() > 2
    assert torch.allclose(logits(lm, tokenizer), logits(original, tokenizer), atol=1e-4)


def test_linear_scaling_is_kept(tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    folder = tiny.save_decoder(config(rope_parameters=rope), tmp_path / "llama")

    def add(_: dict[str, np.ndarray], writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    lm, tokenizer = read_gguf(write(tmp_path / "tiny.gguf", folder, change=add))
    original = hf.AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(lm, tokenizer), logits(original, tokenizer))


# ------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.02, 0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(share: float, file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    data = file.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"cut\.gguf"):
        TextDecoder.load(cut)


def test_another_file_by_that_name_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "model.gguf"
    other.write_text("<html>not found</html>" * 100)
    with pytest.raises(UserError, match="GGUF"):
        TextDecoder.load(other)
    with pytest.raises(UserError, match="the GGUF file of the decoder does not exist"):
        TextDecoder.load(tmp_path / "none.gguf")


def test_a_file_that_lacks_a_weight_is_refused(folder: Path, tmp_path: Path) -> None:
    def drop(tensors: dict[str, np.ndarray], _: gguf.GGUFWriter) -> None:
        del tensors["blk.1.ffn_up.weight"]

    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        read_gguf(write(tmp_path / "tiny.gguf", folder, change=drop))


def test_a_weight_of_another_shape_is_refused(folder: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray], _: gguf.GGUFWriter) -> None:
        tensors["blk.1.ffn_up.weight"] = np.zeros((32, 32), np.float32)

    with pytest.raises(UserError, match=r"tiny\.gguf cannot be read"):
        TextDecoder.load(write(tmp_path / "tiny.gguf", folder, change=change))


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_header_is_refused_or_harmless(seed: int, file: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    for _ in range(8):
        data = bytearray(file.read_bytes())
        data[random.integers(0, 900)] ^= 1 << random.integers(0, 8)
        damaged = tmp_path / "damaged.gguf"
        damaged.write_bytes(data)
        with contextlib.suppress(UserError):
            read_gguf(damaged)


def test_a_mixture_of_experts_is_refused(folder: Path, tmp_path: Path) -> None:
    def add(tensors: dict[str, np.ndarray], _: gguf.GGUFWriter) -> None:
        tensors["blk.0.ffn_gate_inp.weight"] = np.zeros((4, 32), np.float32)

    with pytest.raises(UserError, match="ffn_gate_inp"):
        read_gguf(write(tmp_path / "tiny.gguf", folder, change=add))


def test_a_scaling_that_is_not_known_is_refused(folder: Path, tmp_path: Path) -> None:
    def add(_: dict[str, np.ndarray], writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)

    with pytest.raises(UserError, match="yarn"):
        read_gguf(write(tmp_path / "tiny.gguf", folder, change=add))


def test_an_adapter_in_the_folder_of_a_file_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "qwen2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    with pytest.raises(UserError, match=r"is next to an adapter_config\.json"):
        read_gguf(tmp_path / "a.gguf")


def test_an_architecture_that_is_not_known_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "clip.gguf", "clip")
    writer.add_name("eyes")
    writer.add_tensor("v.weight", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="clip"):
        read_gguf(tmp_path / "clip.gguf")


# -------------------------------------------------------------------- in a whole model


def vae(decoder: Path | str, **settings: Any) -> LlaMaVAE:
    return LlaMaVAE.from_backbones(
        tiny.encoder(), decoder, latent_dim=4, slots=2, max_tokens=16, **settings
    )


@pytest.mark.parametrize("embed", [False, True])
def test_a_model_on_a_file_is_saved_and_loaded(embed: bool, file: Path, tmp_path: Path) -> None:
    model = vae(file, embed_backbones=embed)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert model.config.decoder_fingerprint == digest
    model.save_pretrained(tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "config.json").read_text())
    assert saved["decoder_name_or_path"] == ("decoder" if embed else str(file))
    again = LlaMaVAE.from_pretrained(tmp_path / "model")
    z = model.sample_codes(3, seed=0)
    assert again.decode(z) == model.decode(z)
    assert torch.equal(again.decoder.head.weight, model.decoder.head.weight)
    if embed:
        inside = tmp_path / "model" / "decoder"
        assert "quantization_config" not in json.loads((inside / "config.json").read_text())
        assert TextDecoder.load(inside).tokenize(tiny.SENTENCES) == model.decoder.tokenize(
            tiny.SENTENCES
        )


def test_another_file_in_its_place_is_refused(file: Path, folder: Path, tmp_path: Path) -> None:
    place = Path(shutil.copy(file, tmp_path / "decoder.gguf"))
    vae(place).save_pretrained(tmp_path / "model")
    before = hashlib.sha256(place.read_bytes()).hexdigest()
    write(place, folder, Types.Q4_1)
    after = hashlib.sha256(place.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=f"{before}.*{after}"):
        LlaMaVAE.from_pretrained(tmp_path / "model")
    with pytest.warns(UserWarning, match="has other weights"):
        named = LlaMaVAE.from_pretrained(tmp_path / "model", decoder=place)
    assert named.config.decoder_fingerprint == after
    place.unlink()
    with pytest.raises(UserError, match="does not exist"):
        LlaMaVAE.from_pretrained(tmp_path / "model")


def test_dtype_is_honoured_and_recorded(file: Path) -> None:
    decoder = TextDecoder.load(file, dtype="bfloat16")
    assert decoder.lm.dtype == torch.bfloat16
    assert vae(file, decoder_options={"dtype": "bfloat16"}).config.decoder_dtype == "bfloat16"


def test_a_name_of_the_catalogue_stays_a_name(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    only = (File(file.name, file.stat().st_size, digest),)
    known = Backbone("tiny", "", 0, "", "", only, "", None, "", "", file.name)
    monkeypatch.setitem(CATALOGUE, "tiny", known)
    with pytest.raises(MissingData, match="llamavae models get tiny"):
        vae("tiny")
    (tmp_path / "tiny").mkdir()
    shutil.copy(file, tmp_path / "tiny")
    monkeypatch.setenv("LLAMAVAE_MODELS", str(tmp_path))
    model = vae("tiny")
    assert model.config.decoder_name_or_path == "tiny"
    model.save_pretrained(tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()
    z = model.sample_codes(2, seed=0)
    assert LlaMaVAE.from_pretrained(tmp_path / "model").decode(z) == model.decode(z)
    monkeypatch.delenv("LLAMAVAE_MODELS")
    with pytest.raises(MissingData, match="llamavae models get tiny"):
        LlaMaVAE.from_pretrained(tmp_path / "model")
