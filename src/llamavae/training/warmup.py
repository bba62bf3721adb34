"""Warm-up of a decoder from scratch: it is trained as a plain language model before the VAE."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_model
from torch import Tensor, nn
from transformers import TrainingArguments

from llamavae.data.batches import Collator
from llamavae.data.sentences import SentenceData, prepare
from llamavae.data.streams import SentenceStream, stream_layout
from llamavae.files import disk_errors, replacing_folder
from llamavae.modeling import TextDecoder
from llamavae.training.arguments import processes, training_arguments
from llamavae.training.folder import RESUME, RunRecord, last_checkpoint
from llamavae.training.recipe import Recipe, parse_recipe
from llamavae.training.sentence_trainer import SentenceTrainer
from llamavae.training.sentences import RunSentences


def warm_up(
    recipe: Recipe, corpus: RunSentences, record: RunRecord, resume: bool, progress: bool
) -> Path:
    """Train the fresh decoder as a plain language model; returns where it is saved."""
    scratch, folder = recipe.decoder.scratch, Path(recipe.output.folder)
    assert scratch is not None
    done, run = folder / "backbones" / "decoder-warm", folder / "warm-up"
    if done.is_dir():
        return done
    decoder = TextDecoder.load(
        folder / "backbones" / "decoder", max_tokens=recipe.decoder.max_tokens, training="full"
    )
    settings = recipe.model_dump()
    settings["optimisation"] |= {
        "epochs": None,
        "steps": scratch.warmup_steps,
        "batch_size": scratch.warmup_batch_size,
        "micro_batch_size": None,
        "batch_tokens": None,
        "learning_rate": scratch.warmup_learning_rate,
        "warmup_steps": min(recipe.optimisation.warmup_steps, scratch.warmup_steps // 10),
        "gradient_checkpointing": False,
        "shard_decoder": False,
        "cpu_offload": False,
    }
    settings["output"]["report_to"] = []
    if isinstance(corpus.train, list):
        with processes().main_process_first():
            shown = progress and processes().is_main_process
            data = prepare(corpus.train, decoder, progress=shown)
    else:
        state = processes()
        layout = stream_layout(
            corpus.train,
            scratch.warmup_batch_size,
            processes=state.num_processes,
            process=state.process_index,
        )
        data = SentenceStream(corpus.train, decoder, layout, recipe.optimisation.seed)
    args = training_arguments(parse_recipe(settings), run, scratch.warmup_steps, resumed=True)
    args.eval_strategy = "no"
    trainer = _LanguageModelTrainer(decoder, args, data, folder, progress)
    trainer.add_callback(record)
    trainer.fit(last_checkpoint(run, verified=True) if resume else None, resume)
    if trainer.is_world_process_zero():
        with disk_errors(folder, RESUME), replacing_folder(done) as new:
            decoder.lm.save_pretrained(new)
            decoder.tokenizer.save_pretrained(new)
        shutil.rmtree(run, ignore_errors=True)
    processes().wait_for_everyone()
    return done


class _PlainModel(nn.Module):
    """A decoder as the Trainer wants it: a module whose output has a loss."""

    def __init__(self, decoder: TextDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return {"loss": self.decoder.nll(input_ids, attention_mask) / len(input_ids)}


class _LanguageModelTrainer(SentenceTrainer):
    """Trains a decoder as a plain language model, before it becomes part of a VAE.

    Args:
        decoder: The decoder; all of it trains.
        args: See `training_arguments`.
        data: Training sentences.
        folder: Folder of the run, whose log the warm-up writes to.
        progress: Show a progress bar on stderr.
    """

    label, step_name = "warm-up", "warmup_step"

    def __init__(
        self,
        decoder: TextDecoder,
        args: TrainingArguments,
        data: SentenceData | SentenceStream,
        folder: Path,
        progress: bool = True,
    ) -> None:
        super().__init__(_PlainModel(decoder), args, data, Collator(decoder), progress)
        self.log_file = folder / "log.jsonl"
        self.decoder = decoder

    def parts(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one micro-batch, which is its nll."""
        loss = model(**inputs)["loss"]
        return loss, {"nll": loss}

    def write(self, line: dict[str, Any]) -> None:
        """Log lines of the warm-up have names of their own."""
        super().write({"warmup_nll": line["nll"]})

    def save_weights(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """The decoder in transformers' own format."""
        if self.args.should_save:
            self.decoder.lm.save_pretrained(folder)

    def load_weights(self, folder: Path) -> None:
        """The decoder's weights."""
        load_model(self.decoder.lm, folder / "model.safetensors")
