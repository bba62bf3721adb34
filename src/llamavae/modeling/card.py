"""The model card of a checkpoint: a README.md whose head the Hugging Face hub understands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from llamavae.errors import counted
from llamavae.pretrained import CATALOGUE

if TYPE_CHECKING:
    from llamavae.modeling.base import SentenceVAE

TAGS = ["sentence-vae", "sentence-embeddings", "controllable-generation"]


def card_data(model: SentenceVAE) -> ModelCardData:
    """The head of the card: library, task, tags, and the backbones that have a repository.

    The licence is not known, and is added by the author. The hub runs no model of this library, so
    there is no widget.
    """
    config = model.config
    names = (config.encoder_name_or_path, config.decoder_name_or_path)
    backbones = list(filter(None, map(_repository, names)))
    return ModelCardData(
        library_name="llamavae",
        pipeline_tag="feature-extraction",
        tags=TAGS,
        base_model=backbones or None,
    )


def model_card(model: SentenceVAE) -> str:
    """A card with what the settings say, in Markdown."""
    config = model.config
    encoder = _named(config.encoder_name_or_path)
    if model.encoder is None:
        encoder = "none (precomputed vectors)"
    return f"""---
{card_data(model).to_yaml()}
---

# A LlaMaVAE

The model encodes a sentence as a latent code z of {config.latent_dim} numbers, and decodes every
code to a sentence (LlaMaVAE, arXiv 2312.13208).

```python
from llamavae import LlaMaVAE

model = LlaMaVAE.from_pretrained("FOLDER_OR_ID")
model.reconstruct(["a sentence"])
model.sample(8)
```

- Encoder: {encoder}, {config.encoder_training}
- Decoder: {_named(config.decoder_name_or_path)}, {config.decoder_training}
- Injection: {config.injection}, {counted(config.slots, "slot")}
- Maximum length: {config.max_tokens} decoder tokens

The weights of the backbones have their own licences.
"""


def _repository(name: str | None) -> str | None:
    """The hub repository of a backbone; None for a folder, a file or an object."""
    if name is None:
        return None
    if name in CATALOGUE:
        return CATALOGUE[name].origin
    if name.count("/") != 1 or Path(name).exists() or Path(name).suffix == ".gguf":
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _named(name: str | None) -> str:
    """A backbone in words, without a path of this machine."""
    if name is None:
        return "an object that was passed in Python"
    return f"`{_repository(name) or Path(name).name}`"
