"""A training run, from a recipe to a checkpoint and results."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from datasets import IterableDataset
from torch import Tensor

from llamavae.data.batches import steps_per_epoch
from llamavae.data.sentences import SentenceData, prepare
from llamavae.data.streams import SentenceStream, stream_layout
from llamavae.data.vector_cache import VectorCache
from llamavae.errors import UserError
from llamavae.files import disk_errors, write_json
from llamavae.folders import locked
from llamavae.modeling import LlaMaVAE
from llamavae.modeling.loading import load_sentence_encoder
from llamavae.modeling.sharding import shard_decoder
from llamavae.parsing import read_json
from llamavae.provenance import provenance
from llamavae.terminal import printable
from llamavae.training.arguments import processes, training_arguments, with_launcher
from llamavae.training.best import BestModel, ModelEvaluator
from llamavae.training.build import build_model, check_start_of_finished
from llamavae.training.card import model_card
from llamavae.training.folder import RESUME, RUN, RunRecord, last_checkpoint, open_folder
from llamavae.training.prior import fit_default_prior
from llamavae.training.recipe import Recipe
from llamavae.training.sentences import RunSentences, load_sentences
from llamavae.training.trainer import VAETrainer

_STATISTICS = 10_000  # sentences whose vectors the standardisation is computed from


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run.

    Attributes:
        model: The trained VAE, in eval mode. With `optimisation.shard_decoder` its layers are still
            distributed, and all processes must call it together.
        folder: Folder of the run; the checkpoint is in `model/`.
        metrics: The metrics of `llamavae.training.measure.measure` at the end of the run.
        warnings: The warnings of `llamavae.training.diagnostics.diagnose` at the end of the run.
    """

    model: LlaMaVAE
    folder: Path
    metrics: dict[str, Any]
    warnings: list[str]


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Hide transformers' progress bars for reading and writing weights."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@_quiet_libraries()
def train(
    recipe: Recipe,
    *,
    resume: bool = False,
    progress: bool = True,
    evaluator: ModelEvaluator | None = None,
) -> TrainResult:
    """Train a VAE as the recipe says, and write everything to its output folder.

    The folder gets `recipe.yaml`, `log.jsonl`, `checkpoint-N/` and `run.json` to resume from, and
    at the end `model/`, the checkpoint with its model card, and `results.json`.

    Args:
        recipe: All settings.
        resume: Continue an interrupted run in the folder, or start it if there is none.
        progress: Show progress bars on stderr.
        evaluator: Evaluates the model at each evaluation, in addition to the usual diagnostics. Its
            metrics are logged as `eval_METRIC`, and the best model by the first of them is kept in
            `best/`, in addition to the last one in `model/`.

    Raises:
        UserError: The corpus, a backbone or a setting is not usable, the folder holds other files
            or another run, another process writes to it, the loss is not finite, or a checkpoint
            cannot be saved.
        KeyboardInterrupt: The run was interrupted; it has saved a checkpoint to resume from.
    """
    recipe = with_launcher(recipe)
    folder = Path(recipe.output.folder)
    with locked(folder, RUN) if processes().is_main_process else nullcontext():
        return _train(recipe, folder, resume, progress, evaluator)


def _train(
    recipe: Recipe, folder: Path, resume: bool, progress: bool, evaluator: ModelEvaluator | None
) -> TrainResult:
    resume = open_folder(folder, recipe, resume)
    record = RunRecord(folder, resume)
    finished = folder / "results.json"
    if resume and finished.is_file():
        check_start_of_finished(recipe, record)
        kinds = {"metrics": dict, "warnings": list[str]}
        results = read_json(finished, kinds, "Delete it, then run again with --resume")
        model = LlaMaVAE.from_pretrained(folder / "model")
        return TrainResult(model, folder, results["metrics"], results["warnings"])
    made_by = provenance()
    corpus = load_sentences(recipe)
    if isinstance(corpus.train, list):
        record.check_corpus(training=corpus.train)
    record.check_corpus(validation=corpus.validation)
    model = build_model(recipe, corpus, record, resume, progress)
    if model.encoder is not None:
        model.encoder.to(processes().device)  # a frozen one runs over the corpus before training
    data, validation = _prepare(recipe, model, corpus, progress)
    if recipe.start_from is None and model.config.standardise:
        model.fit_statistics(_sample_for_statistics(data))
    steps = _steps(recipe, data)
    checkpoint = last_checkpoint(folder, verified=True) if resume else None
    args = training_arguments(recipe, folder, steps, checkpoint is not None)
    best = None if evaluator is None else BestModel(evaluator, folder)
    with _trained_in_float32(model):
        if recipe.optimisation.shard_decoder and processes().num_processes > 1:
            shard_decoder(model.decoder.lm, args.device, recipe.optimisation.cpu_offload)
        trainer = VAETrainer(model, args, data, validation, recipe, progress, best)
        trainer.add_callback(record)
        trainer.fit(checkpoint, resume)
        if trainer.measured_at != steps:
            trainer.state.global_step = trainer.state.max_steps = steps
            trainer.evaluate()
        model.eval()
        result = TrainResult(model, folder, trainer.metrics, trainer.warnings)
        main, measured = trainer.is_world_process_zero(), [] if best is None else best.rows
        if main:
            _fit_prior(model, recipe, data, validation)
        _write_results(result, recipe, data, record, made_by, measured, main)
    processes().wait_for_everyone()
    return result


