"""A training run from recipe to checkpoint: corpus, backbones, model, training, results."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from accelerate import PartialState
from accelerate.utils import set_seed
from datasets import IterableDataset

from llamavae.corpora import load_corpus
from llamavae.errors import UserError
from llamavae.modeling import LlaMaVAE, TextDecoder
from llamavae.training.card import write_card
from llamavae.training.data import SentenceData, SentenceStream, prepare
from llamavae.training.recipe import Recipe, parse_recipe
from llamavae.training.scratch import make_decoder, make_encoder
from llamavae.training.trainer import (
    LanguageModelTrainer,
    SentenceTrainer,
    VAETrainer,
    last_checkpoint,
    steps_per_epoch,
    training_arguments,
)

_SCRATCH_TEXTS = 200_000  # sentences that a tokenizer is trained on


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


def train(recipe: Recipe, *, resume: bool = False, progress: bool = True) -> TrainResult:
    """Train a VAE as the recipe says, and write everything to its output folder.

    The folder gets `recipe.yaml`, `log.jsonl`, `checkpoint-N/` to resume from, and at the end
    `model/`, the checkpoint with its model card, and `results.json`.

    Args:
        recipe: All settings.
        resume: Continue an interrupted run in the folder, or start it if there is none.
        progress: Show progress bars on stderr.

    Raises:
        UserError: The corpus, a backbone or a setting is not usable, the folder holds another
            run, the loss is not finite, or a checkpoint cannot be saved.
        KeyboardInterrupt: The run was interrupted; it has saved a checkpoint to resume from.
    """
    start = time.time()
    folder = Path(recipe.output.folder)
    _open_folder(folder, recipe, resume)
    set_seed(recipe.optimisation.seed)
    train_texts, validation_texts, vectors = _sentences(recipe)
    model = _build_model(recipe, train_texts, folder, resume, progress)
    data, validation = _prepare(recipe, model, train_texts, validation_texts, vectors, progress)
    sentences = None if isinstance(data, SentenceStream) else len(data)
    checkpoint = last_checkpoint(folder) if resume else None
    args = training_arguments(recipe, folder, _steps(recipe, sentences), checkpoint is not None)
    trainer = VAETrainer(model, args, data, validation, recipe, folder, progress)
    _train(trainer, folder, checkpoint)
    if trainer.state.global_step % recipe.evaluation.every:
        trainer.evaluate()
    model.eval()
    result = TrainResult(model, folder, trainer.metrics, trainer.warnings)
    if trainer.is_world_process_zero():
        _write_results(result, recipe, data, time.time() - start)
    PartialState().wait_for_everyone()
    return result


# ------------------------------------------------------------------------------- the folder


def _open_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Make the run's folder, or check that what is there belongs to this recipe."""
    saved = folder / "recipe.yaml"
    with _main_first():
        if saved.is_file():
            if not resume:
                raise UserError(
                    f"{folder} already holds a run. Continue it with --resume, or choose another "
                    "place with --output"
                )
            _compare(parse_recipe(yaml.safe_load(saved.read_text())), recipe, folder)
        if PartialState().is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            values = recipe.model_dump(mode="json")
            saved.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


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
def _main_first() -> Any:
    """The main process goes first, so that the others find its files."""
    with PartialState().main_process_first():
        yield


# ------------------------------------------------------------------------------- corpus and model


