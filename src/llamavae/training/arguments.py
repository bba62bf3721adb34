"""Arguments of transformers' Trainer for a recipe."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import TrainingArguments

from llamavae.errors import UserError
from llamavae.training.recipe import Recipe, parse_recipe

_FSDP = "ACCELERATE_USE_FSDP"
_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config of accelerate",
}
"""Variables that `accelerate launch` sets, and the engines that they ask for."""


def training_arguments(
    recipe: Recipe, folder: Path, steps: int, resumed: bool
) -> TrainingArguments:
    """Trainer's arguments for a recipe."""
    o, world = recipe.optimisation, processes().num_processes
    if "wandb" in recipe.output.report_to and find_spec("wandb") is None:
        raise UserError("output.report_to wandb needs wandb: pip install 'llamavae[tracking]'")
    micro = o.micro_batch_size or max(1, o.batch_size // world)
    if o.batch_size % (micro * world):
        raise UserError(
            f"optimisation.batch_size {o.batch_size} cannot be shared among {world} processes in "
            f"micro-batches of {micro}: make it a multiple of {micro * world}"
        )
    kind = _PlacedArguments if o.shard_decoder and world > 1 else TrainingArguments
    args = kind(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=o.batch_size // (micro * world),
        learning_rate=o.learning_rate,
        weight_decay=o.weight_decay,
        adam_beta1=o.adam_beta1,
        warmup_steps=o.warmup_steps,
        lr_scheduler_type="constant_with_warmup" if o.decay == "constant" else o.decay,
        max_grad_norm=o.max_grad_norm,
        bf16=o.precision == "bfloat16",
        activation_checkpointing=o.gradient_checkpointing,
        seed=o.seed,
        data_seed=o.seed,
        eval_strategy="steps",
        eval_steps=recipe.evaluation.every,
        eval_on_start=not resumed,
        logging_steps=recipe.output.log_every,
        logging_nan_inf_filter=False,
        save_steps=recipe.output.save_every,
        save_total_limit=recipe.output.keep,
        report_to=list(recipe.output.report_to),
        ignore_data_skip=recipe.corpus.streaming,  # a stream resumes at its position
        dataloader_num_workers=o.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        accelerator_config={"dispatch_batches": False},  # each process reads its own share
        use_cpu=not torch.accelerator.is_available(),
        disable_tqdm=True,
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # torchrun uses several; without it Trainer would fall back to DataParallel
    return args


class _PlacedArguments(TrainingArguments):
    """Arguments of a model that is on its device already."""

    @property
    def place_model_on_device(self) -> bool:
        """Trainer must not move the model, since the parts of a decoder may be on the CPU."""
        return False


def with_launcher(recipe: Recipe) -> Recipe:
    """The recipe with what `accelerate launch` asked for.

    Its `--use_fsdp --fsdp_version 2` sets `optimisation.shard_decoder`, and `--fsdp_offload_params`
    `optimisation.cpu_offload`. Only the frozen decoder is distributed, by this library, since
    accelerate has no sharding on CPUs and none that leaves weights whole.

    Raises:
        UserError: It asked for an engine that is not supported.
    """
    for name, engine in _ENGINES.items():
        if _is_set(name):
            raise UserError(
                f"training with {engine} is not supported. Start with torchrun, and distribute a "
                "large decoder with --set optimisation.shard_decoder=true"
            )
    if not _is_set(_FSDP):
        return recipe
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError(
            "FSDP 1 is not supported. Start with --fsdp_version 2, or with torchrun and --set "
            "optimisation.shard_decoder=true"
        )
    del os.environ[_FSDP]  # or accelerate would also distribute what trains
    values = recipe.model_dump()
    values["optimisation"] |= {
        "shard_decoder": True,
        "cpu_offload": recipe.optimisation.cpu_offload or _is_set("FSDP_OFFLOAD_PARAMS"),
    }
    return parse_recipe(values)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


def processes() -> PartialState:
    """The processes that train together: those of `torchrun`, or this one."""
    return PartialState(cpu=not torch.accelerator.is_available())


def learning_rates(recipe: Recipe) -> dict[str, float]:
    """Peak learning rates by prefix of the weights' names; the others have `learning_rate`."""
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
