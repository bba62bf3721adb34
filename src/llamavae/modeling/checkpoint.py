"""Checkpoints: `config.json`, `model.safetensors`, and optionally `prior/` and backbones.

`model.safetensors` holds the trained weights. A backbone is referenced by id and revision in
`config.json`, or, with `embed_backbones`, saved in `encoder/` or `decoder/` in the format of its
library. The weights of a saved backbone that trains in full are only there. `prior/` is the default
prior.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import HfApi, save_torch_state_dict, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from llamavae.errors import UserError, check_path
from llamavae.files import write_text
from llamavae.modeling.backbones import fingerprint, latent_fingerprint, save_plain, tensors_of
from llamavae.modeling.configuration import LlaMaVAEConfig
from llamavae.modeling.loading import absolute
from llamavae.modeling.prior import DEFAULT, Prior, read_prior_folder
from llamavae.modeling.quantisation import from_int8, to_int8
from llamavae.modeling.sharding import gather
from llamavae.modeling.transformers_encoder import TransformersEncoder
from llamavae.parsing import read_json
from llamavae.pretrained import CATALOGUE, bundled, resolve
from llamavae.pretrained.loading import PARTS, check_config, hub_errors, load_whole, shard_names

if TYPE_CHECKING:
    from llamavae.modeling.base import SentenceVAE

CARD = "README.md"
_EXPECTED = "the folder, hub id or name of a model"
OWN = ["model*.safetensors*", DEFAULT]
"""Patterns of names in a checkpoint that a new one replaces."""


# ------------------------------------------------------------------------------- reading


def model_of_run(source: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The folder of the model of a run; any other folder, and a name or hub id, is unchanged.

    Args:
        source: Folder of a run or of a checkpoint (`~` is expanded), name or hub id.
    """
    folder = check_path(source, _EXPECTED).expanduser()
    if not (folder / "config.json").exists() and (folder / "model" / "config.json").exists():
        folder = folder / "model"
    return folder if folder.is_dir() else source


def fetch(source: str | os.PathLike[str], revision: str | None = None, **hub: Any) -> Path:
    """The folder of a checkpoint: `source`, a bundled checkpoint, or a download."""
    folder = check_path(source, _EXPECTED)
    inside = bundled(os.fspath(source))
    if inside and not (folder / "config.json").is_file():
        return inside
    if folder.is_dir():
        return folder
    if source in CATALOGUE:
        raise UserError(
            f"{source} is a backbone, not a LlaMaVAE. To build one on it use "
            "LlaMaVAE.from_backbones(encoder, decoder), or a recipe"
        )
    with hub_errors("checkpoint", os.fspath(source)):
        return Path(
            snapshot_download(
                os.fspath(source),
                revision=revision,
                **hub,
                allow_patterns=[CARD, *PARTS],
            )
        )


def read_config(folder: Path) -> LlaMaVAEConfig:
    """The settings of the checkpoint in `folder`.

    Raises:
        UserError: There is no `config.json`, or it is not one of a LlaMaVAE.
    """
    path = folder / "config.json"
    if not path.is_file():
        inside = ", ".join(sorted(p.name for p in folder.iterdir())[:12]) or "nothing"
        raise UserError(f"{folder} is not a checkpoint: it has no config.json (found: {inside})")
    values = read_json(path)
    check_config(path)
    kind = values.get("model_type")
    if kind != LlaMaVAEConfig.model_type:
        advice = "To build a VAE on it use LlaMaVAE.from_backbones(encoder, decoder)"
        if kind == "invertible-cvae":
            advice = "Load it with InvertibleCVAE.from_pretrained; commands: define, guide, reverse"
        raise UserError(f"{folder} holds a model of type {kind!r:.40}, not a LlaMaVAE. {advice}")
    try:
        return LlaMaVAEConfig.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # of transformers, which checks its own settings in several ways
        message = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} has a value that cannot be used: {message}. Copy the checkpoint again"
        ) from error


def read_prior(model: SentenceVAE, folder: Path) -> Prior | None:
    """The default prior of the checkpoint in `folder`, which `model` was loaded from.

    A prior that was fitted for other weights is ignored with a warning.

    Raises:
        UserError: The prior is damaged.
    """
    prior = read_prior_folder(folder / DEFAULT) if (folder / DEFAULT).is_dir() else None
    if prior is None or prior.fits(model):
        return prior
    warnings.warn(
        f"{folder / DEFAULT} was fitted for other weights than those of {folder}. Samples are "
        "drawn from N(0, I). Fit the prior again with llamavae fit-prior --overwrite",
        stacklevel=3,
    )
    return None


