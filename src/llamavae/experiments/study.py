"""Studies of definition modelling on held-out words.

`study_flows` compares the architectures of `llamavae.flows`; `study_definitions` compares the
invertible CVAE with baselines. Both return tidy rows: `system`, `seed`, and the columns of
`Metric.row`, with `items` if the per-item values are known. `differences` tests each system against
a reference system on the same items.

The file is long because both studies share the task and the measurement of one system.
"""

from __future__ import annotations

import random
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, get_args

import torch
from datasets import Dataset

from llamavae.baselines import ConditionalVAE, NearestNeighbour, PromptedDecoder, TunedDecoder
from llamavae.errors import UserError, unknown
from llamavae.evaluation.predictions import Prediction, Predictions, write_predictions
from llamavae.experiments.prompts import definition_prompts, validate_prompts
from llamavae.flows import FitConfig, FlowFit
from llamavae.flows.architectures import ARCHITECTURES, Form
from llamavae.guidance import Condition, InvertibleCVAE, Pairs, make_pairs
from llamavae.guidance.conditions import read_column
from llamavae.guidance.sampling import check_draws
from llamavae.metrics.bootstrap import paired_bootstrap
from llamavae.metrics.definitions import SCORES, score_definitions
from llamavae.metrics.metric import AGGREGATES, Items, Metric, Rows
from llamavae.metrics.ngrams import distinct_n
from llamavae.metrics.retrieval import SCORES as RANK_SCORES
from llamavae.metrics.retrieval import rank_of_truth, score_ranks, score_vectors
from llamavae.metrics.semantic import Scorer
from llamavae.modeling import LlaMaVAE

NEAREST = "nearest neighbour"
"""Name of the system that all others are tested against."""
LINEAR = "linear-gaussian"
"""Name of the system that metrics of flows alone are tested against."""

_VALIDATED = 100  # maximum number of validation pairs to choose a prompt
_RANKED = 200  # number of queries if each candidate needs a forward pass of the flow

Keep = Callable[[str, Rows], None]
"""Called with the name and rows of each system as soon as they are available."""

_Made: TypeAlias = tuple[Rows, list[str]]
"""The rows of a system, and its definitions of the first words of the task."""

_Systems: TypeAlias = dict[tuple[str, int], tuple[Callable[[], _Made], Path | None]]
"""Maps names and seeds to functions that evaluate the system, and to the folder of the fit."""


@dataclass(frozen=True)
class DefinitionTask:
    """Definition modelling and reverse dictionary for words that do not occur in training.

    Attributes:
        vae: The VAE.
        condition: Encodes words as vectors.
        train: Training pairs.
        valid: Pairs for early stopping.
        test: Pairs of held-out words, each word once. The first `texts` words are defined, and all
            words are the candidates of the reverse dictionary.
        texts: Number of words to define.
        spread: Spread of the latent draws, see `InvertibleCVAE.generate`.
        posterior_scale: Width of the posteriors that flows are fitted to, see `InvertibleCVAE.fit`.
        networks: Options of `build_flow` for the flows' networks, such as `base_hidden`.
        mover: Encoder for MoverScore; None skips it.
        bleurt: BLEURT checkpoint; None skips it.
        senses: Maps words to all their definitions, for lemma-BLEU; `test` has one of each.
        conditions: Condition of each pair of `test`: its word, or word and context. Default: its
            name.
        draws: Number of codes per word for a flow, see `InvertibleCVAE.generate`. Above 1, only
            the flows use `spread`; the baselines use 0.
        benchmark: Name of the corpus, for files of predictions.
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
    benchmark: str = ""

    def __post_init__(self) -> None:
        if self.draws > 1:
            check_draws(1, self.spread, self.draws)
        if not self.conditions:
            object.__setattr__(self, "conditions", self.test.names)

    @property
    def words(self) -> list[str]:
        """The word of each pair of `test`, without its context."""
        return [one if isinstance(one, str) else one[0] for one in self.conditions]

    @property
    def in_sentences(self) -> bool:
        """Whether the words have a context."""
        return any(not isinstance(one, str) for one in self.conditions)


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
    """Build the task from a corpus of words and definitions.

    Args:
        vae: The VAE.
        condition: Encodes words as vectors.
        splits: Rows with `text` and `word`, by `train`, `validation` and `test`.
        context: Column with a sentence that contains the word, or None. Test words are then
            encoded in their sentences, and those without a sentence are excluded; training uses
            each word with a sentence twice, alone and in its sentence.
        candidates: Maximum number of words that occur only in `test`.
        seed: Seed of their choice.
        **options: Further attributes of `DefinitionTask`.

    Raises:
        UserError: Fewer than 2 words occur only in `test`.
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
            "expected at least 2 words of the test split that do not occur in training; got "
            f"{len(chosen)}"
        )
    senses: dict[str, list[str]] = defaultdict(list)
    for word, text in zip(words, texts, strict=True):
        senses[word].append(text)
    conditions = [words[i] if context is None else (words[i], sentences[i]) for i in chosen]
    options = {"senses": dict(senses), "conditions": conditions, **options}
    test = make_pairs(rows.select(chosen), condition, context=context)
    return DefinitionTask(vae, condition, train, valid, test, **options)


