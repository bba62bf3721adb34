"""Studies on one task: words and their definitions, some of them held out.

`study_flows` compares the architectures of `llamavae.flows`; `study_definitions` compares the
invertible CVAE with what else could write definitions. Both give tidy rows: `system`, `seed`,
`metric`, `value`, `unit`, `direction` and, where there are some, `low` and `high` (95 %
confidence interval), `shuffled` or `guess` (controls), `n`, `items` (the value of each item).
`differences` tests a system against another one on the same items.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from llamavae.baselines import ConditionalVAE, NearestNeighbour, PromptedDecoder
from llamavae.errors import UserError, unknown
from llamavae.flows import FitConfig, FlowFit
from llamavae.flows.architectures import ARCHITECTURES, Form
from llamavae.guidance import Condition, InvertibleCVAE, Pairs, make_pairs
from llamavae.guidance.conditions import read_column
from llamavae.guidance.sampling import check_draws
from llamavae.metrics.bootstrap import paired_bootstrap
from llamavae.metrics.definitions import SCORES, score_definitions
from llamavae.metrics.metric import Rows
from llamavae.metrics.ngrams import distinct_n
from llamavae.metrics.retrieval import rank_of_truth, score_ranks, score_vectors
from llamavae.metrics.semantic import Scorer
from llamavae.modeling import LlaMaVAE

_RANKED = 200  # definitions whose word is looked for where each candidate costs a pass of the flow

Keep = Callable[[str, Rows], None]
"""Called with each system's name and rows as they come, so that nothing is lost."""


class Generator(Protocol):
    """What writes texts for conditions: an invertible CVAE or a baseline."""

    def generate(
        self,
        conditions: Sequence[Any] | Tensor,
        n: int = 1,
        spread: float = 1.0,
        seed: int | None = None,
    ) -> list[str]:
        """B * n texts for B conditions, those of one condition side by side."""
        ...


@dataclass(frozen=True)
class DefinitionTask:
    """Words to define and definitions to find the words of, none of them seen in training.

    Attributes:
        vae: The VAE.
        condition: Turns words into vectors.
        train: Pairs to fit on.
        valid: Pairs for early stopping.
        test: Pairs of held-out words, each word once: the first `texts` are defined, and all of
            them are the candidates of the reverse dictionary.
        texts: How many words are defined.
        spread: Spread of the latent codes that definitions are written from, see `generate`.
        posterior_scale: Width of the posteriors that flows are fitted to, see `InvertibleCVAE.fit`.
        networks: Options of `build_flow` for the flows' networks, such as `base_hidden`.
        mover: Encoder for MoverScore; None leaves it out.
        bleurt: BLEURT checkpoint; None leaves it out.
        senses: Word -> all its definitions, for lemma-BLEU; `test` has one of each.
        conditions: Condition of each pair of `test`: its word, or word and context. Default: its
            name.
        draws: Codes that are drawn for each word where a flow writes, see
            `InvertibleCVAE.generate`. Above 1 the flows alone use `spread`; the baselines
            write at 0.
    """

    vae: LlaMaVAE
    condition: Condition
    train: Pairs
    valid: Pairs
    test: Pairs
    texts: int = 500
    spread: float = 0.0
    posterior_scale: float = 1.0
    networks: Mapping[str, Any] = field(default_factory=dict)
    mover: Scorer | None = None
    bleurt: Scorer | None = None
    senses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    conditions: Sequence[Any] = ()
    draws: int = 1

    def __post_init__(self) -> None:
        if self.draws > 1:
            check_draws(1, self.spread, self.draws)
        if not self.conditions:
            object.__setattr__(self, "conditions", self.test.names)

    @property
    def words(self) -> list[str]:
        """The word of each pair of `test`, without its context."""
        return [one if isinstance(one, str) else one[0] for one in self.conditions]