def located(
    folder: Path, config: LlaMaVAEConfig, others: Mapping[str, str | os.PathLike[str]]
) -> LlaMaVAEConfig:
    """The settings in `folder` with the places of the backbones on this machine.

    Args:
        folder: The checkpoint.
        config: Its settings as they are saved.
        others: `encoder` or `decoder` -> the place it is loaded from instead.
    """
    places: dict[str, Any] = {}
    for which in ("encoder", "decoder"):
        key = f"{which}_name_or_path"
        if which in others:
            places |= {key: absolute(others[which]), f"{which}_revision": None}
            if which == "decoder":
                places["decoder_fingerprint"] = None
        elif config.embed_backbones and getattr(config, key) == which:
            places[key] = absolute(folder / which)
    return config.changed(**places)


def compare_backbones(
    saved: LlaMaVAEConfig, loaded: LlaMaVAEConfig, others: Collection[str]
) -> None:
    """Check that the frozen weights of the loaded backbones are those of the saved ones.

    A decoder that is loaded in float16 is not compared unless it was saved so, since the hash
    allows only for the other types.

    Args:
        saved: The settings of the checkpoint as they are saved.
        loaded: Those of the loaded model.
        others: `encoder` or `decoder`, where the caller gives another place to load it from.

    Raises:
        UserError: A backbone that the checkpoint names has other weights than it had. For one that
            the caller gives, this is a warning.
    """
    types = {saved.decoder_dtype, loaded.decoder_dtype}
    for which in ("encoder", "decoder"):
        before, now = (getattr(config, f"{which}_hash") for config in (saved, loaded))
        half = which == "decoder" and len(types) == 2 and "float16" in types
        if before is None or now is None or before == now or half:
            continue
        place = getattr(loaded, f"{which}_name_or_path")
        text = f"the {which} in {place} has other weights than the one this model was trained with"
        if which not in others:
            raise UserError(
                f"{text}. Restore the original, or, to use this one anyway, pass it: "
                f"from_pretrained(..., {which}={place!r})"
            )
        warnings.warn(f"{text}: texts and latent codes will not match", stacklevel=3)


def backbone(folder: Path, config: LlaMaVAEConfig, which: str) -> str | None:
    """Where the encoder or decoder of the checkpoint in `folder` is loaded from.

    Raises:
        UserError: The backbone is missing in the checkpoint, in the folder or file it names, or on
            the hub.
    """
    inside = folder / which
    name: str | None = getattr(config, f"{which}_name_or_path")
    if config.embed_backbones and (which == "decoder" or name is not None):
        if not inside.is_dir():
            raise UserError(
                f"the checkpoint {folder} is incomplete: its folder {which}/ is missing"
            )
        return str(inside)
    if name is not None and Path(name).is_absolute() and not Path(name).exists():
        raise UserError(
            f"the checkpoint {folder} uses the {which} in {name}, which does not exist. "
            f"Pass its new location: from_pretrained(..., {which}=FOLDER_OR_FILE)"
        )
    if name is not None:  # an error then names the model
        resolve(name, folder.name if bundled(folder.name) == folder else None)
    return name


def trained_fingerprint(model: SentenceVAE) -> str:
    """A hash of the weights that trained, those of backbones among them (hex, 32 digits)."""
    tensors = tensors_of(model)
    return fingerprint({name: tensors[name] for name in model.trained_names})


def _whole_backbones(model: SentenceVAE) -> dict[str, PreTrainedModel]:
    """Backbones that train in full, by the prefix of their weights' names; each has its folder."""
    found: dict[str, PreTrainedModel] = {}
    if model.config.embed_backbones:
        if model.decoder.training_mode == "full":
            found["decoder.lm."] = model.decoder.lm
        if isinstance(model.encoder, TransformersEncoder) and model.encoder.training_mode == "full":
            found["encoder.model."] = model.encoder.model
    return found


def reload(
    model: SentenceVAE, folder: Path, backbones: Collection[str] = ("encoder", "decoder")
) -> None:
    """Reload the weights of a model from its checkpoint in `folder`.

    Args:
        model: The model.
        folder: The checkpoint.
        backbones: Backbones to reload, if they train in full and have their own folder.

    Raises:
        UserError: A file or weight is missing, unexpected or of another shape.
    """
    for prefix, own in _whole_backbones(model).items():
        name = prefix.partition(".")[0]
        if name in backbones:
            with hub_errors(name, str(folder / name)):
                saved = load_whole(type(own), folder / name, dtype=own.dtype)
                own.load_state_dict(saved.state_dict())
    _load_trained(model, folder)