def study_flows(
    task: DefinitionTask,
    flows: Sequence[str],
    forms: Sequence[str] = get_args(Form),
    seeds: Sequence[int] = (0,),
    config: FitConfig | None = None,
    done: Sequence[str] = (),
    keep: Keep | None = None,
    models: Path | None = None,
    predictions: Path | None = None,
) -> Rows:
    """Fit each architecture in each form, and evaluate its definitions and reverse dictionary.

    Args:
        task: The task.
        flows: Names of architectures of `build_flow`.
        forms: How the condition enters; the Gaussians have one form.
        seeds: Seeds of weights, order and noise.
        config: Training settings of the flows; the seed is replaced.
        done: Names of systems to skip.
        keep: Called with the rows of each system as soon as they are available.
        models: Folder for the fitted flows, each saved as an invertible CVAE in its own subfolder
            (`glow-reference-0`), and for the state from which an interrupted fit resumes; None
            saves neither.
        predictions: Folder for the definitions of each system, see
            `llamavae.evaluation.predictions` (`glow-reference-0.jsonl`); None does not save them.
    """
    check_names(flows, forms)
    config = config or FitConfig()
    systems: _Systems = {}
    for flow in dict.fromkeys(flows):
        closed = ARCHITECTURES[flow].block is None  # a Gaussian has one form and a closed-form fit
        for form in forms[:1] if closed else dict.fromkeys(forms):
            for seed in seeds[:1] if closed else seeds:
                system = flow if closed else f"{flow} {form}"
                place = _place(models, system, seed)
                make = partial(_evaluate_flow, task, flow, form, seed, config, place)
                systems[system, seed] = make, place
    return _run(task, systems, done, keep, predictions)


def check_names(flows: Sequence[str], forms: Sequence[str]) -> None:
    """Raise an error for unknown architectures and forms before anything is fitted."""
    for kind, names, known in (("flow", flows, ARCHITECTURES), ("form", forms, get_args(Form))):
        for name in names:
            if name not in known:
                raise unknown(kind, name, known)


