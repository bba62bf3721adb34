"""A training run from recipe to checkpoint: corpus, backbones, model, training, results."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from accelerate.utils import set_seed
from torch import Tensor

from llamavae.data.batches import steps_per_epoch
from llamavae.data.sentences import SentenceData, SentenceStream, prepare
from llamavae.errors import UserError
from llamavae.files import disk_errors, replacing_folder, write_json, write_text
from llamavae.modeling import LlaMaVAE, SentenceEncoder, TextDecoder
from llamavae.modeling.checkpoint import trained_fingerprint
from llamavae.modeling.loading import load_sentence_encoder
from llamavae.provenance import provenance
from llamavae.training.best import BestModel, ModelEvaluator
from llamavae.training.card import model_card
from llamavae.training.prior import fit_default_prior
from llamavae.training.recipe import Recipe, parse_recipe
from llamavae.training.record import RunRecord
from llamavae.training.scratch import make_decoder, make_encoder
from llamavae.training.sentences import RunSentences, load_sentences
from llamavae.training.trainer import (
    LanguageModelTrainer,
    SentenceTrainer,
    VAETrainer,
    last_checkpoint,
    processes,
    training_arguments,
)

_SCRATCH_TEXTS = 200_000  # sentences that a tokenizer is trained on
_RESUME = "run again with --resume"
_INITIAL_STD = 0.05  # of the posterior, with a frozen decoder
_STATISTICS = 10_000  # sentences whose vectors the standardisation is computed from


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind.

    Attributes:
        model: The trained VAE, in eval mode.
        folder: Folder of the run; the checkpoint is in `model/`.
        metrics: The last held-out measures, see `llamavae.training.measure.measure`.
        warnings: What the monitor said at the end; empty when all is well.
    """

    model: LlaMaVAE
    folder: Path
    metrics: dict[str, Any]
    warnings: list[str]


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
        evaluator: Measures the model at each evaluation, beside the usual diagnostics. Its numbers
            are logged as `eval_MEASURE`, and the best model by the first of them is kept in
            `best/`, beside the last one in `model/`.

    Raises:
        UserError: The corpus, a backbone or a setting is not usable, the folder holds another
            run, the loss is not finite, or a checkpoint cannot be saved.
        KeyboardInterrupt: The run was interrupted; it has saved a checkpoint to resume from.
    """
    with _quiet_libraries():
        return _run(recipe, resume, progress, evaluator)


def _run(
    recipe: Recipe, resume: bool, progress: bool, evaluator: ModelEvaluator | None
) -> TrainResult:
    folder = Path(recipe.output.folder)
    resume = _open_folder(folder, recipe, resume)
    record = RunRecord(folder, resume)
    if resume and (results := _read_results(folder)):
        _check_start_of_finished(recipe, record)
        model = LlaMaVAE.from_pretrained(folder / "model")
        return TrainResult(model, folder, results["metrics"], results["warnings"])
    made_by = provenance()
    corpus = load_sentences(recipe)
    model = _build_model(recipe, corpus, record, resume, progress)
    if model.encoder is not None:
        model.encoder.to(processes().device)  # a frozen one runs over the corpus before training
    data, validation = _prepare(recipe, model, corpus, progress)
    if recipe.start_from is None and model.config.standardise:
        model.fit_statistics(_sample_for_statistics(data))
    steps = _steps(recipe, data)
    checkpoint = last_checkpoint(folder) if resume else None
    args = training_arguments(recipe, folder, steps, checkpoint is not None)
    best = None if evaluator is None else BestModel(evaluator, folder)
    rates = _learning_rates(recipe)
    trainer = VAETrainer(model, args, data, validation, recipe, folder, progress, best, rates)
    trainer.add_callback(record)
    with _trained_in_float32(model):
        _train(trainer, checkpoint, resume)
        if trainer.measured_at != steps:
            trainer.state.global_step = trainer.state.max_steps = steps
            trainer.evaluate()
        model.eval()
        result = TrainResult(model, folder, trainer.metrics, trainer.warnings)
        if trainer.is_world_process_zero():
            measured = [] if best is None else best.rows
            _fit_prior(model, recipe, data, validation)
            _write_results(result, recipe, data, record, made_by, measured)
    processes().wait_for_everyone()
    return result


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """No bars of transformers for the reading and writing of each file of weights."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


