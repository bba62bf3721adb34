from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tests import tiny

from llamavae import LlaMaVAE, LlaMaVAEConfig
from llamavae.errors import UserError
from llamavae.modeling import checkpoint
from llamavae.modeling.injection import Injection

POINTS = torch.randn(3, tiny.LATENT, generator=torch.Generator().manual_seed(5))
HARMLESS = {".safetensors", ".json", ".md", ".txt", ".model", ".jinja"}


def shaken(*args, **settings):
    """A model whose trained parts all differ from what its backbones hold."""
    torch.manual_seed(0)
    vae = tiny.vae(*args, **settings)
    with torch.no_grad():
        for parameter in vae.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return vae


def loss(vae):
    rows, _ = vae.decoder.tokenize(tiny.SENTENCES[:3])
    ids, mask = vae.decoder.pad(rows)
    h = vae.encoder.encode(tiny.SENTENCES[:3])
    with torch.no_grad():
        return vae(ids, mask, sentence_vectors=h, noise=torch.zeros(3, tiny.LATENT)).loss


def assert_alike(a, b):
    assert a.decode(POINTS) == b.decode(POINTS)
    assert torch.equal(a.encode(tiny.SENTENCES).mean, b.encode(tiny.SENTENCES).mean)
    assert torch.equal(loss(a), loss(b))


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "model"
    tiny.vae().save_pretrained(folder)
    return folder


# --------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2"])  # untied, tied, tied
@pytest.mark.parametrize("injection", Injection.NAMES)
def test_a_model_survives_its_checkpoint(injection, family, embed, tmp_path):
    vae = shaken(injection, family, embed_backbones=embed)
    vae.save_pretrained(tmp_path / "a")
    again = LlaMaVAE.from_pretrained(tmp_path / "a")
    assert_alike(vae, again)
    assert not any(part.training for part in again.modules())
    assert {Path(f).suffix for f in files(tmp_path / "a")} <= HARMLESS
    again.save_pretrained(tmp_path / "b")
    assert files(tmp_path / "b") == files(tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config == json.loads((tmp_path / "b" / "config.json").read_text())
    assert "_attn_implementation" not in json.dumps(config)


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("training", ["lora", "full"])
def test_trained_backbones_survive(training, family, embed, tmp_path):
    vae = shaken(
        "memory",
        family,
        decoder_training=training,
        encoder_training=training,
        embed_backbones=embed,
        lora_rank=2,
    )
    vae.save_pretrained(tmp_path)
    assert_alike(vae, LlaMaVAE.from_pretrained(tmp_path))


def test_an_embedded_lora_backbone_is_the_plain_one(tmp_path):
    settings = {"decoder_training": "lora", "encoder_training": "lora", "embed_backbones": True}
    vae = tiny.vae(**settings)  # fresh LoRA changes nothing
    vae.save_pretrained(tmp_path)
    plain = SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    original = SentenceTransformer(str(tiny.encoder()), device="cpu")
    expected = original.encode(tiny.SENTENCES)
    assert abs(plain.encode(tiny.SENTENCES) - expected).max() < 1e-5
    lm = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "decoder")
    ids = torch.arange(5, 15)[None]
    untouched = hf.AutoModelForCausalLM.from_pretrained(tiny.decoder())
    assert torch.equal(lm(ids).logits, untouched(ids).logits)


def whole(tmp_path):
    """A checkpoint whose backbones trained in full and are inside."""
    settings = {"decoder_training": "full", "encoder_training": "full", "encoder_pooling": "mean"}
    vae = shaken("memory", "llama", "bert", embed_backbones=True, **settings)
    vae.save_pretrained(tmp_path)
    return vae