def study_definitions(
    task: DefinitionTask,
    config: FitConfig | None = None,
    form: str = "reference",
    cvae_steps: int = 1500,
    tuned_steps: int = 500,
    seed: int = 0,
    done: Sequence[str] = (),
    keep: Keep | None = None,
    models: Path | None = None,
    predictions: Path | None = None,
) -> Rows:
    """Compare the invertible CVAE with all baselines and with an upper bound.

    The nearest neighbour copies a training definition. Its *reconstruction* passes through the
    VAE, as all definitions of a flow do, so the difference between the two is due to the VAE and
    not to the flow. `reconstruction (ceiling)` is not a baseline: it encodes the reference
    definition itself, and is an upper bound for the decoder of the VAE. The prompted decoder uses
    the prompt of `definition_prompts` with the highest sense-BLEU on at most 100 validation pairs,
    which is reported for each prompt.

    Args:
        task: The task.
        config: Training settings of the flow; the seed is replaced.
        form: How the condition enters the flow.
        cvae_steps: Number of training steps of the CVAE baseline.
        tuned_steps: Number of training steps of the tuned decoder; 0 skips it.
        seed: Random seed.
        done: Names of systems to skip.
        keep: Called with the rows of each system as soon as they are available.
        models: Folder for the fitted flows, as for `study_flows` (`glow-0`).
        predictions: Folder for the definitions of each system, as for `study_flows`.

    Raises:
        UserError: The decoder of the VAE has no layers for LoRA, and `tuned_steps` is not 0.
    """
    config = config or FitConfig()
    flows = {
        "invertible CVAE (glow)": "glow",
        LINEAR: LINEAR,
        "gaussian (no condition)": "gaussian",
    }

    prompts = definition_prompts(task.vae.decoder.tokenizer, task.in_sentences)

    def neighbour() -> list[str]:
        return _defined(task, NearestNeighbour(task.condition, task.train), seed)

    def cvae() -> list[str]:
        model = ConditionalVAE(task.vae, task.condition)
        model.fit(task.train, steps=cvae_steps, learning_rate=1e-3, seed=seed)
        return _defined(task, model, seed)

    def scored(write: Callable[[], list[str]]) -> Callable[[], _Made]:
        return partial(_evaluate_baseline, task, write, seed)

    baselines: dict[str, Callable[[], _Made]] = {
        NEAREST: scored(neighbour),
        "nearest neighbour, reconstructed": scored(lambda: task.vae.reconstruct(neighbour())),
        "prompted decoder": partial(_evaluate_prompted, task, prompts, seed),
    }
    if tuned_steps:
        tuned = TunedDecoder(task.vae.decoder, prompts["bare"])  # an error comes before any fit

        def fine_tuned() -> list[str]:
            tuned.fit(_like_test(task, task.train), steps=tuned_steps, seed=seed)
            return _defined(task, tuned, seed)

        baselines["tuned decoder"] = scored(fine_tuned)
    baselines |= {
        "CVAE": scored(cvae),
        "reconstruction (ceiling)": scored(
            lambda: task.vae.reconstruct(task.test.texts[: task.texts])
        ),
    }
    systems: _Systems = {}
    for system, flow in flows.items():
        place = _place(models, flow, seed)
        make = partial(_evaluate_flow, task, flow, form, seed, config, place)
        systems[system, seed] = make, place
    for system, make in baselines.items():
        systems[system, seed] = make, None
    return _run(task, systems, done, keep, predictions)


def _run(
    task: DefinitionTask,
    systems: _Systems,
    done: Sequence[str],
    keep: Keep | None,
    predictions: Path | None,
) -> Rows:
    """The rows of all systems that are not done yet."""
    rows: Rows = []
    for (system, seed), (make, place) in systems.items():
        if f"{system}/{seed}" in done:
            continue
        made, texts = make()
        found = [{"system": system, "seed": seed, **row} for row in made]
        rows += found
        if predictions is not None:
            predictions.mkdir(parents=True, exist_ok=True)
            name = re.sub(r"\W+", "-", f"{system} {seed}")
            written = _predictions(task, texts, f"{system}/{seed}")
            write_predictions(written, predictions / f"{name}.jsonl")
        if keep is not None:
            keep(f"{system}/{seed}", found)
        if place is not None:  # the results are saved, so the state of the fit can go
            shutil.rmtree(place / "state", ignore_errors=True)
    return rows


def _predictions(task: DefinitionTask, texts: list[str], system: str) -> Predictions:
    """The definitions of the first words of the task in the common format."""
    items = []
    for word, reference, text in zip(task.words, task.test.texts, texts, strict=False):
        senses = tuple(sense for sense in task.senses.get(word, ()) if sense != reference)
        items.append(Prediction(word, text, (reference,), lemma=word, senses=senses))
    return Predictions(items, system, "definitions", task.benchmark, "test")