# ------------------------------------------------------------------------------- the folder


def _open_folder(folder: Path, recipe: Recipe, resume: bool) -> bool:
    """Make the run's folder, or check that what is there belongs to this recipe.

    A run that failed before its first log line, on a misspelt file say, does not count.

    Returns:
        Whether there is a run to go on with.
    """
    saved = folder / "recipe.yaml"
    state = processes()
    begun = (folder / "log.jsonl").is_file() or last_checkpoint(folder / "warm-up") is not None
    found = saved.is_file() and begun
    state.wait_for_everyone()  # all have looked before one writes
    if found and not resume:
        raise UserError(
            f"{folder} already holds a run. Continue it with --resume, or choose another place "
            "with --output"
        )
    if found:
        _compare(parse_recipe(yaml.safe_load(saved.read_text(encoding="utf-8"))), recipe, folder)
    state.wait_for_everyone()
    if state.is_main_process:
        text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        with disk_errors(folder, _RESUME):
            folder.mkdir(parents=True, exist_ok=True)
            if not found:
                shutil.rmtree(folder / "backbones", ignore_errors=True)
            write_text(saved, text)
    return found


def _compare(old: Recipe, new: Recipe, folder: Path) -> None:
    """Refuse to resume with settings that make another run."""
    before, now = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    free = ("output.", "evaluation.", "optimisation.workers", "optimisation.micro", "description")
    changed = [
        f"  {key}: was {before.get(key)}, now {now.get(key)}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key) and not key.startswith(free)
    ]
    if changed:
        raise UserError(
            "\n".join([f"the run in {folder} was started with other settings:", *changed])
            + "\nResume with the old ones, or choose another place with --output"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@contextmanager
def _main_first() -> Iterator[None]:
    """The main process goes first, so that the others find its files."""
    with processes().main_process_first():
        yield


# ------------------------------------------------------------------------------- the model


def _build_model(
    recipe: Recipe, corpus: RunSentences, record: RunRecord, resume: bool, progress: bool
) -> LlaMaVAE:
    """The VAE that is trained: a fresh one, or the one that the recipe starts from."""
    if recipe.start_from is None:
        model = _new_model(recipe, corpus, record, resume, progress)
    else:
        model = _trained_model(recipe, recipe.start_from)
        _check_start(recipe, record, model, resume)
    decoder = model.decoder
    types = {p.dtype for p in decoder.parameters() if p.is_floating_point()}
    mixed = types != {torch.float32} and any(p.requires_grad for p in decoder.parameters())
    if mixed and recipe.optimisation.precision == "float32":
        raise UserError(
            f"the decoder's weights are {', '.join(sorted(map(str, types)))}: train it with "
            "optimisation.precision bfloat16, load it with decoder.dtype float32, or keep all of "
            "it frozen with decoder.training frozen"
        )
    return model


def _sample_for_statistics(data: SentenceData | SentenceStream) -> list[str] | Tensor:
    """Texts or cached sentence vectors (N, H_enc) that the standardisation is computed from."""
    if isinstance(data, SentenceStream):
        return [str(text) for text in islice(data.texts(), _STATISTICS)]
    rows = np.random.default_rng(0).permutation(len(data))[:_STATISTICS]
    if data.vectors is not None:
        return torch.from_numpy(data.vectors[np.sort(rows)])
    return [str(data.texts[int(i)]) for i in rows]


def _learning_rates(recipe: Recipe) -> dict[str, float]:
    """Learning rates other than `optimisation.learning_rate`, by how weights' names begin."""
    o = recipe.optimisation
    rates = {}
    if o.posterior_learning_rate is not None:
        rates |= dict.fromkeys(("posterior.", "encoder.attention."), o.posterior_learning_rate)
    for prefix, model in (
        ("encoder.model.", recipe.encoder.model),
        ("decoder.", recipe.decoder.model),
    ):
        if o.backbone_learning_rate is not None:
            rates[prefix] = o.backbone_learning_rate
        elif model is not None:
            rates[prefix] = o.learning_rate / 20
    return rates


def _trained_model(recipe: Recipe, source: str) -> LlaMaVAE:
    """The VAE of a checkpoint or of a finished run, with what trains and what is frozen in it.

    Its own settings hold; only how the decoder is loaded is the recipe's.
    """
    place = Path(source).expanduser()
    if not (place / "config.json").exists() and (place / "model" / "config.json").exists():
        place = place / "model"  # the folder of a run
    options = _decoder_options(recipe)
    if options["dtype"] == "auto":
        del options["dtype"]  # the checkpoint's
    set_seed(recipe.optimisation.seed)
    model = LlaMaVAE.from_pretrained(place if place.is_dir() else source, **options)
    model.card = None  # it is the other run's
    model.default_prior = None  # training changes the codes it was fitted to
    if model.encoder is None:
        raise UserError(
            f"start_from: {source} has no sentence encoder, it was trained on precomputed vectors. "
            "Take a checkpoint that reads text"
        )
    embed, inside = recipe.output.embed_backbones, model.config.embed_backbones
    if inside and embed is False:
        raise UserError(
            f"output.embed_backbones false: {source} carries its backbones, which are nowhere "
            "else. Leave the setting out"
        )
    model.config.embed_backbones = inside or bool(embed)
    return model


def _check_start(recipe: Recipe, record: RunRecord, model: LlaMaVAE, resume: bool) -> None:
    """A fresh run notes the weights it starts from; one that goes on must have had the same.

    Nothing is known of a run that is older than its record.
    """
    now = trained_fingerprint(model)
    if not resume:
        record.start_fingerprint = now
    elif record.start_fingerprint not in (None, now):
        raise UserError(
            f"the run in {record.path.parent} started from other weights than {recipe.start_from} "
            "has now. Choose another place with --output, or delete the run"
        )


def _check_start_of_finished(recipe: Recipe, record: RunRecord) -> None:
    """The same for a finished run, whose start may be gone by now."""
    if recipe.start_from is None or record.start_fingerprint is None:
        return
    try:
        model = _trained_model(recipe, recipe.start_from)
    except UserError:
        return
    _check_start(recipe, record, model, resume=True)


def _new_model(
    recipe: Recipe, corpus: RunSentences, record: RunRecord, resume: bool, progress: bool
) -> LlaMaVAE:
    """A VAE between the recipe's backbones, making those from scratch that it asks for."""
    e, d, z, seed = recipe.encoder, recipe.decoder, recipe.latent, recipe.optimisation.seed
    folder = Path(recipe.output.folder)
    backbones = folder / "backbones"
    encoder, decoder = e.model, d.model
    if e.scratch or d.scratch:
        train = corpus.train
        texts = train if isinstance(train, list) else train()
        with _main_first(), disk_errors(folder, _RESUME):
            _make_backbones(recipe, list(islice(texts, _SCRATCH_TEXTS)), backbones)
        if e.scratch:
            encoder = str(backbones / "encoder")
        if d.scratch:
            decoder = str(backbones / "decoder")
            if d.scratch.warmup_steps:
                decoder = str(_warm_up(recipe, corpus, record, resume, progress))
    assert decoder is not None  # the recipe checks it
    training = d.training or ("heads" if d.scratch else "frozen")
    frozen = training == "frozen"
    embed = recipe.output.embed_backbones
    set_seed(seed)  # the new weights do not depend on what was done, or was there, before
    return LlaMaVAE.from_backbones(
        encoder,
        decoder,
        decoder_options=_decoder_options(recipe),
        latent_dim=z.dim,
        injection=z.injection,
        slots=z.slots,
        injection_hidden=z.hidden,
        tied_kv=z.tied_kv,
        max_tokens=d.max_tokens,
        encoder_dim=0 if corpus.vectors is None else corpus.vectors[0].shape[1],
        encoder_revision=e.revision,
        encoder_pooling="mean" if e.scratch and e.pooling is None else e.pooling,
        pooling_heads=e.pooling_heads,
        encoder_max_tokens=e.max_tokens,
        encoder_training=e.training,
        standardise=frozen if e.standardise is None else e.standardise,
        initial_std=z.initial_std or (_INITIAL_STD if frozen else None),
        scaled_memory=frozen if z.scaled_memory is None else z.scaled_memory,
        decoder_revision=d.revision,
        decoder_training=training,
        lora_rank=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,
        embed_backbones=bool(e.scratch or d.scratch) if embed is None else embed,
    )


def _make_backbones(recipe: Recipe, texts: Sequence[str], folder: Path) -> None:
    """Write the backbones that are made from scratch to `folder`, unless they are there."""
    encoder, decoder = recipe.encoder.scratch, recipe.decoder.scratch
    if encoder:
        set_seed(recipe.optimisation.seed)
        _once(folder / "encoder", lambda new: make_encoder(encoder, texts, new))
    if decoder:
        set_seed(recipe.optimisation.seed)
        _once(folder / "decoder", lambda new: make_decoder(decoder, texts, new))


def _once(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a folder of files unless it is there."""
    if not folder.is_dir():
        with replacing_folder(folder) as new:
            make(new)


def _warm_up(
    recipe: Recipe, corpus: RunSentences, record: RunRecord, resume: bool, progress: bool
) -> Path:
    """Train the fresh decoder as a plain language model; returns where it is saved."""
    scratch = recipe.decoder.scratch
    assert scratch is not None
    folder = Path(recipe.output.folder)
    done = folder / "backbones" / "decoder-warm"
    if done.is_dir():
        return done
    run = folder / "warm-up"
    decoder = TextDecoder.load(
        folder / "backbones" / "decoder", max_tokens=recipe.decoder.max_tokens, training="full"
    )
    settings = recipe.model_dump()
    settings["optimisation"] |= {
        "epochs": None,
        "steps": scratch.warmup_steps,
        "batch_size": scratch.warmup_batch_size,
        "micro_batch_size": None,
        "learning_rate": scratch.warmup_learning_rate,
        "warmup_steps": min(recipe.optimisation.warmup_steps, scratch.warmup_steps // 10),
        "gradient_checkpointing": False,
    }
    settings["output"]["report_to"] = []
    warm_up = parse_recipe(settings)
    if isinstance(corpus.train, list):
        with _main_first():
            shown = progress and processes().is_main_process
            data = prepare(corpus.train, decoder, progress=shown)
    else:
        data = _stream(corpus.train, decoder, warm_up)
    checkpoint = last_checkpoint(run) if resume else None
    args = training_arguments(warm_up, run, scratch.warmup_steps, True)
    args.eval_strategy = "no"
    trainer = LanguageModelTrainer(decoder, args, data, folder, progress)
    trainer.add_callback(record)
    _train(trainer, checkpoint, resume)
    if trainer.is_world_process_zero():

        def save(new: Path) -> None:
            decoder.lm.save_pretrained(new)
            decoder.tokenizer.save_pretrained(new)

        with disk_errors(folder, _RESUME):
            _once(done, save)
        shutil.rmtree(run, ignore_errors=True)
    processes().wait_for_everyone()
    return done


def _decoder_options(recipe: Recipe) -> dict[str, Any]:
    """Arguments of `AutoModelForCausalLM.from_pretrained`."""
    d = recipe.decoder
    options: dict[str, Any] = {"dtype": d.dtype, "attn_implementation": d.attention}
    if d.quantization:
        if find_spec("bitsandbytes") is None:
            raise UserError(
                "decoder.quantization needs bitsandbytes: pip install 'llamavae[quant]'"
            )
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=d.quantization == "4bit",
            load_in_8bit=d.quantization == "8bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return options


# ------------------------------------------------------------------------------- training


def _prepare(
    recipe: Recipe, model: LlaMaVAE, corpus: RunSentences, progress: bool
) -> tuple[SentenceData | SentenceStream, SentenceData]:
    """Tokenised and, for a frozen encoder, encoded sentences for training and validation."""
    encoder, decoder = model.encoder, model.decoder
    train, held_out = corpus.vectors or (None, None)
    main = processes().is_main_process
    teacher = _teacher(recipe)
    with _main_first():
        validation = prepare(corpus.validation, decoder, encoder, held_out, False, teacher)
        if not isinstance(corpus.train, list):
            return _stream(corpus.train, decoder, recipe), validation
        data = prepare(corpus.train, decoder, encoder, train, progress and main, teacher)
    if data.truncated and main:
        print(
            f"{data.truncated} of {len(data)} sentences are longer than decoder.max_tokens "
            f"{decoder.max_tokens} and were cut",
            file=sys.stderr,
        )
    return data, validation


def _teacher(recipe: Recipe) -> SentenceEncoder | None:
    """The encoder whose similarities the recipe distils, where it may be used."""
    t = recipe.teacher
    if t.model is None:
        return None
    return load_sentence_encoder(t.model, revision=t.revision).to(processes().device)


def _stream(
    texts: Callable[[], Iterable[str]], decoder: TextDecoder, recipe: Recipe
) -> SentenceStream:
    o = recipe.optimisation
    return SentenceStream(texts, decoder, o.batch_size, o.seed)


def _steps(recipe: Recipe, data: SentenceData | SentenceStream) -> int:
    o = recipe.optimisation
    if o.steps is not None:
        return o.steps
    assert o.epochs is not None  # the recipe checks both
    assert isinstance(data, SentenceData)
    return max(1, round(o.epochs * steps_per_epoch(len(data), o.batch_size)))


@contextmanager
def _trained_in_float32(model: LlaMaVAE) -> Iterator[None]:
    """What trains is float32 while open; after that it has the type of its backbone again."""
    types = [(p, p.dtype) for p in model.parameters() if p.requires_grad]
    for parameter, _ in types:
        parameter.data = parameter.data.float()
    yield
    for parameter, dtype in types:
        parameter.data = parameter.data.to(dtype)


def _train(trainer: SentenceTrainer, checkpoint: Path | None, resume: bool) -> None:
    """Train to the end; what was saved there already needs only to be read."""
    if resume:
        trainer.rewind(checkpoint)
        processes().wait_for_everyone()
    if checkpoint and checkpoint.name.endswith(f"-{trainer.args.max_steps}"):
        trainer.load_weights(checkpoint)
        return
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.interrupted:
        raise KeyboardInterrupt("stopped; a checkpoint is saved, continue with --resume")


# ------------------------------------------------------------------------------- results


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
        print(f"no prior was fitted: {error}", file=sys.stderr)


def _write_results(
    result: TrainResult,
    recipe: Recipe,
    data: SentenceData | SentenceStream,
    record: RunRecord,
    made_by: dict[str, Any],
    measured: Sequence[Mapping[str, Any]],
) -> None:
    """The final checkpoint with its model card, and results.json."""
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
    with disk_errors(result.folder, _RESUME):
        result.model.card = model_card(result.model, results)
        result.model.save_pretrained(result.folder / "model")
        write_json(result.folder / "results.json", results)  # last: now the run is finished


def _read_results(folder: Path) -> dict[str, Any] | None:
    """Contents of `results.json`, which a finished run has."""
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