def _sentences(recipe: Recipe) -> tuple[Any, list[str], tuple[np.ndarray, np.ndarray] | None]:
    """Training sentences (a list, or a function that streams them), validation, and vectors."""
    c = recipe.corpus
    options: dict[str, Any] = {
        name: value
        for name in ("path", "column", "config", "revision", "limit", "min_words", "max_words")
        if (value := getattr(c, name)) is not None
    }
    wanted = recipe.evaluation.sentences
    if c.streaming:
        stream = load_corpus(c.name, "train", streaming=True, **options)
        held = load_corpus(c.name, "validation", streaming=True, **options)
        validation = [row["text"] for row in islice(held, wanted)]
        assert isinstance(stream, IterableDataset)
        if len(validation) < 2:
            raise UserError(f"the validation part of {c.name} has no sentences to evaluate on")
        return (lambda: _texts(stream)), validation, None
    train = load_corpus(c.name, "train", **options)
    held_out = load_corpus(c.name, "validation", **{**options, "limit": wanted})
    if len(held_out) < 2:
        raise UserError(
            f"{c.name} leaves {len(held_out)} sentence(s) for validation; at least 2 are needed. "
            "Use a larger corpus"
        )
    vectors = None
    if column := recipe.encoder.vectors:
        if column not in train.column_names:
            raise UserError(
                f"encoder.vectors: the corpus has no column {column!r}; it has "
                f"{', '.join(train.column_names)}"
            )
        vectors = (np.float32(train[column]), np.float32(held_out[column]))
    return list(train["text"]), list(held_out["text"]), vectors


def _texts(stream: IterableDataset) -> Iterable[str]:
    return (row["text"] for row in stream)