def definition_task(
    vae: LlaMaVAE,
    condition: Condition,
    splits: Mapping[str, Dataset],
    *,
    context: str | None = None,
    candidates: int = 5000,
    seed: int = 0,
    **options: Any,
) -> DefinitionTask:
    """The task of a corpus of words and definitions.

    Args:
        vae: The VAE.
        condition: Turns words into vectors.
        splits: Rows with `text` and `word`, by `train`, `validation` and `test`.
        context: Column with the sentence around each word, or None in it. The words of the test
            are then read in their sentences, and those without one are left out; training has
            each word that has a sentence both ways, alone and in its sentence.
        candidates: At most this many words that occur in `test` alone.
        seed: Seed of their choice.
        **options: Further attributes of `DefinitionTask`.

    Raises:
        UserError: Fewer than 2 words occur in `test` alone.
    """
    train, valid = (
        make_pairs(splits[name], condition, context=context, also_alone=True)
        for name in ("train", "validation")
    )
    rows = splits["test"]
    words, texts = read_column(rows, "word"), read_column(rows, "text")
    seen = {word for name in ("train", "validation") for word in splits[name]["word"]}
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    sentences = [None] * len(rows) if context is None else rows[context]
    first: dict[str, int] = {}
    for i in order:
        if words[i] not in seen and (context is None or sentences[i] is not None):
            first.setdefault(words[i], i)
    chosen = [i for word, i in first.items() if condition.has(word)][:candidates]
    if len(chosen) < 2:
        raise UserError(
            f"{len(chosen)} word(s) of the test split do not occur in training; a study needs at "
            "least 2 to define"
        )
    senses: dict[str, list[str]] = defaultdict(list)
    for word, text in zip(words, texts, strict=True):
        senses[word].append(text)
    conditions = [words[i] if context is None else (words[i], sentences[i]) for i in chosen]
    options = {"senses": dict(senses), "conditions": conditions, **options}
    test = make_pairs(rows.select(chosen), condition, context=context)
    return DefinitionTask(vae, condition, train, valid, test, **options)


# ------------------------------------------------------------------------------- studies


def study_flows(
    task: DefinitionTask,
    flows: Sequence[str],
    forms: Sequence[str] = get_args(Form),
    seeds: Sequence[int] = (0,),
    fitting: FitConfig | None = None,
    done: Sequence[str] = (),
    keep: Keep | None = None,
    models: Path | None = None,
) -> Rows:
    """Fit each architecture in each form, and score what it writes and which words it finds.

    Args:
        task: The task.
        flows: Names that `build_flow` knows.
        forms: How the condition enters; the Gaussians have one form.
        seeds: Seeds of weights, order and noise.
        fitting: How the flows are trained; its seed is replaced.
        done: Systems to leave out, by name, because they are there already.
        keep: Gets the rows of each system as soon as they are there.
        models: Folder that gets each fitted flow as an invertible CVAE, in a subfolder of its own
            (`glow-reference-0`), and the state from which an interrupted fit goes on; None keeps
            neither.
    """
    check_names(flows, forms)
    fitting = fitting or FitConfig()
    rows: Rows = []
    for flow in dict.fromkeys(flows):
        closed = ARCHITECTURES[flow].block is None  # a Gaussian has one form, and is fitted at once
        for form in forms[:1] if closed else dict.fromkeys(forms):
            for seed in seeds[:1] if closed else seeds:
                system = flow if closed else f"{flow} {form}"
                if f"{system}/{seed}" in done:
                    continue
                place = _place(models, system, seed)
                found = _tag(_flow_rows(task, flow, form, seed, fitting, place), system, seed)
                rows += found
                if keep is not None:
                    keep(f"{system}/{seed}", found)
                _forget_state(place)
    return rows


def check_names(flows: Sequence[str], forms: Sequence[str]) -> None:
    """Refuse unknown architectures and forms before anything is fitted."""
    for kind, names, known in (("flow", flows, ARCHITECTURES), ("form", forms, get_args(Form))):
        for name in names:
            if name not in known:
                raise unknown(kind, name, known)


