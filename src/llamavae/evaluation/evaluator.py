"""The evaluator interface, used by training, `llamavae evaluate`, the report and the model card.

An evaluator scores a *system*: any object that encodes texts, decodes latent codes, or does both.
It returns tidy rows, one per value, each with its control, and tables of the underlying texts and
codes. To add an evaluator, write a subclass of `Evaluator` in its own file and add a line to
`llamavae.evaluation.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from llamavae.errors import UserError, check_int
from llamavae.metrics.metric import Items, Metric, Rows
from llamavae.modeling import LlaMaVAE, SentenceEncoder
from llamavae.modeling.backbones import fingerprint
from llamavae.modeling.checkpoint import trained_fingerprint

Need = Literal["encode", "decode", "posterior", "likelihood", "labels", "training texts"]
"""What an evaluator can require of a system (the first four) or of the data (the others)."""


@dataclass(frozen=True)
class EvaluationData:
    """The data of an evaluation.

    Attributes:
        texts: N held-out sentences.
        labels: Maps label names to N labels; empty if there are none.
        training_texts: Sentences of the training set, for novelty; empty if unknown.
        seed: Random seed.
        progress: Show progress bars on stderr.
        ids: N ids of the sentences, for files of predictions; default: their positions, from 0.
    """

    texts: Sequence[str]
    labels: Mapping[str, Sequence[Hashable]] = field(default_factory=dict)
    training_texts: Sequence[str] = ()
    seed: int = 0
    progress: bool = False
    ids: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.ids:
            object.__setattr__(self, "ids", tuple(map(str, range(len(self.texts)))))
        if len(self.ids) != len(self.texts):
            raise UserError(
                f"expected an id for each of the {len(self.texts)} sentences; got {len(self.ids)}"
            )
        if len(self.texts) < 2:
            raise UserError(
                f"expected at least 2 sentences, since the controls shuffle them; got "
                f"{len(self.texts)}"
            )
        for name, values in self.labels.items():
            if len(values) != len(self.texts):
                raise UserError(
                    f"expected a label {name!r} for each of the {len(self.texts)} sentences; got "
                    f"{len(values)}"
                )

    def sample(self, limit: int | None) -> EvaluationData:
        """At most `limit` sentences with their labels, chosen at random with the seed.

        Their order does not change. None keeps all.
        """
        if limit is None or limit >= len(self.texts):
            return self
        order = torch.randperm(len(self.texts), generator=self.generator())
        chosen: list[int] = order[:limit].sort().values.tolist()
        labels = {name: [values[i] for i in chosen] for name, values in self.labels.items()}
        texts, ids = ([of[i] for i in chosen] for of in (self.texts, self.ids))
        return replace(self, texts=texts, labels=labels, ids=ids)

    def generator(self) -> torch.Generator:
        """A new random generator with the seed of the evaluation."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Plot:
    """How a table of an evaluation is plotted.

    Attributes:
        kind: `map`: points x, y with `text`, one plot per label in `columns`; `bars`: columns of
            the KL and of whether the dimension is active; `squares`: columns of both axes and the
            value; `curve`: columns of both axes.
        columns: Columns of the table.
        caption: Caption; that of a map is the name of the table and the label.
    """

    kind: Literal["map", "bars", "squares", "curve"]
    columns: tuple[str, ...]
    caption: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Output of an evaluator.

    Attributes:
        rows: Rows of `Metric.row`, those of the primary metric first.
        tables: Maps names to tables of the underlying data: texts, curves, points of a map. A table
            named `predictions`, or `predictions-` and a variant of the system, has at least the
            fields of `llamavae.evaluation.predictions.Prediction`.
        items: Maps metric and group to the per-item values, if they are known.
        not_found: Maps each part without data, such as a benchmark, to the reason.
        plots: Maps tables that are plotted in the report to how.
    """

    rows: Rows
    tables: dict[str, Rows] = field(default_factory=dict)
    not_found: dict[str, str] = field(default_factory=dict)
    items: dict[tuple[str, str], Items] = field(default_factory=dict)
    plots: dict[str, Plot] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if (items := row.pop("items", None)) is not None:
                self.items[row["metric"], row["group"]] = items

    def value(self, metric: str, group: str = "") -> float:
        """The value of one metric."""
        for row in self.rows:
            if row["metric"] == metric and row["group"] == group:
                return row["value"]
        raise KeyError(metric, group)


class Evaluator(ABC):
    """Base class of evaluators. Settings are constructor arguments, each with a default."""

    name: ClassVar[str]
    """Name in the registry, in tables and on the command line."""
    needs: ClassVar[frozenset[Need]]
    """What it requires of the system and the data."""
    metrics: ClassVar[tuple[Metric, ...]]
    """Its metrics, the primary one first."""

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Check the settings that are integers, by their annotations."""
        with suppress(TypeError):  # of unknown settings, which Python reports next
            given = signature(cls.__init__).bind(None, *args, **settings).arguments
            for name, value in given.items():
                if getattr(cls.__init__, "__annotations__", {}).get(name) == "int":
                    minimum = 1 if name in ("batch_size", "resamples") else -(2**63)
                    check_int(f"{cls.name}.{name}", value, minimum)
        return super().__new__(cls)

    @property
    def primary(self) -> Metric:
        """The metric by which models are selected and compared."""
        return self.metrics[0]

    def __call__(self, system: Any, data: EvaluationData) -> Evaluation:
        """Check the requirements, then evaluate.

        Raises:
            UserError: The system or the data does not meet a requirement.
        """
        if lacking := missing(self, system, data):
            raise UserError(f"the evaluator {self.name!r} needs {lacking}")
        return self.evaluate(system, data)

    @abstractmethod
    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """Compute the metrics of `system` on `data`; called if all requirements are met."""

    def depends_on(self, system: Any) -> dict[str, Any]:
        """What the results depend on besides the weights of `system`; saved with the settings.

        If it changes, a saved evaluation is repeated.
        """
        return {}

    def metric(self, name: str) -> Metric:
        """One of `metrics` by name."""
        return next(m for m in self.metrics if m.name == name)


