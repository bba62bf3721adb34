"""What is compared: our way to do a thing, and the least that any way has to do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import TrainerCallback

from benchmarks.bench import Bench, Mark, Run
from benchmarks.guidance import decode, flow_fit, guided_generation, products, short_fit
from llamavae import LlaMaVAE
from llamavae.data.sentences import prepare
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.evaluators.reconstruction import Reconstruction
from llamavae.training.arguments import training_arguments
from llamavae.training.recipe import parse_recipe
from llamavae.training.trainer import VAETrainer


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        ours: Sets up our side and returns the run that is timed.
        floor: The same for the floor.
        time: Largest ratio of times, ours to floor, that is good enough; None to report it.
        speed: Smallest ratio of speeds, of encoding, instead of `time`.
        memory: The same for the peak memory above what is held before the run; None to report it.
        peak: Stands in for `ours` where memory is measured.
    """

    ours: Callable[[Bench], Run]
    floor: Callable[[Bench], Run]
    time: float | None = 1.05
    memory: float | None = None
    speed: float | None = None
    peak: Callable[[Bench], Run] | None = None


# ------------------------------------------------------------------------------- training step


def adamw(module: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW, as Trainer makes it, over what trains in `module`."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return with_state(torch.optim.AdamW(parameters, lr=1e-4, fused=True))


def with_state(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Make the state that an optimiser otherwise makes in its first step; move nothing."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return optimizer


def trained(loss: Tensor, optimizer: torch.optim.Optimizer, mark: Mark) -> None:
    mark("forward")
    loss.backward()
    mark("backward")
    optimizer.step()
    optimizer.zero_grad()
    mark("optimizer")


def step(bench: Bench) -> Run:
    """One training step of the VAE on cached sentence vectors."""
    rows, tokens = bench.settings.batch, bench.settings.tokens
    model = bench.model().train()
    optimizer = adamw(model)
    # `tokens` go through the decoder and as many are targets: bos in front, the last one behind
    ids = bench.ids(rows, tokens + 1)
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "sentence_vectors": torch.randn(rows, bench.encoder_dim, device=bench.device),
    }

    def run(mark: Mark) -> None:
        trained(model(**batch).loss, optimizer, mark)

    return run


def plain_step(bench: Bench) -> Run:
    """One teacher-forced step of the plain decoder; the same parts of it train."""
    lm = bench.decoder().train().requires_grad_(False)
    for part in (lm.get_input_embeddings(), lm.get_output_embeddings()):
        part.requires_grad_(True)
    optimizer = adamw(lm)
    ids = bench.ids(bench.settings.batch, bench.settings.tokens)

    def run(mark: Mark) -> None:
        trained(lm(input_ids=ids, labels=ids, use_cache=False).loss, optimizer, mark)

    return run


# ---------------------------------------------------------------------------------- generation


def generate(bench: Bench) -> Run:
    """Greedy texts of a fixed length from latent codes z."""
    model = bench.model()
    z = torch.randn(bench.settings.batch, model.config.latent_dim, device=bench.device)
    tokens = bench.settings.tokens

    def run(mark: Mark) -> None:
        model.generate(z, max_new_tokens=tokens, min_new_tokens=tokens)

    return run


def plain_generate(bench: Bench) -> Run:
    """Greedy texts of the same length from the plain decoder, begun with bos."""
    lm = bench.decoder()
    bos = torch.full((bench.settings.batch, 1), 1, device=bench.device)
    tokens = bench.settings.tokens

    def run(mark: Mark) -> None:
        lm.generate(
            bos,
            attention_mask=torch.ones_like(bos),
            do_sample=False,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
        )

    return run


DECODED = 400  # texts


def decode_lengths(bench: Bench) -> Run:
    """Texts of different lengths from their codes, by the bundled `mini` whatever the shape."""
    model, z = _bundled(bench)

    def run(mark: Mark) -> None:
        model.decode(z, bench.settings.batch)

    return run


def plain_decode_lengths(bench: Bench) -> Run:
    """The same by `generate`, in batches as they come."""
    model, z = _bundled(bench)

    def run(mark: Mark) -> None:
        for part in z.split(bench.settings.batch):
            model.decoder.texts(model.generate(part))

    return run


def _bundled(bench: Bench) -> tuple[LlaMaVAE, Tensor]:
    model = LlaMaVAE.from_pretrained("mini").to(bench.device)
    return model, model.encode(bench.texts[:DECODED]).mean


# ------------------------------------------------------------------------------------ encoding


def encode(bench: Bench) -> Run:
    """Posteriors of texts."""
    model = bench.model(bench.encoder())
    texts = bench.lines

    def run(mark: Mark) -> None:
        model.encode(texts, batch_size=bench.settings.batch)

    return run


def plain_encode(bench: Bench) -> Run:
    """Sentence vectors of the same texts."""
    encoder = bench.encoder()
    texts = bench.lines

    def run(mark: Mark) -> None:
        encoder.encode(
            texts,
            batch_size=bench.settings.batch,
            convert_to_tensor=True,
            show_progress_bar=False,
        )

    return run


# ------------------------------------------------------------------------------ reconstruction

RECONSTRUCTED = 128  # texts


def reconstruction(bench: Bench) -> Run:
    """The evaluator: texts encoded, decoded greedily from their points, and compared."""
    model = bench.model(bench.encoder())
    data = EvaluationData(bench.texts[:RECONSTRUCTED], seed=bench.settings.seed)
    evaluator = Reconstruction(batch_size=bench.settings.batch)

    def run(mark: Mark) -> None:
        evaluator(model, data)

    return run


def plain_reconstruction(bench: Bench) -> Run:
    """Token ids written from the same points, in batches as they come."""
    model = bench.model(bench.encoder())
    z = model.encode(bench.texts[:RECONSTRUCTED]).mean

    def run(mark: Mark) -> None:
        for part in z.split(bench.settings.batch):
            model.generate(part)

    return run


# ----------------------------------------------------------------------------------- an epoch


def epoch(bench: Bench) -> Run:
    """An epoch over real sentences in the library's own training loop, encodings cached."""
    return _epoch(bench, bench.texts)


def longest(bench: Bench) -> Run:
    """The epoch's longest sentences, four batches of them: where its memory peaks."""
    texts = sorted(bench.texts, key=lambda text: len(bench.tokenizer.tokenize(text)))
    return _epoch(bench, texts[-4 * bench.settings.batch :])


def _epoch(bench: Bench, texts: list[str]) -> Run:
    settings = bench.settings
    model = bench.model(bench.encoder())
    recipe = parse_recipe(
        {
            "encoder": {"model": "random"},
            "decoder": {"model": "random", "max_tokens": settings.tokens},
            "optimisation": {"epochs": 1, "batch_size": settings.batch, "seed": settings.seed},
        }
    )
    steps = -(-len(texts) // settings.batch)

    def run(mark: Mark) -> None:
        with (
            tempfile.TemporaryDirectory() as name,
            mock.patch.dict(os.environ, LLAMAVAE_CACHE=name),
        ):
            data = prepare(texts, model.decoder, model.encoder, progress=False)
            mark("prepare")
            folder = Path(name)
            args = training_arguments(recipe, folder, steps, resumed=True)
            args.eval_strategy = args.save_strategy = "no"
            trainer = VAETrainer(model, args, data, data, recipe, progress=False)
            with_state(trainer.create_optimizer())
            trainer.add_callback(_Marks(mark))
            trainer.train()

    return run


class _Marks(TrainerCallback):
    """Marks the start of training and the end of each optimiser step."""

    def __init__(self, mark: Mark) -> None:
        self.mark = mark

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.mark("start")

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.mark("step")


CASES = {
    "step": Case(step, plain_step, time=1.03, memory=1.0),
    "generate": Case(generate, plain_generate, time=1.02),
    "decode": Case(decode_lengths, plain_decode_lengths, time=None),
    "encode": Case(encode, plain_encode, speed=0.95),
    "reconstruction": Case(reconstruction, plain_reconstruction, time=1 / 0.9),
    "epoch": Case(epoch, plain_step, peak=longest),
    "guided-generation": Case(guided_generation, decode),
    "flow-fit": Case(flow_fit, products, time=None, peak=short_fit),
}