def study_definitions(
    task: DefinitionTask,
    fitting: FitConfig | None = None,
    form: str = "reference",
    cvae_steps: int = 1500,
    seed: int = 0,
    done: Sequence[str] = (),
    keep: Keep | None = None,
    models: Path | None = None,
) -> Rows:
    """The invertible CVAE beside all baselines, and beside a ceiling.

    The nearest neighbour copies a whole training definition; its *reconstruction* passes the VAE,
    as all that a flow writes does, so that the difference of the two is the VAE's loss and not the
    flow's. `reconstruction (ceiling)` is no rival: it sees the definition itself, and says what
    the VAE's decoder can write at best.

    Args:
        task: The task.
        fitting: How the flow is trained; its seed is replaced.
        form: How the condition enters the flow.
        cvae_steps: Training steps of the CVAE baseline.
        seed: Seed of everything.
        done: Systems to leave out, by name.
        keep: Gets the rows of each system as soon as they are there.
        models: Folder for the fitted flows, as for `study_flows` (`glow-0`).
    """
    fitting = fitting or FitConfig()
    flows = {
        "invertible CVAE (glow)": "glow",
        "linear-gaussian": "linear-gaussian",
        "gaussian (no condition)": "gaussian",
    }
    places = {system: _place(models, name, seed) for system, name in flows.items()}

    def fitted(system: str) -> Callable[[], Rows]:
        return lambda: _flow_rows(task, flows[system], form, seed, fitting, places[system])

    def predictions(make: Callable[[], Generator]) -> Callable[[], Rows]:
        return lambda: _text_rows(task, _defined(task, make(), seed), seed)

    def neighbour() -> Generator:
        return NearestNeighbour(task.condition, task.train)

    def cvae() -> Generator:
        model = ConditionalVAE(task.vae, task.condition)
        return model.fit(task.train, steps=cvae_steps, learning_rate=1e-3, seed=seed)

    systems: dict[str, Callable[[], Rows]] = {
        **{system: fitted(system) for system in flows},
        "nearest neighbour": predictions(neighbour),
        "nearest neighbour, reconstructed": lambda: _text_rows(
            task, task.vae.reconstruct(_defined(task, neighbour(), seed)), seed
        ),
        "prompted decoder": predictions(lambda: _prompted(task)),
        "CVAE": predictions(cvae),
        "reconstruction (ceiling)": lambda: _text_rows(
            task, task.vae.reconstruct(task.test.texts[: task.texts]), seed
        ),
    }
    rows: Rows = []
    for system, make in systems.items():
        if f"{system}/{seed}" in done:
            continue
        found = _tag(make(), system, seed)
        rows += found
        if keep is not None:
            keep(f"{system}/{seed}", found)
        _forget_state(places.get(system))
    return rows


def differences(rows: Rows, against: str = "nearest neighbour", *, resamples: int = 1000) -> Rows:
    """Each system's scores minus those of one of them on the same items: a paired test.

    Row: `system`, `seed`, `metric`, `against`, `difference`, `low` and `high` (its 95 % interval)
    and `p` (two-sided), see `paired_bootstrap`. They speak of the choice of the test words, not of
    another fit. Measures without `items` have no test.

    Args:
        rows: What `study_definitions` found.
        against: The system that the others are compared with.
        resamples: Draws of the bootstrap.
    """
    items = {
        (row["seed"], row["metric"], row["system"]): np.array(row["items"])
        for row in rows
        if "items" in row
    }
    found: Rows = []
    for (seed, metric, system), ours in items.items():
        theirs = items.get((seed, metric, against))
        if system == against or theirs is None or len(ours) != len(theirs):
            continue
        real, low, high, p = paired_bootstrap(
            lambda drawn, a=ours: float(a[drawn].mean()),
            lambda drawn, b=theirs: float(b[drawn].mean()),
            len(ours),
            resamples=resamples,
        )
        row = {"system": system, "seed": seed, "metric": metric, "against": against}
        found.append({**row, "difference": real, "low": low, "high": high, "p": p})
    return found


def _tag(rows: Rows, system: str, seed: int) -> Rows:
    return [{"system": system, "seed": seed, **row} for row in rows]


# ------------------------------------------------------------------------------- one system


def _place(models: Path | None, system: str, seed: int) -> Path | None:
    return None if models is None else models / f"{system} {seed}".replace(" ", "-")


def _forget_state(place: Path | None) -> None:
    """Remove the state of a fit, once what was measured of it is kept."""
    if place is not None:
        shutil.rmtree(place / "state", ignore_errors=True)