def _build_model(
    recipe: Recipe, texts: Any, folder: Path, resume: bool, progress: bool
) -> LlaMaVAE:
    """The VAE between the recipe's backbones, making those from scratch that it asks for."""
    e, d, z = recipe.encoder, recipe.decoder, recipe.latent
    backbones = folder / "backbones"
    encoder, decoder = e.model, d.model
    if e.scratch or d.scratch:
        corpus = (
            list(islice(texts(), _SCRATCH_TEXTS)) if callable(texts) else texts[:_SCRATCH_TEXTS]
        )
        with _main_first():
            if e.scratch:
                _once(backbones / "encoder", lambda new: make_encoder(e.scratch, corpus, new))
            if d.scratch:
                _once(backbones / "decoder", lambda new: make_decoder(d.scratch, corpus, new))
        if e.scratch:
            encoder = str(backbones / "encoder")
        if d.scratch:
            decoder = str(backbones / "decoder")
            if d.scratch.warmup_steps:
                decoder = str(_warm_up(recipe, texts, folder, resume, progress))
    embed = recipe.output.embed_backbones
    dim = 0 if encoder else _vector_size(recipe)
    model = LlaMaVAE.from_backbones(
        encoder,
        decoder,
        decoder_options=_decoder_options(recipe),
        latent_dim=z.dim,
        injection=z.injection,
        slots=z.slots,
        injection_hidden=z.hidden,
        tied_kv=z.tied_kv,
        max_tokens=d.max_tokens,
        encoder_dim=dim,
        encoder_revision=e.revision,
        encoder_pooling=e.pooling,
        encoder_max_tokens=e.max_tokens,
        encoder_training=e.training,
        decoder_revision=d.revision,
        decoder_training=d.training,
        lora_rank=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,
        embed_backbones=bool(e.scratch or d.scratch) if embed is None else embed,
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def _once(folder: Path, make: Any) -> None:
    """Make a folder of files unless it is there; a half-made one does not count."""
    if folder.is_dir():
        return
    new = folder.with_name(f".making-{folder.name}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    make(new)
    new.rename(folder)


def _warm_up(recipe: Recipe, texts: Any, folder: Path, resume: bool, progress: bool) -> Path:
    """Train the fresh decoder as a plain language model; returns where it is saved."""
    scratch = recipe.decoder.scratch
    assert scratch is not None
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
    }
    settings["output"]["report_to"] = []
    warm_up = parse_recipe(settings)
    size = scratch.warmup_batch_size
    if callable(texts):
        data = SentenceStream(texts, decoder, None, size, recipe.optimisation.seed)
    else:
        with _main_first():
            data = prepare(texts, decoder, progress=progress)
    checkpoint = last_checkpoint(run) if resume else None
    args = training_arguments(warm_up, run, scratch.warmup_steps, True)
    args.eval_strategy = "no"
    trainer = LanguageModelTrainer(decoder, args, data, folder, progress)
    _train(trainer, folder, checkpoint)
    if trainer.is_world_process_zero():

        def save(new: Path) -> None:
            decoder.lm.save_pretrained(new)
            decoder.tokenizer.save_pretrained(new)

        _once(done, save)
        shutil.rmtree(run, ignore_errors=True)
    PartialState().wait_for_everyone()
    return done


def _decoder_options(recipe: Recipe) -> dict[str, Any]:
    """Arguments of `AutoModelForCausalLM.from_pretrained`."""
    d = recipe.decoder
    options: dict[str, Any] = {"dtype": d.dtype, "attn_implementation": d.attention}
    if d.quantization:
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            raise UserError(
                "decoder.quantization needs bitsandbytes: pip install 'llamavae[quant]'"
            ) from error
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=d.quantization == "4bit",
            load_in_8bit=d.quantization == "8bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return options


def _vector_size(recipe: Recipe) -> int:
    """Size of the precomputed sentence vectors, from the first of them."""
    c = recipe.corpus
    options = {"path": c.path} if c.path else {}
    first = load_corpus(c.name, "train", limit=1, **options)
    return len(first[0][recipe.encoder.vectors])


# ------------------------------------------------------------------------------- training


def _prepare(
    recipe: Recipe,
    model: LlaMaVAE,
    train_texts: Any,
    validation_texts: list[str],
    vectors: tuple[np.ndarray, np.ndarray] | None,
    progress: bool,
) -> tuple[SentenceData | SentenceStream, SentenceData]:
    """Tokenised and, for a frozen encoder, encoded sentences for training and validation."""
    encoder, decoder, o = model.encoder, model.decoder, recipe.optimisation
    given = vectors or (None, None)
    with _main_first():
        shown = progress and PartialState().is_main_process
        validation = prepare(validation_texts, decoder, encoder, given[1], False)
        if callable(train_texts):
            return SentenceStream(train_texts, decoder, encoder, o.batch_size, o.seed), validation
        data = prepare(train_texts, decoder, encoder, given[0], shown)
    if data.truncated and PartialState().is_main_process:
        print(
            f"{data.truncated} of {len(data)} sentences are longer than decoder.max_tokens "
            f"{recipe.decoder.max_tokens} and were cut",
            file=sys.stderr,
        )
    return data, validation


def _steps(recipe: Recipe, sentences: int | None) -> int:
    o = recipe.optimisation
    if o.steps is not None:
        return o.steps
    assert o.epochs is not None and sentences is not None
    return max(1, round(o.epochs * steps_per_epoch(sentences, o.batch_size)))


def _train(trainer: SentenceTrainer, folder: Path, checkpoint: Path | None) -> None:
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.interrupted:
        raise KeyboardInterrupt(f"stopped; continue with --resume and the same output {folder}")


# ------------------------------------------------------------------------------- results


def _write_results(
    result: TrainResult, recipe: Recipe, data: SentenceData | SentenceStream, seconds: float
) -> None:
    """The final checkpoint with its model card, and results.json."""
    results = {
        "metrics": result.metrics,
        "warnings": result.warnings,
        "recipe": recipe.model_dump(mode="json"),
        "seed": recipe.optimisation.seed,
        "sentences": None if isinstance(data, SentenceStream) else len(data),
        "truncated": None if isinstance(data, SentenceStream) else data.truncated,
        "seconds": round(seconds, 1),
        **provenance(),
    }
    result.model.save_pretrained(result.folder / "model")
    write_card(result.folder / "model", result.model, results)
    text = json.dumps(results, indent=2, ensure_ascii=False)
    (result.folder / "results.json").write_text(text + "\n", encoding="utf-8")


def provenance() -> dict[str, Any]:
    """What a number needs beside it: command, versions, commit and machine."""
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "command": shlex.join(command),
        "version": version("llamavae"),
        "commit": _commit(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": _machine(),
    }


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores, {platform.machine()}"


def _commit() -> str | None:
    """The commit of the source tree that is running, or None when it is installed as a package."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