def differences(
    rows: Rows, against: Sequence[str] = (NEAREST, LINEAR), *, resamples: int = 1000
) -> Rows:
    """Paired test of each system against a reference system on the same items.

    Row: `system`, `seed`, `metric`, `against`, `difference`, `low` and `high` (its 95 % interval)
    and `p` (two-sided), see `paired_bootstrap`. They cover the choice of the test words, not the
    variation between fits. Metrics without `items` are not tested, and neither are seeds that the
    reference system does not have.

    Args:
        rows: Rows of `study_definitions` or `study_flows`.
        against: The reference systems; for each metric, the first one that has it is used.
        resamples: Number of bootstrap samples.
    """
    items: dict[tuple[int, str, str], Items] = {
        (row["seed"], row["metric"], row["system"]): row["items"] for row in rows if "items" in row
    }
    found: Rows = []
    for (seed, metric, system), ours in items.items():
        reference = next((one for one in against if (seed, metric, one) in items), system)
        theirs = items.get((seed, metric, reference), ours)
        if system == reference or len(ours.values) != len(theirs.values):
            continue
        of = AGGREGATES[_TESTED[metric].aggregate]
        real, low, high, p = paired_bootstrap(
            lambda drawn, of=of, a=ours.values: of(a[drawn]),
            lambda drawn, of=of, b=theirs.values: of(b[drawn]),
            len(ours.values),
            resamples=resamples,
        )
        row = {"system": system, "seed": seed, "metric": metric, "against": reference}
        found.append({**row, "difference": real, "low": low, "high": high, "p": p})
    return found


def _place(models: Path | None, system: str, seed: int) -> Path | None:
    return None if models is None else models / f"{system} {seed}".replace(" ", "-")


def _evaluate_flow(
    task: DefinitionTask, flow: str, form: str, seed: int, config: FitConfig, place: Path | None
) -> _Made:
    torch.manual_seed(seed)
    cvae = InvertibleCVAE.build(task.vae, task.condition, flow, form, **task.networks)
    state = None if place is None else place / "state"
    config = replace(config, seed=seed)
    fit = cvae.fit(
        task.train, task.valid, posterior_scale=task.posterior_scale, config=config, state=state
    )
    if place is not None:
        cvae.save_pretrained(place)
    texts, share = _timed(task, cvae, seed)
    rows = [
        *_fit_rows(task, cvae, fit, share),
        *text_rows(task, texts, seed),
        *_rank_rows(task, cvae),
    ]
    return rows, texts


def _evaluate_baseline(task: DefinitionTask, write: Callable[[], list[str]], seed: int) -> _Made:
    texts = write()
    return text_rows(task, texts, seed), texts


def _evaluate_prompted(task: DefinitionTask, prompts: Mapping[str, str], seed: int) -> _Made:
    """The prompt that is best on validation pairs; the first one if there are none."""
    decoder, best, chosen = task.vae.decoder, next(iter(prompts)), []
    valid = _like_test(task, task.valid)
    if len(valid):
        generator = torch.Generator().manual_seed(seed)
        valid = valid.select(torch.randperm(len(valid), generator=generator)[:_VALIDATED])
        found = validate_prompts(decoder, prompts, valid)
        best = max(found, key=lambda name: found[name])
        chosen = [_prompt_bleu(name).row(value, len(valid)) for name, value in found.items()]
    model = PromptedDecoder(decoder, prompts[best])
    rows, texts = _evaluate_baseline(task, lambda: _defined(task, model, seed), seed)
    return [*chosen, *rows], texts


def _like_test(task: DefinitionTask, pairs: Pairs) -> Pairs:
    """The pairs whose words have a context, if those of the test have one."""
    if not task.in_sentences:
        return pairs
    pair = [not isinstance(one, str) and one[1] is not None for one in pairs.words]
    return pairs.select(torch.tensor(pair))