_LACKING: dict[Need, str] = {
    "encode": "a system that encodes texts; this one has no sentence encoder",
    "decode": "a system that generates text; this one cannot decode latent codes",
    "posterior": "a system with a posterior q(z|x); this one encodes to single vectors",
    "likelihood": "a system with a likelihood p(x|z); only a LlaMaVAE has one",
    "labels": "labelled sentences; this corpus has no label columns",
    "training texts": "the training sentences of the system; pass their corpus",
}


def missing(evaluator: Evaluator, system: Any, data: EvaluationData) -> str:
    """Description of the unmet requirements of `evaluator`; empty if all are met."""
    has: dict[Need, bool] = {
        "encode": can_encode(system),
        "decode": callable(getattr(system, "decode", None)),
        "posterior": _has_posterior(system),
        "likelihood": _has_posterior(system) and hasattr(system, "injection"),
        "labels": bool(data.labels),
        "training texts": len(data.training_texts) > 0,
    }
    return "; and ".join(
        text for need, text in _LACKING.items() if need in evaluator.needs and not has[need]
    )


def can_encode(system: Any) -> bool:
    """Whether a system encodes texts: it has `encode`, and a VAE has its encoder."""
    return callable(getattr(system, "encode", None)) and getattr(system, "encoder", 0) is not None


def _has_posterior(system: Any) -> bool:
    """Whether `encode` returns a distribution."""
    return can_encode(system) and hasattr(system, "posterior")


@torch.no_grad()
def latent_codes(system: Any, texts: Sequence[str]) -> Tensor:
    """Latent codes of texts (posterior means or vectors), shape (N, D), float32 on the CPU.

    Args:
        system: A `LlaMaVAE`, a `SentenceEncoder`, a `SentenceTransformer`, or any object whose
            `encode(texts)` returns a distribution or vectors.
        texts: N texts.
    """
    encoded = system.encode(list(texts))
    if isinstance(encoded, Distribution):
        encoded = encoded.mean
    return torch.as_tensor(encoded).float().cpu()


def system_fingerprint(system: Any) -> str:
    """A hash of the weights and settings of a system; its type name if it has no weights."""
    if callable(own := getattr(system, "system_fingerprint", None)):
        return str(own())
    if isinstance(system, LlaMaVAE):
        return trained_fingerprint(system)
    if isinstance(system, SentenceEncoder):
        return system.cache_key()
    return fingerprint(system) if isinstance(system, nn.Module) else type(system).__qualname__
