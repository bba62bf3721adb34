"""The trainer of a VAE: objective, evaluation on held-out sentences, and checkpoints."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from llamavae.data.batches import Collator
from llamavae.data.sentences import SentenceData
from llamavae.data.streams import SentenceStream
from llamavae.errors import UserError
from llamavae.modeling import LlaMaVAE, SentenceEncoder
from llamavae.modeling.checkpoint import frozen_state, reload
from llamavae.modeling.checkpoint import write as write_checkpoint
from llamavae.parsing import read_json
from llamavae.training.arguments import learning_rates
from llamavae.training.auxiliary import WithAuxiliary
from llamavae.training.best import BestModel
from llamavae.training.callbacks import say
from llamavae.training.denoising import delete_tokens
from llamavae.training.diagnostics import diagnose
from llamavae.training.distillation import similarity_loss
from llamavae.training.measure import measure
from llamavae.training.recipe import ObjectiveSettings, Recipe
from llamavae.training.schedules import build_schedule
from llamavae.training.sentence_trainer import SentenceTrainer

_DELETION_WIDTH = 512  # random numbers for each sentence, used again for longer ones


class VAETrainer(SentenceTrainer):
    """Trains a `LlaMaVAE` on its evidence lower bound.

    If the sentences have vectors of a teacher, `teacher.weight` times `similarity_loss` is added,
    over the pairs of sentences in each micro-batch.

    Args:
        model: The VAE.
        args: See `training_arguments`.
        data: Training sentences.
        validation: Held-out sentences for the diagnostics.
        recipe: Objective and evaluation settings.
        progress: Show a progress bar on stderr.
        best: Evaluates the model too, and keeps the best one.
    """

    def __init__(
        self,
        model: LlaMaVAE,
        args: TrainingArguments,
        data: SentenceData | SentenceStream,
        validation: SentenceData,
        recipe: Recipe,
        progress: bool = True,
        best: BestModel | None = None,
    ) -> None:
        objective = recipe.objective
        if objective.token_deletion and (model.encoder is None or not model.encoder.trains):
            raise UserError(
                "objective.token_deletion changes the texts that the encoder reads, but this "
                "encoder is frozen and its outputs are cached. Use an encoder that is trained "
                "(encoder.training), or omit the setting"
            )
        super().__init__(
            WithAuxiliary(model, objective) if WithAuxiliary.needed(objective) else model,
            args,
            data,
            Collator(model.decoder, model.encoder),
            progress,
            eval_dataset=validation,
        )
        self.vae = model
        self.auxiliary = self.model if isinstance(self.model, WithAuxiliary) else None
        self.validation, self.recipe, self.best = validation, recipe, best
        self.schedule = build_schedule(recipe.objective)
        self.metrics: dict[str, Any] = {}
        self.measured_at = -1
        self.warnings: list[str] = []
        self._kl: list[Tensor] = []  # raw KL of the micro-batches of this step

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW, with a group of parameters for each learning rate and weight decay."""
        if self.optimizer is None:
            model = cast(nn.Module, self.model if model is None else model)
            decayed = set(self.get_decay_parameter_names(model))
            first = self.args.learning_rate  # the log shows the rate of the first group
            rates = learning_rates(self.recipe)
            groups: dict[tuple[float, float], list[nn.Parameter]] = {}
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    weight_decay = self.args.weight_decay if name in decayed else 0.0
                    name = name.removeprefix("module.").removeprefix("vae.")
                    rate = next((rates[p] for p in rates if name.startswith(p)), first)
                    groups.setdefault((rate, weight_decay), []).append(parameter)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, cast(Any, model))
            self.optimizer = kind(
                [
                    {"params": groups[rate, weight_decay], "lr": rate, "weight_decay": weight_decay}
                    for rate, weight_decay in sorted(groups, key=lambda key: key[0] != first)
                ],
                **options,
            )
        return self.optimizer

    @property
    def beta(self) -> float:
        """Weight of the KL term at the present step."""
        return self.schedule(self.state.global_step, self.state.max_steps)

    def parts(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of one micro-batch; nll, raw KL, KL term, beta and the further losses."""
        objective: ObjectiveSettings = self.recipe.objective
        rows, width = inputs["input_ids"].shape
        teacher = inputs.pop("teacher_vectors", None)
        config = self.vae.config
        keep = None
        if objective.word_dropout:
            draws = self.random_rows(torch.rand, rows, config.max_tokens)
            keep = draws[:, : width - 1] >= objective.word_dropout
            keep[:, 0] = True  # the bos token is not a word
        if objective.token_deletion:
            inputs["encoder_inputs"] = self._with_deletions(inputs["encoder_inputs"])
        if objective.adversarial:
            inputs["prior"] = self.random_rows(torch.randn, rows, config.latent_dim, stream=1)
        noise = self.random_rows(torch.randn, rows, config.latent_dim)
        beta = self.beta
        result = model(
            **inputs,
            noise=noise if objective.sample else torch.zeros_like(noise),
            keep=keep,
            beta=beta,
            kl_rule=objective.kl_rule,
            kl_threshold=objective.kl_threshold,
        )
        output, further = result if isinstance(result, tuple) else (result, {})
        loss, kl = output.loss, output.kl.detach().sum(-1).mean()
        if objective.schedule == "target_rate":
            self._kl.append(kl)
            if self._micro + 1 == self.args.gradient_accumulation_steps:
                mean = self.accelerator.reduce(torch.stack(self._kl).mean(), reduction="mean")
                self.schedule.observe(cast(Tensor, mean).item())
                self._kl = []
        scalars = {"nll": output.nll, "kl": kl, "kl_term": output.kl_term}
        scalars["beta"] = torch.full_like(kl, min(beta, torch.finfo(kl.dtype).max))
        if objective.logvar_penalty:
            # keeps sigma near 1 in place of the KL (Rubenstein et al., arXiv 1802.03761)
            further["logvar_penalty"] = output.logvar.abs().sum(-1).mean()
        for name, value in further.items():
            scalars[name] = value
            weight = 1.0 if name == "discriminator" else getattr(objective, name)
            loss = loss + weight * value
        if teacher is not None:
            scalars["similarity"] = similarity_loss(output.mean, teacher)
            loss = loss + self.recipe.teacher.weight * scalars["similarity"]
        return loss, scalars

    def _with_deletions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inputs of the encoder without the tokens that `objective.token_deletion` deletes."""
        tokenizer = cast(SentenceEncoder, self.vae.encoder).tokenizer
        special = [i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id]
        rows, width = inputs["input_ids"].shape
        draws = self.random_rows(torch.rand, rows, _DELETION_WIDTH, stream=1)
        draws = draws[:, torch.arange(width) % _DELETION_WIDTH]
        return delete_tokens(inputs, draws, self.recipe.objective.token_deletion, special)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Compute and log the metrics of the held-out sentences, and warnings about them."""
        start = time.perf_counter()
        step, main = self.state.global_step, self.is_world_process_zero()
        decoded = self.recipe.evaluation.decoded
        self.check_finite()
        with self.accelerator.autocast():
            try:
                metrics = measure(self.vae, self.validation, decoded, self.args.seed)
            except UserError as error:
                raise self.diverged(str(error)) from error
            chosen_by = self.best(self.vae, step, main) if self.best else {}
        self.metrics, self.measured_at = metrics, step
        named = {f"{metric_key_prefix}_{k}": v for k, v in (metrics | chosen_by).items()}
        scalars = {name: value for name, value in named.items() if not isinstance(value, list)}
        self.log(scalars)
        self.write({**scalars, **named})
        progress = step / max(1, self.state.max_steps)
        dim = self.vae.config.latent_dim
        self.warnings = diagnose(metrics, dim, self.beta, progress, self.recipe)
        for warning in self.warnings:
            self.write({"warning": warning})
            if main:
                say(f"warning (step {step}): {warning}")
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        self._since += time.perf_counter() - start
        return named

    def save_weights(self, folder: Path, state: dict[str, Tensor] | None) -> None:
        """The VAE's checkpoint, the modules of further losses, and the beta schedule's state."""
        state = frozen_state(self.vae, self.args.should_save)
        if not self.args.should_save:
            return
        if self.auxiliary is not None:
            self.auxiliary.save(folder)
        write_checkpoint(self.vae, folder, state)  # in place: other processes write to it too
        (folder / "schedule.json").write_text(json.dumps(self.schedule.state()))

    def load_weights(self, folder: Path) -> None:
        """The trained weights, and the state of the beta schedule."""
        if self.auxiliary is not None:
            self.auxiliary.load(folder)
        reload(self.vae, folder)
        self.schedule.load_state(read_json(folder / "schedule.json"))
