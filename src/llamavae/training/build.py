"""The VAE of a run: between new backbones or those of a recipe, or that of a checkpoint."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed

from llamavae.errors import UserError
from llamavae.files import disk_errors
from llamavae.modeling import LlaMaVAE
from llamavae.modeling.checkpoint import trained_fingerprint
from llamavae.modeling.quantised import quantization_config
from llamavae.pretrained.loading import emulates_bfloat16
from llamavae.training.arguments import processes
from llamavae.training.folder import RESUME, RunRecord
from llamavae.training.recipe import Recipe
from llamavae.training.scratch import make_backbones
from llamavae.training.sentences import RunSentences
from llamavae.training.warmup import warm_up

logger = logging.getLogger(__name__)

_SCRATCH_TEXTS = 200_000  # sentences that a tokenizer is trained on
_INITIAL_STD = 0.05  # of the posterior, with a frozen decoder


def build_model(
    recipe: Recipe, corpus: RunSentences, record: RunRecord, resume: bool, progress: bool
) -> LlaMaVAE:
    """The VAE to train: a new one, or the one that the recipe starts from."""
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
            f"the decoder's weights are {', '.join(sorted(map(str, types)))}. Train it with "
            "optimisation.precision bfloat16, load it with decoder.dtype float32, or keep all of "
            "it frozen with decoder.training frozen"
        )
    if torch.bfloat16 in types and emulates_bfloat16():
        logger.warning(
            "this CPU has no bfloat16 instructions, and training in bfloat16 is slow on it. Load "
            "the decoder in float32: --set decoder.dtype=float32"
        )
    return model


def _trained_model(recipe: Recipe, source: str) -> LlaMaVAE:
    """The VAE of a checkpoint or of a finished run, with what trains and what is frozen in it.

    The settings of the checkpoint are kept; the recipe only determines how the decoder is loaded.
    """
    options = _decoder_options(recipe)
    if options["dtype"] == "auto":
        del options["dtype"]  # the checkpoint's
    set_seed(recipe.optimisation.seed)
    model = LlaMaVAE.from_pretrained(source, **options)
    model.card = None  # it is the other run's
    model.default_prior = None  # training changes the codes it was fitted to
    if model.encoder is None:
        raise UserError(
            f"start_from: {source} has no sentence encoder, it was trained on precomputed vectors. "
            "Use a checkpoint with a sentence encoder"
        )
    embed, inside = recipe.output.embed_backbones, model.config.embed_backbones
    if inside and embed is False:
        raise UserError(
            f"output.embed_backbones false: {source} contains its backbones, and they are "
            "not available elsewhere. Omit the setting"
        )
    model.config = model.config.changed(embed_backbones=inside or bool(embed))
    return model


def _check_start(recipe: Recipe, record: RunRecord, model: LlaMaVAE, resume: bool) -> None:
    """Record the weights that a new run starts from; a resumed run must have the same.

    A run without a recorded fingerprint is not checked.
    """
    now = trained_fingerprint(model)
    if not resume:
        record.start_fingerprint = now
    elif record.start_fingerprint not in (None, now):
        raise UserError(
            f"the run in {record.path.parent} started from other weights than {recipe.start_from} "
            "has now. Choose another folder with --output, or delete the run"
        )


def check_start_of_finished(recipe: Recipe, record: RunRecord) -> None:
    """Check the starting weights of a finished run, if they are still available."""
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
    """A VAE between the recipe's backbones; those without a model are trained from scratch."""
    e, d, z, seed = recipe.encoder, recipe.decoder, recipe.latent, recipe.optimisation.seed
    folder = Path(recipe.output.folder)
    backbones = folder / "backbones"
    encoder, decoder = e.model, d.model
    new_encoder, new_decoder = e.scratch or e.lstm, d.scratch or d.lstm
    if new_encoder or new_decoder:
        train = corpus.train
        if isinstance(train, list):
            texts = iter(train)
        else:
            shuffled = train.shuffle(seed=seed, buffer_size=recipe.corpus.shuffle_buffer)
            texts = (str(row["text"]) for row in shuffled)
        with processes().main_process_first(), disk_errors(folder, RESUME):
            make_backbones(new_encoder, new_decoder, islice(texts, _SCRATCH_TEXTS), seed, backbones)
        if new_encoder:
            encoder = str(backbones / "encoder")
        if new_decoder:
            decoder = str(backbones / "decoder")
        if d.scratch and d.scratch.warmup_steps:
            decoder = str(warm_up(recipe, corpus, record, resume, progress))
    assert decoder is not None  # the recipe checks it
    training = d.training or ("heads" if d.scratch else "full" if d.lstm else "frozen")
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
        encoder_pooling=e.pooling or ("mean" if e.scratch else "last" if e.lstm else None),
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
        embed_backbones=bool(new_encoder or new_decoder) if embed is None else embed,
    )


def _decoder_options(recipe: Recipe) -> dict[str, Any]:
    """Arguments of `AutoModelForCausalLM.from_pretrained`."""
    d = recipe.decoder
    options: dict[str, Any] = {"dtype": d.dtype, "attn_implementation": d.attention}
    if d.quantization:
        options["quantization_config"] = quantization_config(d.quantization)
    return options
