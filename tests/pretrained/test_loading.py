"""Hostile models: nothing runs code, unpickles, leaves its folder, or asks a person or the hub."""

from __future__ import annotations

import builtins
import json
import os
import pickle  # noqa: TID251 to attack with
import re
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tests import tiny

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.metrics.semantic import load_bleurt, load_encoder
from llamavae.modeling import TextDecoder
from llamavae.modeling.gguf import read_gguf
from llamavae.modeling.loading import load_sentence_encoder
from llamavae.pretrained.loading import check_config, hub_errors, model_folder

Load = Callable[[Any], Any]
DECODER: Load = TextDecoder.load
ENCODERS: list[Load] = [
    load_sentence_encoder,
    lambda folder: load_sentence_encoder(folder, pooling="mean"),
    load_encoder,
    load_bleurt,
]
LOADERS = [DECODER, *ENCODERS]
NAMES = ["decoder", "sentence-transformers", "pooling", "metric", "bleurt"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No question to a person and none to the network, with the hub switched on."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("asked a person or the network")

    monkeypatch.setattr(builtins, "input", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def copied(load: Load, tmp_path: Path) -> Path:
    """A copy of a tiny model that `load` can load."""
    source = tiny.decoder() if load is DECODER else tiny.encoder("bert")
    return Path(shutil.copytree(source, tmp_path / "model"))


def change(file: Path, **values: Any) -> None:
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(old | values))


class Bomb:
    """A pickle that creates a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


# --------------------------------------------------------------------------------- code


def with_code(folder: Path, marker: Path, file: str, **values: Any) -> None:
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    change(folder / file, **values)


@pytest.mark.parametrize("load", LOADERS, ids=NAMES)
def test_code_of_a_config_is_refused(load: Load, tmp_path: Path) -> None:
    folder = copied(load, tmp_path)
    names = "AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"
    code = dict.fromkeys(names, "evil.Model")
    with_code(folder, tmp_path / "ran", "config.json", model_type="evil", auto_map=code)
    with pytest.raises(UserError, match="Python code of its own, which is never run"):
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("load", LOADERS[:-1], ids=NAMES[:-1])
def test_a_known_architecture_is_loaded_without_the_code_beside_it(
    load: Load, tmp_path: Path
) -> None:
    folder = copied(load, tmp_path)
    names = "AutoConfig", "AutoModel", "AutoModelForCausalLM"
    with_code(folder, tmp_path / "ran", "config.json", auto_map=dict.fromkeys(names, "evil.Model"))
    with_code(
        folder,
        tmp_path / "ran",
        "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]},
    )
    load(folder)
    assert not (tmp_path / "ran").exists()


def test_code_of_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    folder = copied(DECODER, tmp_path)
    with_code(
        folder,
        tmp_path / "ran",
        "tokenizer_config.json",
        tokenizer_class="EvilTokenizer",
        auto_map={"AutoTokenizer": [None, "evil.EvilTokenizer"]},
    )
    with suppress(UserError):
        DECODER(folder)
    assert not (tmp_path / "ran").exists()


def test_trust_remote_code_cannot_be_switched_on(tmp_path: Path) -> None:
    folder = copied(DECODER, tmp_path)
    code = {"AutoConfig": "evil.Model", "AutoModelForCausalLM": "evil.Model"}
    with_code(folder, tmp_path / "ran", "config.json", model_type="evil", auto_map=code)
    with pytest.raises(UserError, match="never run"):
        TextDecoder.load(folder, trust_remote_code=True)
    assert not (tmp_path / "ran").exists()


def sentence_transformer(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.encoder("sentence-t5"), tmp_path / "model"))


@pytest.mark.parametrize(
    "kind", ["evil.Model", "os.system", "sentence_transformers.util.misc.import_from_string"]
)
def test_a_module_that_is_not_of_sentence_transformers_is_refused(
    kind: str, tmp_path: Path
) -> None:
    folder = sentence_transformer(tmp_path)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = kind
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    with pytest.raises(UserError):
        load_sentence_encoder(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["trust_remote_code", "weights_only", "use_kernels"])
def test_arguments_of_from_pretrained_in_a_module_are_refused(name: str, tmp_path: Path) -> None:
    folder = sentence_transformer(tmp_path)
    change(folder / "sentence_bert_config.json", model_args={name: True})
    with pytest.raises(UserError, match=f"{name} in model_args, which can run code"):
        load_sentence_encoder(folder)


def test_an_activation_function_is_one_of_torch(tmp_path: Path) -> None:
    folder = sentence_transformer(tmp_path)
    (dense,) = folder.glob("*_Dense/config.json")
    change(dense, activation_function="os.abort")
    with pytest.raises(UserError, match=r"activation_function = 'os\.abort', which can run"):
        load_sentence_encoder(folder)


# ------------------------------------------------------------------------------ kernels


@pytest.mark.parametrize(
    "values",
    [
        {"attn_implementation": "owner/kernel"},
        {"_attn_implementation": "paged|owner/kernel@main:name"},
        {"_attn_implementation_internal": "owner/kernel"},
        {"attn_implementation": {"": "eager", "text_config": "owner/kernel"}},
        {"experts_implementation": "owner/kernel"},
        {"text_config": {"nested": [{"_attn_implementation": "owner/kernel"}]}},
    ],
    ids=str,
)
def test_a_kernel_in_a_config_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    for number, load in enumerate(LOADERS):
        folder = copied(load, tmp_path / str(number))
        change(folder / "config.json", **values)
        with pytest.raises(UserError, match=r"config\.json sets .*implementation.*owner/kernel"):
            load(folder)


def test_a_kernel_in_the_config_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    tiny.vae().save_pretrained(tmp_path)
    change(tiny.unsealed(tmp_path) / "config.json", attn_implementation="owner/kernel")
    with pytest.raises(UserError, match="owner/kernel"):
        LlaMaVAE.from_pretrained(tmp_path)


# ------------------------------------------------------------------------------ pickles


@pytest.mark.parametrize("load", LOADERS, ids=NAMES)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00001.bin"])
def test_pickled_weights_are_refused(load: Load, name: str, tmp_path: Path) -> None:
    folder = copied(load, tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(UserError, match=r"the only format that is read.*Convert them"):
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float7"}, "unknown dtype 'float7'. Did you mean 'float"),
        ({"dtype": 3}, "unknown dtype '3'"),
        ({"dtype": torch.int8}, "unknown dtype 'int8'"),
        ({"device_map": "gpu"}, "unknown device 'gpu': expected cpu"),
        ({"device_map": "xpu:7"}, "device 'xpu:7' is not available"),
        ({"attn_implementation": "fast"}, "not one for the options attn_implementation"),
    ],
)
def test_wrong_options_are_not_blamed_on_the_folder(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LlaMaVAE.from_pretrained("mini", **options)


def test_pickled_weights_of_a_module_are_refused(tmp_path: Path) -> None:
    folder = sentence_transformer(tmp_path)
    (weights,) = folder.glob("*_Dense/model.safetensors")
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))  # noqa: TID251
    load_sentence_encoder(folder)  # the safetensors file beside it is read
    weights.unlink()
    with pytest.raises(UserError, match="the only format that is read"):
        load_sentence_encoder(folder)


def test_a_pickle_by_the_name_of_a_safetensors_file_is_refused(tmp_path: Path) -> None:
    folder = copied(DECODER, tmp_path)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(UserError):
        DECODER(folder)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_by_the_name_of_a_gguf_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(UserError, match="cannot be read as the GGUF file"):
        read_gguf(file)
    assert not (tmp_path / "ran").exists()


def test_no_module_unpickles_or_trusts_code() -> None:
    source = Path(__file__).parents[2] / "src"
    text = {path: path.read_text(encoding="utf-8") for path in source.rglob("*.py")}
    unsafe = (
        r"torch\.load\(|^\s*(import|from) (pickle|joblib|dill|cloudpickle|marshal|shelve)\b"
        r"|allow_pickle\s*=\s*True|yaml\.(load|unsafe_load|full_load)\("
        r"|trust_remote_code[\"']?\s*[=:]\s*True|\beval\(|\bexec\("
    )
    found = [
        f"{path}: {match[0]}"
        for path, lines in text.items()
        for match in re.finditer(unsafe, lines, re.MULTILINE)
        if ".eval(" not in lines[match.start() - 1 : match.end()]
    ]
    assert not found


# ----------------------------------------------------------------------- other folders


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/tmp/secret.safetensors", "a\\b.safetensors", "x.bin", 3]
)
def test_an_index_that_names_another_folder_or_a_pickle_is_refused(
    name: Any, tmp_path: Path
) -> None:
    for number, load in enumerate(LOADERS):
        folder = copied(load, tmp_path / str(number))
        weights = folder / "model.safetensors"
        save_file(load_file(weights), folder.parent / "secret.safetensors", {"format": "pt"})
        index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(weights), name)}
        change(folder / "model.safetensors.index.json", **index)
        with pytest.raises(UserError, match="expected names of safetensors files in its own"):
            load(folder)


def test_an_index_of_a_checkpoint_that_names_another_folder_is_refused(tmp_path: Path) -> None:
    tiny.vae().save_pretrained(tmp_path / "model")
    weights = tiny.unsealed(tmp_path / "model") / "model.safetensors"
    index = {"weight_map": dict.fromkeys(load_file(weights), "../model.safetensors")}
    weights.rename(tmp_path / "model.safetensors")
    change(tmp_path / "model" / "model.safetensors.index.json", **index)
    with pytest.raises(UserError, match="expected names of safetensors files in its own"):
        LlaMaVAE.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("load", LOADERS, ids=NAMES)
def test_an_adapter_does_not_load_another_model(load: Load, tmp_path: Path) -> None:
    folder = copied(load, tmp_path)
    change(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="owner/base")
    with pytest.raises(UserError, match="holds an adapter"):
        load(folder)


def test_links_to_other_folders_are_followed(tmp_path: Path) -> None:
    """The hub's own cache consists of links; what a link reads stays on the machine."""
    folder = copied(DECODER, tmp_path)
    weights = folder / "model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    DECODER(folder)


# ------------------------------------------------------------------------- the network


@pytest.mark.parametrize(
    ("load", "lost"),
    [
        (load, lost)
        for load in LOADERS
        for lost in ("config.json", "model.safetensors", "tokenizer.json")
    ],
)
def test_a_missing_part_of_a_folder_is_an_error(load: Load, lost: str, tmp_path: Path) -> None:
    folder = copied(load, tmp_path)
    (folder / lost).unlink()
    with pytest.raises(UserError):
        load(folder)


def test_a_complete_folder_is_loaded_without_the_network(tmp_path: Path) -> None:
    tiny.vae(embed_backbones=True).save_pretrained(tmp_path / "model")
    LlaMaVAE.from_pretrained(tmp_path / "model")
    for load in LOADERS[:-1]:
        load(tiny.decoder() if load is DECODER else tiny.encoder("bert"))


@pytest.mark.parametrize("load", LOADERS, ids=NAMES)
@pytest.mark.parametrize("offline", [True, False])
def test_an_absent_model_fails_at_once_without_a_network(
    load: Load, offline: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(UserError, match="owner/absent"):
        load("owner/absent")
    assert time.perf_counter() - start < 2


def test_a_model_in_the_cache_of_the_hub_is_checked_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0" * 40
    saved = tmp_path / "models--owner--name"
    (saved / "refs").mkdir(parents=True)
    (saved / "refs" / "main").write_text(commit)
    folder = saved / "snapshots" / commit
    shutil.copytree(tiny.decoder(), folder)
    assert model_folder("owner/name", cache_dir=str(tmp_path)) == str(folder)
    TextDecoder.load("owner/name", cache_dir=str(tmp_path))
    change(folder / "config.json", attn_implementation="owner/kernel")
    with pytest.raises(UserError, match="owner/kernel"):
        TextDecoder.load("owner/name", cache_dir=str(tmp_path))


def test_the_example_of_the_guide_converts_a_pickle(tmp_path: Path) -> None:
    """The snippet of docs/explanation/security.md gives a folder that loads."""
    folder = copied(DECODER, tmp_path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")  # noqa: TID251
    guide = Path(__file__).parents[2] / "docs" / "explanation" / "security.md"
    (code,) = re.findall(r"```python\n(.+?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    exec(code.replace('"FOLDER"', repr(str(folder))))
    assert isinstance(TextDecoder.load(folder).lm, hf.LlamaForCausalLM)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "5"),
        ("config.json", "null"),
        ("config.json", "[]"),
        ("config.json", "[" * 9999),
        ("modules.json", "{}"),
        ("modules.json", "[5]"),
    ],
)
def test_settings_of_another_form(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        check_config(tmp_path / name)


def test_messages_of_other_libraries_are_cut(tmp_path):
    with pytest.raises(UserError) as caught, hub_errors("decoder", str(tmp_path)):
        raise ValueError("unknown class\n" + 500 * "AConfig, ")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["nosuch", "x/y"])
def test_an_absent_model_offline(source, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="there is no such folder or downloaded") as caught:
        LlaMaVAE.from_pretrained(source)
    assert len(str(caught.value)) < 300
    assert "outgoing traffic" not in str(caught.value)


@pytest.mark.parametrize("name", ["minii", "all-minilm-l6-v", "mini-definition"])
def test_a_mistyped_name_is_corrected(name, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=f"Did you mean '{name[:4]}"):
        LlaMaVAE.from_pretrained(name)


def test_a_file_and_a_bundled_model_are_not_said_to_be_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "texts.txt").write_text("a text")
    with pytest.raises(UserError, match=r"texts\.txt is a file; expected the folder"):
        LlaMaVAE.from_pretrained(tmp_path / "texts.txt")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"model\.gguf is a file; .*hub id of a sentence encoder"):
        load_sentence_encoder(tmp_path / "model.gguf")
    with pytest.raises(UserError, match="'mini' cannot be used as a sentence encoder"):
        load_sentence_encoder("mini")


def test_a_source_that_is_no_hub_id():
    with pytest.raises(UserError, match=r"there is no folder my model/z"):
        LlaMaVAE.from_pretrained("my model/z")
