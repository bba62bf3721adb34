"""An invertible CVAE as a folder: the flow, its settings and a model card, without the VAE."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from llamavae.errors import UserError, check_types
from llamavae.files import replacing_folder, write_text
from llamavae.flows import Flow, save_flow
from llamavae.guidance.card import model_card
from llamavae.guidance.conditions import Condition, load_condition
from llamavae.manifest import verify
from llamavae.modeling import LlaMaVAE
from llamavae.modeling.backbones import latent_fingerprint
from llamavae.parsing import read_json

FORMAT_VERSION = 1
CONFIG, FLOW, INVERSE = "config.json", "flow.safetensors", "inverse.safetensors"
WORDS, CARD = "vocabulary.txt", "README.md"
_TYPES = {
    "format_version": int,
    "vae": str,
    "vae_fingerprint": str,
    "condition": dict,
    "report": dict,
}


def save(
    folder: str | os.PathLike[str],
    vae: LlaMaVAE,
    condition: Condition,
    flow: Flow,
    vocabulary: Sequence[str],
    inverse: dict[str, Tensor] | None,
    report: Mapping[str, Any],
    half: bool,
) -> None:
    """Write the parts of a model, see `InvertibleCVAE.save_pretrained`."""
    settings = {
        "model_type": "invertible-cvae",
        "format_version": FORMAT_VERSION,
        "vae": vae.name_or_path,
        "vae_fingerprint": latent_fingerprint(vae),
        "condition": condition.settings(),
        "report": report,
    }
    texts = {
        CONFIG: json.dumps(settings, indent=2) + "\n",
        WORDS: "".join(f"{' '.join(word.split())}\n" for word in vocabulary),
        CARD: model_card(flow.settings, settings),
    }
    with replacing_folder(folder, own=[INVERSE]) as new:
        save_flow(flow, new / FLOW, half)
        if inverse is not None:
            save_file(inverse, new / INVERSE)
        for name, text in texts.items():
            write_text(new / name, text)


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the Invertible CVAE in `folder`.

    Raises:
        UserError: There is no model, or its settings are damaged or of a later version.
    """
    verify(folder)
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is not an invertible CVAE: it has no {CONFIG}")
    settings = read_json(path)
    kind = settings.get("model_type")
    if kind != "invertible-cvae":
        raise UserError(
            f"{folder} holds a model of type {kind!r:.40}, not an invertible CVAE. To fit one for "
            "a VAE: llamavae fit-condition"
        )
    check_types(settings, _TYPES, str(path))
    version = settings.get("format_version", FORMAT_VERSION)
    if version > FORMAT_VERSION:
        raise UserError(
            f"{folder} has format {version}; this version of llamavae reads up "
            f"to {FORMAT_VERSION}. Upgrade llamavae"
        )
    if missing := [key for key in _TYPES if key not in settings]:
        raise UserError(f"{path} is damaged: missing {', '.join(missing)}")
    if "name" not in settings["condition"]:
        raise UserError(f"{path} is damaged: its condition has no name")
    check_types(settings["condition"], {"name": str}, str(path))
    return settings


def load_vae(
    folder: Path,
    settings: Mapping[str, Any],
    vae: LlaMaVAE | str | os.PathLike[str] | None,
    **options: Any,
) -> LlaMaVAE:
    """The VAE of the model in `folder`: `vae`, or the recorded one.

    Raises:
        UserError: It does not exist, or is not the one that the model was fitted for.
    """
    if not isinstance(vae, LlaMaVAE):
        place = settings["vae"] if vae is None else vae
        if not os.fspath(place):
            raise UserError(
                f"{folder} was fitted for a VAE that was not saved. Pass it: "
                "from_pretrained(..., vae=VAE_OR_FOLDER), or --vae FOLDER"
            )
        if vae is None and Path(place).is_absolute() and not Path(place).is_dir():
            raise UserError(
                f"{folder} was fitted for the VAE in {place}, which does not exist. "
                "Pass its new location: from_pretrained(..., vae=FOLDER), or --vae FOLDER"
            )
        vae = LlaMaVAE.from_pretrained(place, **options)
    if latent_fingerprint(vae) != settings["vae_fingerprint"]:
        raise UserError(
            f"{folder} was fitted for the VAE {settings['vae']}; {vae.name_or_path} has other "
            "weights, so its latent codes differ. Use the original VAE in the dtype of the "
            "fit, or fit again with llamavae fit-condition"
        )
    return vae


def read_condition(
    folder: Path,
    settings: Mapping[str, Any],
    vae: LlaMaVAE,
    words: Collection[str] | None,
    **paths: str | os.PathLike[str] | None,
) -> Condition:
    """The condition of the model in `folder`, by `load_condition`.

    `paths` has the new path of each kind of condition, which is an error for other kinds.
    """
    kind = settings["condition"]["name"]
    path = paths.pop(kind, None)
    if useless := [name for name, place in paths.items() if place is not None]:
        raise UserError(
            f"the condition of {folder} is of the kind {kind}: it does not take "
            f"{' or '.join(useless)}"
        )
    return load_condition(settings["condition"], vae.encoder, path=path, words=words)


def read_fit(folder: Path) -> tuple[list[str], dict[str, Tensor] | None]:
    """What `InvertibleCVAE.fit` adds to a model beside its flow: the vocabulary and the inverse."""
    words, inverse = folder / WORDS, folder / INVERSE
    return (
        words.read_text(encoding="utf-8").splitlines() if words.is_file() else [],
        load_file(inverse) if inverse.is_file() else None,
    )