def _flow_rows(
    task: DefinitionTask, flow: str, form: str, seed: int, fitting: FitConfig, place: Path | None
) -> Rows:
    torch.manual_seed(seed)
    cvae = InvertibleCVAE.build(task.vae, task.condition, flow, form, **task.networks)
    state = None if place is None else place / "state"
    fitting = replace(fitting, seed=seed)
    fit = cvae.fit(
        task.train, task.valid, posterior_scale=task.posterior_scale, fitting=fitting, state=state
    )
    if place is not None:
        cvae.save_pretrained(place)
    texts, share = _timed(task, cvae, seed)
    return [
        *_fit_rows(task, cvae, fit, share),
        *_text_rows(task, texts, seed),
        *_rank_rows(task, cvae),
    ]


def _fit_rows(task: DefinitionTask, cvae: InvertibleCVAE, fit: FlowFit, share: float) -> Rows:
    z = task.vae.encode(task.test.texts).mean
    nll = -cvae.density(z, task.test.conditions).mean().item() / cvae.flow.features
    nats = "nats a dimension"
    return [
        _measure("held-out NLL", fit.nll, nats, "lower", len(task.valid)),
        *(
            _measure(f"held-out NLL of {name}", value, nats, "lower", len(task.valid))
            for name, value in fit.references.items()
        ),
        _measure("test NLL at the mean", nll, nats, "lower", len(z)),
        _measure("inverse error", fit.inverse_error, "largest difference", "lower"),
        _measure("fit time", fit.seconds, "s", "lower"),
        _measure("sampling time", share, "of decoding", "lower", min(task.texts, len(z))),
    ]


def _measure(name: str, value: float, unit: str, direction: str, n: int = 1) -> dict[str, Any]:
    return {"metric": name, "value": value, "unit": unit, "direction": direction, "n": n}


def _timed(task: DefinitionTask, cvae: InvertibleCVAE, seed: int) -> tuple[list[str], float]:
    """What is written, and the flow's time as a share of the decoder's."""
    conditions = task.test.conditions[: task.texts]
    start = time.perf_counter()
    z = cvae.points(conditions, 1, task.spread, seed)
    middle = time.perf_counter()
    texts = task.vae.decode(z)
    share = (middle - start) / (time.perf_counter() - middle)
    if task.draws > 1:
        texts = cvae.generate(conditions, 1, task.spread, seed, draws=task.draws)
    return texts, share


def _defined(task: DefinitionTask, model: Generator, seed: int) -> list[str]:
    spread = task.spread if task.draws == 1 else 0.0
    return model.generate(task.conditions[: task.texts], 1, spread, seed)


def _prompted(task: DefinitionTask) -> PromptedDecoder:
    in_sentences = any(not isinstance(one, str) for one in task.conditions)
    template = "{context}\n{word}:" if in_sentences else "{word}:"
    return PromptedDecoder(task.vae.decoder, template)


def _text_rows(task: DefinitionTask, texts: list[str], seed: int) -> Rows:
    test = task.test
    distinct = SCORES["distinct-2"]
    return [
        *score_definitions(
            texts,
            test.texts[: len(texts)],
            task.words[: len(texts)],
            encoder=task.vae.encoder,
            mover=task.mover,
            bleurt=task.bleurt,
            senses=task.senses,
            seed=seed,
        ),
        _measure("distinct-2", distinct_n(texts), distinct.unit, distinct.direction, len(texts)),
    ]


def _rank_rows(task: DefinitionTask, cvae: InvertibleCVAE) -> Rows:
    """Where the true word stands among all held-out words, and how near its predicted vector is."""
    rows = min(_RANKED, len(task.test)) if cvae.bends_with_condition else len(task.test)
    z = task.vae.encode(task.test.texts[:rows]).mean
    ranks = rank_of_truth(cvae.scores(z, task.test.conditions), torch.arange(rows))
    vectors = score_vectors(cvae.predict(task.test.texts[:rows]), task.test.conditions[:rows])
    return [*score_ranks(ranks, len(task.test)), *vectors]