def _fit_rows(task: DefinitionTask, cvae: InvertibleCVAE, fit: FlowFit, share: float) -> Rows:
    z = task.vae.encode(task.test.texts).mean
    nll = -cvae.log_density(z, task.test.conditions).double().cpu().numpy() / cvae.flow.features
    held_out = {"": fit.nll} | {f" of {name}": value for name, value in fit.references.items()}
    return [
        *(_held_out_nll(name).row(value, len(task.valid)) for name, value in held_out.items()),
        _TEST_NLL.mean(nll, seed=0),
        _INVERSE_ERROR.row(fit.inverse_error, 1),
        _FIT_TIME.row(fit.seconds, 1),
        _SAMPLING_TIME.row(share, min(task.texts, len(z))),
    ]


def _held_out_nll(name: str) -> Metric:
    definition = "Mean negative log-density of the latent codes of the validation pairs."
    return Metric(f"held-out NLL{name}", "nats per dimension", "lower", definition)


def _prompt_bleu(name: str) -> Metric:
    definition = (
        "sense-BLEU of the greedy definitions by a prompt, on at most 100 validation pairs. The "
        "prompt with the highest value is used."
    )
    return Metric(f"validation sense-BLEU, prompt {name}", "0 to 1", "higher", definition)


_TEST_NLL = Metric(
    "test NLL at the mean",
    "nats per dimension",
    "lower",
    "Mean negative log-density of the posterior means of the test pairs.",
)
_TESTED = SCORES | RANK_SCORES | {_TEST_NLL.name: _TEST_NLL}  # metrics with items
_INVERSE_ERROR = Metric(
    "inverse error",
    "largest difference",
    "lower",
    "Largest absolute difference between a held-out code and the inverse of its image.",
)
_FIT_TIME = Metric("fit time", "s", "lower", "Time of the fit, with its evaluations.")
_SAMPLING_TIME = Metric(
    "sampling time",
    "of decoding",
    "lower",
    "Time to draw the latent codes of the words, divided by the time to decode them.",
)


def _timed(task: DefinitionTask, cvae: InvertibleCVAE, seed: int) -> tuple[list[str], float]:
    """The generated texts, and the time of the flow relative to that of the decoder."""
    conditions = task.test.conditions[: task.texts]
    start = time.perf_counter()
    z = cvae.sample_codes(conditions, 1, task.spread, seed)
    middle = time.perf_counter()
    texts = task.vae.decode(z)
    share = (middle - start) / (time.perf_counter() - middle)
    if task.draws > 1:
        texts = cvae.generate(conditions, 1, task.spread, seed, draws=task.draws)
    return texts, share


def _defined(
    task: DefinitionTask,
    model: NearestNeighbour | PromptedDecoder | TunedDecoder | ConditionalVAE,
    seed: int,
) -> list[str]:
    spread = task.spread if task.draws == 1 else 0.0
    return model.generate(task.conditions[: task.texts], 1, spread, seed)


def text_rows(task: DefinitionTask, texts: list[str], seed: int) -> Rows:
    """All metrics of definitions of the first words of the task, see `score_definitions`.

    Args:
        task: The task.
        texts: Definitions of its first words.
        seed: Seed of the shuffled controls.
    """
    rows = score_definitions(
        texts,
        task.test.texts[: len(texts)],
        task.words[: len(texts)],
        encoder=task.vae.encoder,
        mover=task.mover,
        bleurt=task.bleurt,
        senses=task.senses,
        seed=seed,
    )
    return [*rows, SCORES["distinct-2"].row(distinct_n(texts), len(texts))]


def _rank_rows(task: DefinitionTask, cvae: InvertibleCVAE) -> Rows:
    """Rank of the correct word among all held-out words, and metrics of its predicted vector."""
    rows = min(_RANKED, len(task.test)) if cvae.flow.bends_with_context else len(task.test)
    z = task.vae.encode(task.test.texts[:rows]).mean
    ranks = rank_of_truth(cvae.scores(z, task.test.conditions), torch.arange(rows))
    vectors = score_vectors(cvae.predict(task.test.texts[:rows]), task.test.conditions[:rows])
    return [*score_ranks(ranks, len(task.test)), *vectors]
