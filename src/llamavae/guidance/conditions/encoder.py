"""Words and other texts by their sentence vectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from llamavae.errors import UserError
from llamavae.guidance.conditions.condition import Condition, check_list, word_and_context
from llamavae.modeling import SentenceEncoder
from llamavae.modeling.backbones import fingerprint
from llamavae.modeling.loading import load_sentence_encoder
from llamavae.modeling.names import Pooling


class EncoderCondition(Condition):
    """A word, or any text, by its sentence vector E(word).

    In a context the vector is (1 - w) E(word) + w E("word: context").

    A condition is a text, or a pair of a text and a sentence that contains it (or None). The vector
    of "word: context" alone is dominated by the context, hence the weight.

    Args:
        encoder: Encodes the texts.
        source: Source of the encoder for `load_condition`, a hub id, a folder or a name in the
            catalogue, if it is not the encoder of the VAE.
        revision: Branch, tag or commit of that hub repository.
        pooling: Pooling rule that the encoder was loaded with, see `load_sentence_encoder`.
        context_weight: Weight w of the vector of the word in its context, from 0 to 1.
    """

    name = "encoder"

    def __init__(
        self,
        encoder: SentenceEncoder,
        source: str | None = None,
        revision: str | None = None,
        pooling: Pooling | None = None,
        context_weight: float = 0.25,
    ) -> None:
        if not 0 <= context_weight <= 1:
            raise UserError(f"context_weight must be between 0 and 1; got {context_weight}")
        self.encoder, self.source, self.revision = encoder, source, revision
        self.pooling: Pooling | None = pooling
        self.context_weight, self.dim = context_weight, encoder.dim

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        revision: str | None = None,
        pooling: Pooling | None = None,
        context_weight: float = 0.25,
    ) -> Self:
        """Load the encoder, separately from that of the VAE.

        Args:
            source: Hub id or folder, as for `load_sentence_encoder`.
            revision: Branch, tag or commit of the hub repository.
            pooling: As for `load_sentence_encoder`.
            context_weight: See the class.

        Raises:
            UserError: The encoder cannot be found, read or reached.
        """
        place = Path(source).expanduser()
        found = str(place.absolute()) if place.is_dir() else os.fspath(source)
        encoder = load_sentence_encoder(found, revision=revision, pooling=pooling)
        return cls(encoder, found, revision, pooling, context_weight)

    def text(self, condition: str | Sequence[str | None]) -> str:
        """The word, or "word: context"."""
        word, context = word_and_context(condition)
        return word if context is None else f"{word}: {context}"

    def vectors(
        self, conditions: Sequence[Any], encode: Callable[[list[str]], Tensor] | None = None
    ) -> Tensor:
        """Sentence vectors (B, C); `encode` replaces the encoder, for example by a cache of it."""
        encode = encode or (lambda texts: self.encoder.encode(texts).float().cpu())
        conditions = list(check_list(conditions))
        pairs = [word_and_context(one) for one in conditions]
        c = encode([word for word, _ in pairs])
        inside = [i for i, (_, context) in enumerate(pairs) if context is not None]
        if inside:
            there = encode([self.text(conditions[i]) for i in inside])
            c[inside] = (1 - self.context_weight) * c[inside] + self.context_weight * there
        bad = (~c.isfinite().all(dim=1)).nonzero()
        if len(bad):
            text = self.text(conditions[int(bad[0])])
            raise UserError(f"the sentence encoder's vector of {text!r} holds NaN or infinity")
        return c

    def settings(self) -> dict[str, Any]:
        """Name and size; for a separate encoder also its source and a hash of its weights."""
        settings: dict[str, Any] = {"name": self.name, "dim": self.dim}
        settings["context_weight"] = self.context_weight
        if self.source is not None:
            settings |= {"source": self.source, "revision": self.revision, "pooling": self.pooling}
            settings["fingerprint"] = fingerprint(self.encoder.model)
        return settings

    @classmethod
    def from_settings(
        cls,
        settings: Mapping[str, Any],
        encoder: SentenceEncoder | None = None,
        path: str | os.PathLike[str] | None = None,
        words: Collection[str] | None = None,
    ) -> Self:
        """Rebuild with a separate encoder, whose path may have changed, or with that of the VAE."""
        weight = settings.get("context_weight", 1.0)
        if "source" in settings:
            was = settings["source"]
            if path is None and Path(was).is_absolute() and not Path(was).is_dir():
                raise UserError(
                    f"the sentence encoder of this condition does not exist at {was}. Pass its new "
                    "location with path=, encoder= or --encoder"
                )
            place, pooling = was if path is None else path, settings.get("pooling")
            found = cls.load(place, settings["revision"], pooling, weight)
            if fingerprint(found.encoder.model) != settings["fingerprint"]:
                raise UserError(
                    f"{found.source} is not the sentence encoder of this condition, {was}: its "
                    "weights differ"
                )
            return found
        if path is not None:
            raise UserError(
                "this condition uses the sentence encoder of the VAE. Omit the path of another "
                "encoder"
            )
        if encoder is None:
            raise UserError(
                "this condition is a sentence vector, but the VAE has no sentence encoder. Pass "
                "the vectors themselves, as a tensor (B, C)"
            )
        if encoder.dim != settings["dim"]:
            raise UserError(
                f"expected sentence vectors of size {settings['dim']}; the encoder has size "
                f"{encoder.dim}. Use the encoder of the fit"
            )
        return cls(encoder, context_weight=weight)