def _prepare(
    recipe: Recipe, model: LlaMaVAE, corpus: RunSentences, progress: bool
) -> tuple[SentenceData | SentenceStream, SentenceData]:
    """Tokenised and, for a frozen encoder, encoded sentences for training and validation."""
    encoder, decoder = model.encoder, model.decoder
    train, held_out = corpus.vectors or (None, None)
    main = processes().is_main_process
    t = recipe.teacher
    teacher = None
    if t.model is not None:
        teacher = load_sentence_encoder(t.model, revision=t.revision).to(processes().device)
    with processes().main_process_first():
        validation = prepare(corpus.validation, decoder, encoder, held_out, False, teacher)
        if not isinstance(corpus.train, list):
            return _stream(recipe, model, corpus.train), validation
        data = prepare(corpus.train, decoder, encoder, train, progress and main, teacher)
    if data.truncated and main:
        print(
            f"{data.truncated} of {len(data)} sentences are longer than decoder.max_tokens "
            f"{decoder.max_tokens} and were truncated",
            file=sys.stderr,
        )
    return data, validation


def _stream(recipe: Recipe, model: LlaMaVAE, corpus: IterableDataset) -> SentenceStream:
    """The stream of training sentences, of which this process takes its share."""
    c, o, state = recipe.corpus, recipe.optimisation, processes()
    cache = None
    if c.cache_vectors:
        if model.encoder is None or model.encoder.trains:
            raise UserError("corpus.cache_vectors requires a frozen encoder. Omit the setting")
        cache = VectorCache(model.encoder)
    layout = stream_layout(
        corpus,
        o.batch_size,
        o.micro_batch_size,
        c.shards,
        state.num_processes,
        state.process_index,
        limited=o.batch_tokens is not None,
    )
    return SentenceStream(
        corpus, model.decoder, layout, o.seed, c.shuffle_buffer, o.batch_tokens, cache
    )


def _sample_for_statistics(data: SentenceData | SentenceStream) -> list[str] | Tensor:
    """Texts or cached sentence vectors (N, H_enc) that the standardisation is computed from."""
    if isinstance(data, SentenceStream):
        return data.sample(_STATISTICS)
    rows = np.random.default_rng(0).permutation(len(data))[:_STATISTICS]
    return data.inputs(rows if data.vectors is None else np.sort(rows))


def _steps(recipe: Recipe, data: SentenceData | SentenceStream) -> int:
    """Number of optimiser steps of the run."""
    o = recipe.optimisation
    if o.steps is not None:
        return o.steps
    assert o.epochs is not None  # the recipe checks both
    assert isinstance(data, SentenceData)
    return max(1, round(o.epochs * steps_per_epoch(len(data), o.batch_size)))


@contextmanager
def _trained_in_float32(model: LlaMaVAE) -> Iterator[None]:
    """Trained weights are float32 in this context, and have their previous data type after it.

    So are the frozen weights of an encoder that trains in part.
    """
    types = [(p, p.dtype) for p in model.parameters() if p.requires_grad]
    if model.encoder is not None and model.encoder.training_mode != "frozen":
        types += [(p, p.dtype) for p in model.encoder.parameters() if not p.requires_grad]
    for parameter, _ in types:
        parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for parameter, dtype in types:
            parameter.data = parameter.data.to(dtype)


def _fit_prior(
    model: LlaMaVAE,
    recipe: Recipe,
    data: SentenceData | SentenceStream,
    validation: SentenceData,
) -> None:
    """Give the model its default prior; a stream has no codes to choose from, and gets none."""
    limit = recipe.output.prior_sentences
    if not limit or isinstance(data, SentenceStream):
        return
    try:
        seed = recipe.optimisation.seed
        model.default_prior = fit_default_prior(model, data, validation, limit, seed)
    except UserError as error:  # the run is worth keeping without it
        print(printable(f"no prior was fitted: {error}"), file=sys.stderr)


def _write_results(
    result: TrainResult,
    recipe: Recipe,
    data: SentenceData | SentenceStream,
    record: RunRecord,
    made_by: dict[str, Any],
    measured: Sequence[Mapping[str, Any]],
    main: bool,
) -> None:
    """The final checkpoint with its model card, and results.json; the first process writes them."""
    results = {
        "metrics": result.metrics,
        "warnings": result.warnings,
        "measured": list(measured),
        "recipe": recipe.model_dump(mode="json"),
        "seed": recipe.optimisation.seed,
        "sentences": None if isinstance(data, SentenceStream) else len(data),
        "truncated": None if isinstance(data, SentenceStream) else data.truncated,
        "seconds": record.seconds,
        "start_fingerprint": record.start_fingerprint,
        **made_by,
    }
    with disk_errors(result.folder, RESUME):
        if main:
            result.model.card = model_card(result.model, results)
        result.model.save_pretrained(result.folder / "model", is_main_process=main)
        if main:  # last: now the run is finished
            write_json(result.folder / "results.json", results)
