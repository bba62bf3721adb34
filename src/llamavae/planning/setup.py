"""From a recipe to the `Setup` of its training step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llamavae.errors import UserError
from llamavae.parsing import read_json
from llamavae.planning.facts import ENCODERS, Backbone, find_backbone
from llamavae.planning.sizes import Sizes
from llamavae.planning.step import Setup
from llamavae.pretrained import bundled
from llamavae.training.recipe import LSTMBackbone, Recipe, ScratchDecoder, ScratchEncoder


def setup_of(recipe: Recipe, *, devices: int = 1, tokens: int | None = None, cpu: bool) -> Setup:
    """What determines the memory of a training step of a recipe.

    Args:
        recipe: The recipe.
        devices: Number of devices.
        tokens: Tokens of a sentence, with its end; None for `decoder.max_tokens`, the maximum.
        cpu: Whether it runs on a CPU.

    Raises:
        UserError: The sizes of a backbone are not known, the batch cannot be shared among the
            devices, or the decoder cannot be sharded.
    """
    model = _new(recipe) if recipe.start_from is None else _trained(recipe, recipe.start_from)
    o = recipe.optimisation
    micro = o.micro_batch_size or max(1, o.batch_size // devices)
    if o.batch_size % (micro * devices):
        raise UserError(
            f"optimisation.batch_size {o.batch_size} cannot be shared among {devices} devices in "
            f"micro-batches of {micro}: make it a multiple of {micro * devices}, or change "
            "optimisation.micro_batch_size"
        )
    sharded = o.shard_decoder and devices > 1
    if sharded and (model.decoder_training == "full" or model.decoder.type == "llamavae_lstm"):
        raise UserError(
            "optimisation.shard_decoder distributes the frozen layers of a transformer, and the "
            "decoder of this checkpoint has none. Omit it"
        )
    return replace(
        model,
        word_dropout=recipe.objective.word_dropout > 0,
        bag_of_words=recipe.objective.bag_of_words > 0,
        discriminator=recipe.objective.discriminator_hidden if recipe.objective.adversarial else 0,
        quantisation=recipe.decoder.quantization,
        attention=recipe.decoder.attention,
        batch=o.batch_size,
        micro=micro,
        devices=devices,
        tokens=tokens or model.tokens,
        evaluated=recipe.evaluation.sentences,
        decoded=recipe.evaluation.decoded,
        precision=o.precision,
        checkpoints=o.gradient_checkpointing,
        sharded=sharded,
        offloaded=sharded and o.cpu_offload and not cpu,
        cpu=cpu,
    )


def _new(recipe: Recipe) -> Setup:
    """A new VAE, as `llamavae.training.build` builds it."""
    e, d, z = recipe.encoder, recipe.decoder, recipe.latent
    encoder = None if e.vectors else _encoder(e.model, e.scratch or e.lstm)
    decoder = _decoder(d.model, d.scratch or d.lstm)
    training = d.training or ("heads" if d.scratch else "full" if d.lstm else "frozen")
    frozen = training == "frozen"
    embed = recipe.output.embed_backbones
    fresh = bool(e.scratch or e.lstm or d.scratch or d.lstm)
    pooled = e.pooling is not None or e.scratch or e.lstm
    if encoder is None:
        raise UserError(
            "the size of precomputed vectors is not in the recipe, and plan does not read the "
            "corpus. Plan it with encoder.model, the encoder that the vectors are from"
        )
    return Setup(
        decoder=decoder.sizes,
        encoder=encoder.sizes,
        latent_dim=z.dim,
        injection=z.injection,
        slots=z.slots,
        hidden=z.hidden,
        tied_kv=z.tied_kv,
        scaled=frozen if z.scaled_memory is None else z.scaled_memory,
        standardise=frozen if e.standardise is None else e.standardise,
        decoder_training=training,
        decoder_dtype=decoder.dtype if d.dtype == "auto" else d.dtype,
        encoder_training=e.training,
        encoder_dtype=encoder.dtype,
        pooler=encoder.sizes.type == "bert",
        dense=0 if pooled else encoder.dense,
        queries=e.pooling_heads if e.pooling == "attention" else 0,
        lora_rank=recipe.lora.rank,
        tokens=d.max_tokens,
        embeds_encoder=fresh if embed is None else embed,
        embeds_decoder=fresh if embed is None else embed,
    )


def _trained(recipe: Recipe, source: str) -> Setup:
    """The VAE of a checkpoint, with what trains and what is frozen in it."""
    folder = bundled(source) or Path(source)
    if not (folder / "config.json").is_file():
        folder = folder / "model"  # of a run
    if not (folder / "config.json").is_file():
        raise UserError(
            f"start_from: {source} is not a folder with a checkpoint on this machine, and plan "
            "downloads nothing. Download it first, and pass its folder"
        )
    c: dict[str, Any] = read_json(folder / "config.json")
    dtype = recipe.decoder.dtype
    sides = {}
    for which in ("encoder", "decoder"):
        inside = folder / which
        place = c.get(f"{which}_name_or_path")
        if (inside / "config.json").is_file():
            place = str(inside)
        if place is None:
            raise UserError(f"{folder} names no {which}. Plan it with a recipe of its backbones")
        sides[which] = find_backbone(place, which)
    encoder, decoder = sides["encoder"], sides["decoder"]
    embeds = bool(c.get("embed_backbones")) or bool(recipe.output.embed_backbones)
    pooling = c.get("encoder_pooling")
    return Setup(
        decoder=decoder.sizes,
        encoder=encoder.sizes,
        latent_dim=c["latent_dim"],
        injection=c["injection"],
        slots=c["slots"],
        hidden=c["injection_hidden"],
        tied_kv=c["tied_kv"],
        scaled=c.get("scaled_memory", False),
        standardise=c.get("standardise", False),
        decoder_training=c["decoder_training"],
        decoder_dtype=c.get("decoder_dtype") or "float32" if dtype == "auto" else dtype,
        encoder_training=c["encoder_training"],
        encoder_dtype=encoder.dtype,
        pooler=encoder.sizes.type == "bert",
        dense=0 if pooling else encoder.dense,
        queries=c.get("pooling_heads", 8) if pooling == "attention" else 0,
        lora_rank=c["lora_rank"],
        tokens=c["max_tokens"],
        embeds_encoder=embeds,
        embeds_decoder=embeds,
    )


def _encoder(model: str | None, fresh: ScratchEncoder | LSTMBackbone | None) -> Backbone:
    if isinstance(fresh, ScratchEncoder):
        f = fresh
        size = f.hidden_size // f.heads
        return Backbone(
            Sizes("t5", f.vocabulary, f.hidden_size, f.layers, f.heads, f.heads, size, f.ffn)
        )
    if fresh is not None:
        return _lstm(fresh, 2 * fresh.hidden_size)
    assert model is not None  # the recipe checks it
    found = find_backbone(model, "encoder")
    if found.sizes.type not in (*ENCODERS, "llamavae_lstm"):
        raise UserError(f"plan supports BERT and T5 encoders; {model} is a {found.sizes.type}")
    return found


def _decoder(model: str | None, fresh: ScratchDecoder | LSTMBackbone | None) -> Backbone:
    if isinstance(fresh, ScratchDecoder):
        f = fresh
        return Backbone(
            Sizes(
                "llama",
                f.vocabulary,
                f.hidden_size,
                f.layers,
                f.heads,
                f.kv_heads,
                f.hidden_size // f.heads,
                f.ffn,
                tied=True,
                embedding=f.hidden_size,
            )
        )
    if fresh is not None:
        return _lstm(fresh, fresh.hidden_size)
    assert model is not None  # the recipe checks it
    found = find_backbone(model, "decoder")
    if found.sizes.type in ENCODERS:
        raise UserError(f"expected a decoder; {model} is an encoder ({found.sizes.type})")
    return found


def _lstm(fresh: LSTMBackbone, hidden: int) -> Backbone:
    sizes = Sizes(
        "llamavae_lstm",
        fresh.vocabulary,
        hidden,
        fresh.layers,
        heads=0,
        kv_heads=0,
        head_size=0,
        ffn=0,
        embedding=fresh.embedding_size,
        dropout=fresh.dropout,
    )
    return Backbone(sizes)