def test_backbones_that_train_in_full_are_saved_once(tmp_path):
    vae = whole(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert names == {n for n in vae.trained_names if n.startswith(("posterior", "injection"))}
    again = LlaMaVAE.from_pretrained(tmp_path)
    assert_alike(vae, again)
    state = {name: 1.1 * value for name, value in vae.state_dict().items()}
    again.save_pretrained(tmp_path / "other", state_dict=state)
    again.load_state_dict(state)
    assert_alike(again, LlaMaVAE.from_pretrained(tmp_path / "other"))
    checkpoint.reload(again, tmp_path)
    assert_alike(vae, again)


@pytest.mark.parametrize("which", ["encoder", "decoder"])
def test_a_backbone_from_elsewhere_gets_the_trained_weights(which, tmp_path):
    vae = whole(tmp_path)
    elsewhere: dict[str, Any] = {"encoder": tiny.encoder("bert"), "decoder": tiny.decoder()}
    other = {which: elsewhere[which]}
    assert_alike(vae, LlaMaVAE.from_pretrained(tmp_path, **other))


@pytest.mark.parametrize("which", ["encoder", "decoder"])
def test_a_weight_that_a_backbone_lacks_is_an_error(which, tmp_path):
    whole(tmp_path)
    path = tmp_path / which / "model.safetensors"
    weights = load_file(path)
    lost = next(name for name in weights if "layer" in name)
    del weights[lost]
    save_file(weights, path, {"format": "pt"})
    tiny.unsealed(tmp_path)
    with pytest.raises(UserError, match=f"1 are missing, .*{lost}"):
        LlaMaVAE.from_pretrained(tmp_path)


@pytest.mark.parametrize("which", ["encoder", "decoder"])
def test_damaged_backbones(which, tmp_path):
    whole(tmp_path)
    path = tmp_path / which / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    tiny.unsealed(tmp_path)
    with pytest.raises(UserError, match=f"{which} does not hold a usable"):
        LlaMaVAE.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["bert-cls", "t5", "sentence-t5"])
@pytest.mark.parametrize("embed", [False, True])
def test_encoders_survive(kind, embed, tmp_path):
    vae = shaken("add", "llama", kind, embed_backbones=embed)
    vae.save_pretrained(tmp_path)
    assert_alike(vae, LlaMaVAE.from_pretrained(tmp_path))


@pytest.mark.parametrize("embed", [False, True])
def test_a_chosen_pooling_survives(embed, tmp_path):
    settings = {"encoder_pooling": "cls", "encoder_max_tokens": 7, "embed_backbones": embed}
    vae = shaken("add", "llama", "bert", **settings)
    vae.save_pretrained(tmp_path)
    again = LlaMaVAE.from_pretrained(tmp_path)
    assert_alike(vae, again)
    assert again.encoder is not None
    assert again.encoder.max_tokens == 7


def test_a_model_without_encoder_survives(tmp_path):
    vae = shaken("memory", "llama", None)
    vae.save_pretrained(tmp_path)
    again = LlaMaVAE.from_pretrained(tmp_path)
    assert again.encoder is None
    h = torch.randn(2, tiny.HIDDEN)
    assert torch.equal(again.encode(h).mean, vae.encode(h).mean)


