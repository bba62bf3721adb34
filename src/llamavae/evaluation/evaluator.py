"""What an evaluator is: one interface for training, `llamavae evaluate`, the report and the card.

An evaluator measures a *system*: anything that encodes texts, decodes points, or does both. It
returns tidy rows, one a number, each beside its control, and the real texts and points behind
them. To add one, write a subclass of `Evaluator` in a file of its own and add a line to
`llamavae.evaluation.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from llamavae.errors import UserError
from llamavae.metrics.metric import Items, Metric, Rows
from llamavae.modeling import LlaMaVAE, SentenceEncoder
from llamavae.modeling.backbones import fingerprint
from llamavae.modeling.checkpoint import trained_fingerprint

Need = Literal["encode", "decode", "posterior", "likelihood", "labels", "training texts"]
"""What an evaluator may ask of a system (the first four) or of the data (the others)."""


@dataclass(frozen=True)
class EvaluationData:
    """What a system is measured on.

    Attributes:
        texts: N held-out sentences.
        labels: Label name -> N labels, where the sentences have any.
        training_texts: Sentences of the training set, for novelty; empty where unknown.
        seed: Seed of every draw.
        progress: Show progress bars on stderr.
    """

    texts: Sequence[str]
    labels: Mapping[str, Sequence[Hashable]] = field(default_factory=dict)
    training_texts: Sequence[str] = ()
    seed: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        if len(self.texts) < 2:
            raise UserError(
                f"an evaluation needs at least 2 sentences, since controls exchange them; got "
                f"{len(self.texts)}"
            )
        for name, values in self.labels.items():
            if len(values) != len(self.texts):
                raise UserError(
                    f"expected a label {name!r} for each of the {len(self.texts)} sentences; got "
                    f"{len(values)}"
                )

    def generator(self) -> torch.Generator:
        """A fresh source of draws, the same each time."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluator found.

    Attributes:
        rows: Rows of `Metric.row`, those of the primary measure first.
        tables: Name -> rows with what stands behind the numbers: texts, curves, points of a map.
        items: Metric and group -> the values behind a number, where they are known.
        not_found: Part that was to be measured, such as a benchmark -> why its data are not there.
    """

    rows: Rows
    tables: dict[str, Rows] = field(default_factory=dict)
    not_found: dict[str, str] = field(default_factory=dict)
    items: dict[tuple[str, str], Items] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if (items := row.pop("items", None)) is not None:
                self.items[row["metric"], row["group"]] = items

    def value(self, metric: str, group: str = "") -> float:
        """The value of one measure."""
        for row in self.rows:
            if row["metric"] == metric and row["group"] == group:
                return row["value"]
        raise KeyError(metric, group)


class Evaluator(ABC):
    """Measures a system. Settings are arguments of its constructor, each with a default."""

    name: ClassVar[str]
    """As it stands in the registry, in tables and on the command line."""
    needs: ClassVar[frozenset[Need]]
    """What it asks of the system and the data."""
    metrics: ClassVar[tuple[Metric, ...]]
    """What it measures, the primary measure first."""

    @property
    def primary(self) -> Metric:
        """The measure by which models are chosen and compared."""
        return self.metrics[0]

    def __call__(self, system: Any, data: EvaluationData) -> Evaluation:
        """Check what is needed, then measure.

        Raises:
            UserError: The system or the data lacks something that is needed.
        """
        if lacking := missing(self, system, data):
            raise UserError(f"the evaluator {self.name!r} needs {lacking}")
        return self.evaluate(system, data)

    @abstractmethod
    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """The measures of `system` on `data`; called when all that is needed is there."""

    def depends_on(self, system: Any) -> dict[str, Any]:
        """What else of `system` the results depend on, beside its weights; kept with the settings.

        When it changes, an evaluation that is kept in a folder is measured again.
        """
        return {}

    def metric(self, name: str) -> Metric:
        """One of `metrics` by name."""
        return next(m for m in self.metrics if m.name == name)


_LACKING: dict[Need, str] = {
    "encode": "a system that encodes texts; this one has no sentence encoder",
    "decode": "a system that writes text; this one cannot decode points",
    "posterior": "a system with a posterior q(z|x); this one encodes to single vectors",
    "likelihood": "a system with a likelihood p(x|z); only a LlaMaVAE has one",
    "labels": "labelled sentences; this corpus has no labels (its columns beside the text)",
    "training texts": "the sentences that the system was trained on; give their corpus",
}


def missing(evaluator: Evaluator, system: Any, data: EvaluationData) -> str:
    """What `evaluator` needs and does not get, in words; empty when all is there."""
    has: dict[Need, bool] = {
        "encode": can_encode(system),
        "decode": callable(getattr(system, "decode", None)),
        "posterior": has_posterior(system),
        "likelihood": has_posterior(system) and hasattr(system, "injection"),
        "labels": bool(data.labels),
        "training texts": len(data.training_texts) > 0,
    }
    return "; and ".join(
        text for need, text in _LACKING.items() if need in evaluator.needs and not has[need]
    )


def can_encode(system: Any) -> bool:
    """Whether a system turns texts into points: it has `encode`, and a VAE has its encoder."""
    return callable(getattr(system, "encode", None)) and getattr(system, "encoder", 0) is not None


def has_posterior(system: Any) -> bool:
    """Whether `encode` gives a distribution."""
    return can_encode(system) and hasattr(system, "posterior")


@torch.no_grad()
def latent_codes(system: Any, texts: Sequence[str]) -> Tensor:
    """The point of each text on the CPU in float32, shape (N, D): a posterior's mean, or a vector.

    Args:
        system: A `LlaMaVAE`, a `SentenceEncoder`, a `SentenceTransformer`, or anything whose
            `encode(texts)` returns a distribution or vectors.
        texts: N texts.
    """
    encoded = system.encode(list(texts))
    if isinstance(encoded, Distribution):
        encoded = encoded.mean
    return torch.as_tensor(encoded).float().cpu()


def system_fingerprint(system: Any) -> str:
    """A hash of what makes a system measure as it does; of one without weights, its type."""
    if callable(own := getattr(system, "system_fingerprint", None)):
        return str(own())
    if isinstance(system, LlaMaVAE):
        return trained_fingerprint(system)
    if isinstance(system, SentenceEncoder):
        return system.cache_key()
    return fingerprint(system) if isinstance(system, nn.Module) else type(system).__qualname__