def _load_trained(model: SentenceVAE, folder: Path) -> None:
    """Copy the trained weights of `model.safetensors` in `folder` into `model`.

    Raises:
        UserError: A weight is missing, unexpected or of another shape.
    """
    index = folder / "model.safetensors.index.json"
    files = {"model.safetensors"}
    if index.is_file():
        files = shard_names(index)
    weights: dict[str, Tensor] = {}
    for name in sorted(files):
        path = folder / name
        if not path.is_file():
            raise UserError(f"the checkpoint {folder} is incomplete: {name} is missing")
        try:
            weights.update(load_file(path))
        except SafetensorError as error:
            raise UserError(
                f"{path} is damaged: {error}. Save or copy the checkpoint again"
            ) from error
    weights = from_int8(weights)
    tensors = tensors_of(model)
    beside = tuple(_whole_backbones(model))
    needed = {name for name in model.trained_names if not name.startswith(beside)}
    missing, extra = sorted(needed - set(weights)), sorted(set(weights) - set(model.trained_names))
    if missing or extra:
        raise UserError(
            f"the weights in {folder} do not match its config.json: {len(missing)} missing"
            f" {missing[:3]}, {len(extra)} unexpected {extra[:3]}"
        )
    with torch.no_grad():
        for name in (n for n in model.trained_names if n in weights):
            if tensors[name].shape != weights[name].shape:
                raise UserError(
                    f"weight {name} in {folder} has shape {tuple(weights[name].shape)}; this model "
                    f"needs {tuple(tensors[name].shape)}. Either its config.json was changed, "
                    "or the encoder or decoder is not the one it was trained with"
                )
            tensors[name].copy_(weights[name])


# ------------------------------------------------------------------------------- writing


def frozen_state(model: SentenceVAE, keep: bool = True) -> dict[str, Tensor]:
    """The weights that `write` needs of a decoder that is distributed over processes.

    All processes must call it.

    Args:
        model: The model.
        keep: Whether this process writes; otherwise its result is empty.
    """
    if not model.config.embed_backbones:
        return {}
    return gather(model.decoder, keep, "decoder.")


def write(
    model: SentenceVAE,
    folder: Path,
    state: dict[str, Tensor] | None = None,
    max_shard_size: int | str = "50GB",
    int8: bool = False,
) -> None:
    """Write the checkpoint into a new folder.

    Args:
        model: The model.
        folder: The folder.
        state: Weights by name that replace those of the model.
        max_shard_size: Maximum size of one weight file.
        int8: See `LlaMaVAE.save_pretrained`.
    """
    parameters = dict(model.named_parameters())
    named = set(model.trained_names)
    lost = [n for n, p in parameters.items() if p.requires_grad and n not in named]
    if lost:
        raise UserError(
            f"{len(lost)} trainable weights would not be saved in the checkpoint, such as "
            f"{lost[0]}. Set decoder_training and encoder_training when the model is built"
        )
    source = tensors_of(model) | (state or {})
    trained = {name: source[name].detach() for name in model.trained_names}
    beside = {
        prefix: {n.removeprefix(prefix): trained.pop(n) for n in [*trained] if n.startswith(prefix)}
        for prefix in _whole_backbones(model)
    }
    prior = model.default_prior
    if prior is not None and prior.fingerprint not in (None, latent_fingerprint(dict(source))):
        warnings.warn(
            "the weights have changed since the model's default prior was fitted, so it is not "
            "saved. Set model.default_prior to one that is fitted to the new weights, or to None",
            stacklevel=3,
        )
        prior = None
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    _portable(model).save_pretrained(folder)
    stored = to_int8(trained) if int8 else trained
    save_torch_state_dict(stored, folder, max_shard_size=max_shard_size)
    if prior is not None:
        prior.save(folder / DEFAULT)
    if model.card:
        write_text(folder / CARD, model.card)
    if config.embed_backbones:
        inside = {
            name.removeprefix("decoder.lm."): weight for name, weight in (state or {}).items()
        }
        save_plain(model.decoder.lm, folder / "decoder", inside | beside.get("decoder.lm.", {}))
        model.decoder.tokenizer.save_pretrained(folder / "decoder")
        if model.encoder is not None:
            model.encoder.save(folder / "encoder", beside.get("encoder.model."))


def _portable(model: SentenceVAE) -> LlaMaVAEConfig:
    """The settings that are saved: a local backbone that is embedded is named by its own folder."""
    found: dict[str, Any] = {
        "architectures": [type(model).__name__],
        "dtype": next(iter(model.posterior.parameters())).dtype,
    }
    for which, part in (("encoder", model.encoder), ("decoder", model.decoder)):
        name: str | None = getattr(model.config, f"{which}_name_or_path")
        local = name is None or Path(name).is_absolute()
        if model.config.embed_backbones and part is not None and local:
            found[f"{which}_name_or_path"] = which
    return model.config.changed(**found)


def upload(
    folder: Path,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    **options: Any,
) -> str:
    """Upload a saved checkpoint to the hub, see `LlaMaVAE.push_to_hub`.

    Raises:
        UserError: The hub cannot be reached or rejects the upload.
    """
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        options.setdefault("commit_message", "Upload model")
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, ignore_patterns=[".*"], **options
        )
    except (OSError, HfHubHTTPError) as error:
        raise UserError(
            f"could not upload the checkpoint to {repo_id!r}: {error}. Log in with "
            "`hf auth login`, and check that you have write access"
        ) from error
    return str(commit)