def test_backbones_given_as_objects_travel_along(tmp_path):
    lm = hf.AutoModelForCausalLM.from_pretrained(tiny.decoder())
    encoder = SentenceTransformer(str(tiny.encoder()), device="cpu")
    vae = LlaMaVAE.from_backbones(encoder, lm, tokenizer=tiny.tokenizer(), latent_dim=tiny.LATENT)
    vae.save_pretrained(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert_alike(vae, LlaMaVAE.from_pretrained(tmp_path / "b"))
    shutil.rmtree(tmp_path / "b" / "encoder")
    with pytest.raises(UserError, match=r"encoder/.* is missing"):
        LlaMaVAE.from_pretrained(tmp_path / "b")


def test_a_checkpoint_can_be_moved(saved, tmp_path, monkeypatch):
    expected = LlaMaVAE.from_pretrained(saved).decode(POINTS)
    target = tmp_path / "elsewhere" / "model"
    target.parent.mkdir()
    saved.rename(target)
    monkeypatch.chdir(tmp_path)
    assert LlaMaVAE.from_pretrained("elsewhere/model").decode(POINTS) == expected


def test_the_folder_of_a_run_stands_for_its_model(tmp_path, monkeypatch):
    tiny.vae().save_pretrained(tmp_path / "run" / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for source in (tmp_path / "run", "~/run", "~/run/model"):
        assert LlaMaVAE.from_pretrained(source).name_or_path == str(tmp_path / "run" / "model")


def test_relative_backbones_are_found_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.decoder().parent)
    settings = {"encoder_dim": 4, "latent_dim": tiny.LATENT}
    vae = LlaMaVAE.from_backbones(None, "llama", tokenizer=None, decoder_options=None, **settings)
    vae.save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert LlaMaVAE.from_pretrained(tmp_path).decode(POINTS) == vae.decode(POINTS)


def test_weights_in_several_files(tmp_path):
    vae = shaken()
    vae.save_pretrained(tmp_path, max_shard_size="2KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_alike(vae, LlaMaVAE.from_pretrained(tmp_path))
    vae.save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.glob("model*")] == ["model.safetensors"]
    assert_alike(vae, LlaMaVAE.from_pretrained(tmp_path))


def test_only_what_trained_is_in_the_checkpoint(saved):
    names = set(load_file(saved / "model.safetensors"))
    assert names == set(tiny.vae().trained_names)
    assert files(saved) == ["README.md", "config.json", "manifest.json", "model.safetensors"]


def test_given_weights_are_saved_instead(tmp_path):
    vae, other = tiny.vae(), shaken()
    vae.save_pretrained(tmp_path, state_dict=other.state_dict())
    assert_alike(other, LlaMaVAE.from_pretrained(tmp_path))


def test_other_processes_write_nothing(tmp_path):
    tiny.vae().save_pretrained(tmp_path / "x", is_main_process=False)
    assert not (tmp_path / "x").exists()


# --------------------------------------------------------------------------- how it is loaded


@pytest.mark.parametrize("keyword", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", ["bfloat16", torch.bfloat16])
def test_dtype_is_that_of_the_decoder(saved, keyword, value):
    vae = LlaMaVAE.from_pretrained(saved, **{keyword: value})
    assert {p.dtype for p in vae.decoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in vae.posterior.parameters()} == {torch.float32}
    assert len(vae.decode(POINTS)) == 3


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_device_maps_are_taken(saved, device_map):
    vae = LlaMaVAE.from_pretrained(saved, device_map=device_map)
    assert vae.decode(POINTS) == LlaMaVAE.from_pretrained(saved).decode(POINTS)
    assert vae.encode("a dog").mean.shape == (1, tiny.LATENT)


def test_attention_kernels_are_chosen(saved):
    eager = LlaMaVAE.from_pretrained(saved, attn_implementation="eager")
    assert eager.decoder.lm.config._attn_implementation == "llamavae_eager"
    assert eager.decode(POINTS) == LlaMaVAE.from_pretrained(saved).decode(POINTS)


def test_options_that_users_of_transformers_know(saved):
    vae = LlaMaVAE.from_pretrained(
        str(saved), token=None, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=True
    )
    assert len(vae.decode(POINTS)) == 3
    with pytest.raises(UserError, match="with its own config"):
        LlaMaVAE.from_pretrained(saved, config=LlaMaVAEConfig(latent_dim=99))
    with pytest.raises(UserError, match="unheard_of"):
        LlaMaVAE.from_pretrained(saved, unheard_of=3)


# ------------------------------------------------------------------------- what can go wrong


def edit(folder, **changes):
    tiny.unsealed(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_missing_file_is_named(saved):
    (saved / "model.safetensors").unlink()
    tiny.unsealed(saved)
    with pytest.raises(UserError, match=r"is incomplete: model\.safetensors is missing"):
        LlaMaVAE.from_pretrained(saved)
    (saved / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        LlaMaVAE.from_pretrained(saved)


def test_a_missing_shard_is_named(tmp_path):
    tiny.vae().save_pretrained(tmp_path, max_shard_size="2KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    tiny.unsealed(tmp_path)
    with pytest.raises(UserError, match=f"{shard.name} is missing"):
        LlaMaVAE.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map"')
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        LlaMaVAE.from_pretrained(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 1000])
def test_damaged_weights(saved, keep):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    tiny.unsealed(saved)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        LlaMaVAE.from_pretrained(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "llam', r"config\.json is damaged"),
        ("[1, 2]", r"config\.json is damaged"),
        ('{"model_type": "llama"}', "holds a model of type 'llama'.*from_backbones"),
        (
            '{"model_type": "llamavae", "latent_dim": "six"}',
            "latent_dim must be of the type int; got 'six'",
        ),
        ('{"model_type": "llamavae", "injection": "memry"}', "Did you mean 'memory"),
    ],
)
def test_damaged_or_foreign_settings(saved, text, message):
    (saved / "config.json").write_text(text)
    tiny.unsealed(saved)
    with pytest.raises(UserError, match=message):
        LlaMaVAE.from_pretrained(saved)


def test_a_newer_format_asks_for_an_upgrade(saved):
    edit(saved, format_version=2)
    tiny.unsealed(saved)
    with pytest.raises(UserError, match="Upgrade llamavae"):
        LlaMaVAE.from_pretrained(saved)


def test_another_latent_size_names_the_weight(saved):
    edit(saved, latent_dim=7)
    tiny.unsealed(saved)
    with pytest.raises(UserError, match=r"weight .* has shape \(12, 32\); this model needs \(14,"):
        LlaMaVAE.from_pretrained(saved)


def test_other_injection_than_the_weights(saved):
    edit(saved, injection="soft_prompt")
    tiny.unsealed(saved)
    with pytest.raises(UserError, match=r"do not match its config\.json: \d+ missing"):
        LlaMaVAE.from_pretrained(saved)


def test_another_backbone_than_in_training(saved):
    with pytest.raises(UserError, match="expected a decoder with"):
        LlaMaVAE.from_pretrained(saved, decoder=tiny.decoder("qwen3"))
    with pytest.raises(UserError, match="vectors of size 32; got size 24"):
        LlaMaVAE.from_pretrained(saved, encoder=tiny.encoder("sentence-t5"))


def test_a_moved_backbone_says_how_to_go_on(tmp_path):
    backbone = shutil.copytree(tiny.decoder(), tmp_path / "decoder")
    vae = LlaMaVAE.from_backbones(tiny.encoder(), backbone, latent_dim=tiny.LATENT)
    vae.save_pretrained(tmp_path / "model")
    backbone.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"does not exist.*from_pretrained\(\.\.\., decoder=F"):
        LlaMaVAE.from_pretrained(tmp_path / "model")
    again = LlaMaVAE.from_pretrained(tmp_path / "model", decoder=tmp_path / "moved")
    assert_alike(vae, again)
    again.save_pretrained(tmp_path / "model")  # and the new place is remembered
    assert_alike(vae, LlaMaVAE.from_pretrained(tmp_path / "model"))


def test_names_that_lead_nowhere(saved):
    with pytest.raises(UserError, match=r"there is no folder .*Did you mean .*/model\?"):
        LlaMaVAE.from_pretrained(saved.parent / "modell")
    with pytest.raises(UserError, match="could not load the checkpoint 'somebody/nothing'"):
        LlaMaVAE.from_pretrained("somebody/nothing")


def test_a_failing_save_leaves_the_old_checkpoint(saved, monkeypatch):
    before = {name: (saved / name).read_bytes() for name in files(saved)}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_torch_state_dict", full)
    with pytest.raises(UserError, match=r"No space left on device. Free some disk space"):
        shaken().save_pretrained(saved)
    assert {name: (saved / name).read_bytes() for name in files(saved)} == before
    assert {p.name for p in saved.iterdir()} == set(before)


def test_a_save_that_is_killed_before_it_moves_anything_leaves_the_old_one(saved, monkeypatch):
    before = LlaMaVAE.from_pretrained(saved)

    def kill(*_):
        raise KeyboardInterrupt

    other = shaken()
    with monkeypatch.context() as patch:
        patch.setattr(type(saved), "rename", kill)
        with pytest.raises(KeyboardInterrupt):
            other.save_pretrained(saved)
    assert_alike(before, LlaMaVAE.from_pretrained(saved))


def test_other_files_in_the_folder_stay(saved):
    (saved / "notes.md").write_text("mine")
    tiny.vae().save_pretrained(saved)
    assert (saved / "notes.md").read_text() == "mine"


# ------------------------------------------------------------------------------------ the hub


def test_names_and_commits_of_hub_backbones_are_kept(saved, tmp_path):
    """A cache as the hub's client fills it; loading then needs no network."""
    commits = {"vae": "a" * 40, "encoder": "b" * 40, "decoder": "c" * 40}
    edit(
        saved,
        encoder_name_or_path="me/encoder",
        decoder_name_or_path="me/decoder",
        decoder_revision="main",
    )
    sources = {"vae": saved, "encoder": tiny.encoder(), "decoder": tiny.decoder()}
    for name, commit in commits.items():
        repo = tmp_path / "cache" / f"models--me--{name}"
        shutil.copytree(sources[name], repo / "snapshots" / commit)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(commit)
    vae = LlaMaVAE.from_pretrained("me/vae", cache_dir=tmp_path / "cache")
    assert vae.config.encoder_revision == commits["encoder"]
    assert vae.config.decoder_revision == commits["decoder"]
    vae.save_pretrained(saved)
    (tmp_path / "cache" / "models--me--decoder" / "refs" / "main").unlink()  # the commit suffices
    again = LlaMaVAE.from_pretrained(saved, cache_dir=tmp_path / "cache")
    assert_alike(vae, again)


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("route", ["push_to_hub", "save_pretrained"])
def test_the_whole_checkpoint_is_uploaded(route, embed, tmp_path, monkeypatch):
    seen = {}

    class Api:
        def __init__(self, token=None):
            seen["token"] = token

        def create_repo(self, repo_id, private, exist_ok):
            seen["private"] = private
            return type("Repo", (), {"repo_id": f"me/{repo_id}"})()

        def upload_folder(self, repo_id, folder_path, ignore_patterns, **options):
            shutil.copytree(folder_path, tmp_path / "hub")
            seen.update(options, repo=repo_id)
            return "https://hub/commit/1"

    monkeypatch.setattr(checkpoint, "HfApi", Api)
    vae = shaken(embed_backbones=embed)
    options = {"private": True, "token": "t", "commit_message": "first"}
    if route == "push_to_hub":
        assert vae.push_to_hub("poems", **options) == "https://hub/commit/1"
    else:
        vae.save_pretrained(tmp_path / "poems", push_to_hub=True, **options)
    expected = {"token": "t", "private": True, "repo": "me/poems", "commit_message": "first"}
    assert seen == expected
    monkeypatch.setattr(checkpoint, "snapshot_download", lambda *_, **__: str(tmp_path / "hub"))
    assert_alike(vae, LlaMaVAE.from_pretrained("me/poems"))
    vae.save_pretrained(tmp_path / "local")
    assert files(tmp_path / "hub") == files(tmp_path / "local")


def test_a_refused_upload_says_what_to_do(monkeypatch):
    def refuse(*_, **__):
        raise OSError("401 Unauthorized")

    monkeypatch.setattr(checkpoint.HfApi, "create_repo", refuse)
    with pytest.raises(UserError, match=r"could not upload .* 401 Unauthorized.*hf auth login"):
        tiny.vae().push_to_hub("poems")


def test_the_model_card_travels_with_the_checkpoint(saved, tmp_path):
    model = LlaMaVAE.from_pretrained(saved)
    model.card = "# A card\n"
    model.save_pretrained(tmp_path / "one")
    LlaMaVAE.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    assert (tmp_path / "two" / "README.md").read_text(encoding="utf-8") == "# A card\n"


def test_embedded_backbones_leave_no_trace_of_their_folders(tmp_path):
    tiny.vae(embed_backbones=True).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    assert str(tiny.decoder().parent) not in text
    assert str(tiny.encoder().parent) not in text
    again = LlaMaVAE.from_pretrained(tmp_path)
    assert again.config.embed_backbones
    again.save_pretrained(tmp_path / "again")
    assert_alike(again, LlaMaVAE.from_pretrained(tmp_path / "again"))


def test_weights_that_would_be_lost_are_refused(tmp_path):
    model = tiny.vae()
    model.decoder.lm.requires_grad_(True)
    with pytest.raises(UserError, match="Set decoder_training"):
        model.save_pretrained(tmp_path)


def test_a_decoder_comes_back_in_the_type_it_was_trained_in(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    model = LlaMaVAE.from_backbones(
        tiny.encoder(), tiny.decoder(), latent_dim=4, decoder_options={"dtype": "bfloat16"}
    )
    model.save_pretrained(tmp_path)
    assert LlaMaVAE.from_pretrained(tmp_path).decoder.lm.dtype == torch.bfloat16
    assert LlaMaVAE.from_pretrained(tmp_path, dtype="float32").decoder.lm.dtype == torch.float32


def test_a_loaded_encoder_with_lora_finds_its_vectors_in_the_cache(tmp_path):
    tiny.vae(encoder_training="lora", encoder_pooling="mean").save_pretrained(tmp_path)
    first, second = (LlaMaVAE.from_pretrained(tmp_path).encoder for _ in range(2))
    assert first is not None
    assert second is not None
    assert not [n for n, _ in first.named_parameters() if "pooler" in n and "lora" in n]
    assert first.cache_key() == second.cache_key()


def test_a_cpu_without_bfloat16_loads_float32_unless_asked(tmp_path, monkeypatch):
    tiny.vae(decoder_options={"dtype": "bfloat16"}).save_pretrained(tmp_path)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert LlaMaVAE.from_pretrained(tmp_path).decoder.lm.dtype == torch.float32
    asked = LlaMaVAE.from_pretrained(tmp_path, dtype="bfloat16")
    assert asked.decoder.lm.dtype == torch.bfloat16
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert LlaMaVAE.from_pretrained(tmp_path).decoder.lm.dtype == torch.bfloat16


def test_transformers_knows_the_model_by_its_type(saved):
    assert hf.AutoConfig.from_pretrained(saved).latent_dim == tiny.LATENT
    assert_alike(hf.AutoModel.from_pretrained(saved), LlaMaVAE.from_pretrained(saved))


def test_the_config_is_built_once(tmp_path):
    """The config of the caller does not change; the model's names the files that were read."""
    own = shaken(embed_backbones=True)
    config = own.config.changed(embed_backbones=False, attention_shapes=[])
    before = config.to_dict()
    assert config.changed(latent_dim=9).latent_dim == 9
    model = LlaMaVAE(config, own.decoder, own.encoder)
    assert config.to_dict() == before
    assert model.config.attention_shapes
    own.save_pretrained(tmp_path / "first")
    saved = json.loads((tmp_path / "first" / "config.json").read_text())
    names = {f"{which}_name_or_path": which for which in ("encoder", "decoder")}
    assert {key: saved[key] for key in names} == names
    loaded = LlaMaVAE.from_pretrained(tmp_path / "first")
    assert loaded.config.encoder_name_or_path == str(tmp_path / "first" / "encoder")
    loaded.save_pretrained(tmp_path / "second")
    again = json.loads((tmp_path / "second" / "config.json").read_text())
    assert {key: again[key] for key in names} == names


def test_an_encoder_without_a_name_is_in_the_checkpoint(tmp_path):
    model = shaken()
    config = model.config.changed(encoder_name_or_path=None)
    model = LlaMaVAE(config, model.decoder, model.encoder)
    assert model.config.embed_backbones
    model.save_pretrained(tmp_path)
    assert LlaMaVAE.from_pretrained(tmp_path).encoder is not None
