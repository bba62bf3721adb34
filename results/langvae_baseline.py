"""Reconstructions by LangVAE 0.6.13, a neighbouring library, within a budget of processor time.

    python results/langvae_baseline.py --train FILE --test FILE --encoder FOLDER --decoder FOLDER \
        --latent 128 --minutes 30 --seed 0 --output FOLDER

LangVAE needs an environment of its own, because it pins transformers 4.48: `pip install
langvae==0.6.13`. This file uses neither llamavae nor other files of the repository, so that it runs
in that environment.

It trains on the lines of a file until the budget is spent, encodes each test line as its posterior
mean and decodes greedily. `predictions.jsonl` has the format of `llamavae score`; the id of an item
is the zero-based number of its line, and the control is the text of the code of the next item.
`run.json` has the settings, versions, costs and losses. An interrupted run continues with
`--checkpoint OUTPUT/checkpoint` and the same arguments.

Settings are those of LangVAE's README unless stated otherwise: AdamW, learning rate 1e-3, batches
of 50 sentences of similar length, cached encodings, beta up to 1, a KL threshold of 2 nats. What
differs, and why:

- One epoch of the KL schedule instead of 20, since the budget of 30 minutes on one thread is about
  one epoch of 12,000 sentences. Beta is 0 in the first quarter, increases in the second, and is
  `--beta` afterwards.
- The README sorts the sentences in descending order of length, and the trainer does not shuffle.
  In less than an epoch, no short sentence would occur. Here, batches of similar length follow one
  another in random order.
- The trainer keeps the best weights at the end of an epoch and lowers the learning rate after five
  epochs without improvement. The budget ends earlier, so the last weights are used.
- `torch.compile`, which LangVAE applies to its loss, is disabled: it would compile the loss again
  for each length of a batch.
- The decoder is written for transformers 4.48 first, see `convert_decoder`.

LangVAE trains without teacher forcing: each step decodes token by token, and the decoder reads the
argmax of its own output. The projection of the latent code has the type of the decoder.
"""

# pyright: reportMissingImports=false
# langvae and pythae are not in the environment of the library

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

PACKAGES = ("langvae", "pythae", "torch", "transformers", "tokenizers", "numpy")
"""Packages whose versions are recorded."""

_MAX_EPOCHS = 100  # more than any budget of processor time


class BudgetSpent(Exception):
    """The training has used its processor time."""


@dataclass
class Meter:
    """Records the loss of each step and ends the training when the budget is spent.

    Attributes:
        seconds: Processor seconds of the budget, from the construction of the meter.
        every: Processor seconds between two calls of `save`.
        save: Called without arguments, for checkpoints.
        clock: Processor seconds of the process.
        losses: Processor seconds and loss of each step, those before an interruption included.
    """

    seconds: float
    every: float = 120.0
    save: Callable[[], object] = lambda: None
    clock: Callable[[], float] = time.process_time
    losses: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._saved = self.clock()
        self._start = self._saved - (self.losses[-1][0] if self.losses else 0.0)

    @property
    def spent(self) -> float:
        """Processor seconds since the start."""
        return self.clock() - self._start

    def step(self, loss: float) -> None:
        """Record a step.

        Raises:
            BudgetSpent: The budget is spent.
        """
        self.losses.append((round(self.spent, 2), loss))
        if self.spent >= self.seconds:
            raise BudgetSpent
        if self.clock() - self._saved >= self.every:
            self.save()
            self._saved = self.clock()


class System(Protocol):
    """A sentence VAE."""

    def save(self) -> None:
        """Write a checkpoint."""
        ...

    def train(self, lines: Sequence[str], held_out: Sequence[str], meter: Meter) -> dict[str, Any]:
        """Train until the meter raises `BudgetSpent`, and return figures of the training."""
        ...

    def held_out_loss(self, lines: Sequence[str]) -> dict[str, float]:
        """Parts of the loss of lines that were not trained on, by name."""
        ...

    def reconstruct(self, lines: Sequence[str]) -> list[str]:
        """Decode the posterior mean of each line greedily."""
        ...


# ------------------------------------------------------------------------------------- data


def read_lines(path: Path) -> list[str]:
    """The lines of a text file."""
    return path.read_text(encoding="utf-8").splitlines()


def chosen_lines(count: int, limit: int | None, seed: int) -> list[int]:
    """Numbers of the test lines that are decoded: all of them, or a seeded sample in order."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(random.Random(seed).sample(range(count), limit))


def similar_lengths(lines: Sequence[str], batch: int, epochs: int, rng: random.Random) -> list[str]:
    """The lines of several epochs, in batches of similar lengths that are in random order.

    Lines that do not fill a batch are not in the epoch.
    """
    found: list[str] = []
    for _ in range(epochs):
        ordered = sorted(rng.sample(list(lines), len(lines)), key=len, reverse=True)
        first = rng.randrange(len(lines) % batch + 1)
        batches = [ordered[i : i + batch] for i in range(first, len(lines) - batch + 1, batch)]
        rng.shuffle(batches)
        found += [line for each in batches for line in each]
    return found


def write_predictions(
    path: Path, ids: Sequence[int], references: Sequence[str], texts: Sequence[str], benchmark: str
) -> None:
    """Write texts in the format of `llamavae score`; the control is the text of the next item."""
    about = {
        "system": "LangVAE",
        "task": "reconstruction",
        "benchmark": benchmark,
        "split": "test",
    }
    controls = [*texts[1:], *texts[:1]]
    with path.open("w", encoding="utf-8") as file:
        for i, reference, text, control in zip(ids, references, texts, controls, strict=True):
            item = {"id": str(i), "reference": reference, "prediction": text, "control": control}
            file.write(json.dumps(item | about, ensure_ascii=False) + "\n")


# ------------------------------------------------------------------------------------- LangVAE


def convert_decoder(folder: Path, output: Path, dtype: str) -> Path:
    """Write a language model such that transformers 4.48 reads it as transformers 5 does.

    transformers 5 saves `rope_theta` in `rope_parameters`, which version 4.48 ignores; it would use
    another base of the rotary embedding. The class of the tokenizer has a new name as well. LangVAE
    loads the model in the type of its weights.

    Args:
        folder: A Llama model as a folder of transformers, with its weights in one file.
        output: The new folder.
        dtype: Type of the weights, `bfloat16` or `float32`.
    """
    import torch
    from safetensors.torch import load_file, save_file

    output.mkdir(parents=True, exist_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("dtype", None)
    if rope := config.pop("rope_parameters", None):
        config["rope_theta"] = rope["rope_theta"]
    config["torch_dtype"] = dtype
    (output / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    (output / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2), encoding="utf-8")
    shutil.copy(folder / "tokenizer.json", output)
    weights = load_file(folder / "model.safetensors")
    weights = {name: weight.to(getattr(torch, dtype)) for name, weight in weights.items()}
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    return output


class LangVAESystem:
    """LangVAE with its trainer of a cyclical KL schedule."""

    def __init__(self, given: argparse.Namespace) -> None:
        import torch
        from langvae import LangVAE
        from langvae.decoders import SentenceDecoder
        from langvae.encoders import SentenceEncoder
        from pythae.models.vae import VAEConfig

        # LangVAE compiles its loss, and would compile it again for each length of a batch
        torch._dynamo.config.disable = True
        torch.manual_seed(given.seed)
        self.given = given
        self.optimizer: Any = None
        if given.checkpoint is not None:
            self.model = LangVAE.load_from_folder(str(given.checkpoint))
        else:
            folder = convert_decoder(given.decoder, given.output / "decoder", given.dtype)
            decoder = SentenceDecoder(str(folder), given.latent, given.max_tokens)
            encoder = SentenceEncoder(
                str(given.encoder), given.latent, decoder.tokenizer, caching=True
            )
            self.model = LangVAE(VAEConfig(latent_dim=given.latent), encoder, decoder)

    def save(self) -> None:
        """Write the weights and the state of the optimiser to the folder `checkpoint`."""
        from safetensors.torch import save_file

        folder = self.given.output / "checkpoint"
        self.model.save(str(folder))
        if self.optimizer is not None:
            state = self.optimizer.state_dict()["state"]
            flat = {f"{i}.{name}": x for i, each in state.items() for name, x in each.items()}
            save_file(flat, folder / "optimizer.safetensors")

    def _resume(self, optimizer: Any) -> None:
        """Load the state of the optimiser that `save` wrote."""
        from safetensors.torch import load_file

        state: dict[int, dict[str, Any]] = {}
        for key, value in load_file(self.given.checkpoint / "optimizer.safetensors").items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _data(self, lines: Sequence[str]) -> Any:
        from langvae.data_conversion.tokenization import TokenizedDataSet

        decoder: Any = self.model.decoder
        return TokenizedDataSet(list(lines), decoder.tokenizer, decoder.max_len, caching=True)

    def train(self, lines: Sequence[str], held_out: Sequence[str], meter: Meter) -> dict[str, Any]:
        """Train until the meter raises `BudgetSpent`, and return figures of the training.

        The trainer has one epoch, which holds all lines of the budget, so that a training can be
        resumed within an epoch. The KL schedule has `--epochs` epochs of the lines; after them,
        beta is constant.
        """
        import torch
        from langvae.trainers import (
            CyclicalScheduleKLThresholdTrainer,
            CyclicalScheduleKLThresholdTrainerConfig,
        )
        from langvae.trainers.cyclical_schedule_kl import frange_cycle_zero_linear
        from pythae.trainers.training_callbacks import TrainingCallback

        given, batch, done = self.given, self.given.batch, len(meter.losses)
        stream = similar_lengths(lines, batch, _MAX_EPOCHS, random.Random(given.seed))
        per_epoch = len(lines) // batch
        parts: list[tuple[float, float, float]] = []

        driver = self

        class Progress(TrainingCallback):
            def on_train_begin(self, training_config: Any, **kwargs: Any) -> None:
                driver.optimizer = trainer.optimizer
                if done:
                    driver._resume(trainer.optimizer)
                parts.clear()

            def on_train_step_end(self, training_config: Any, **kwargs: Any) -> None:
                meter.step(parts[-1][0])

        def remember(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            # the callbacks of the trainer do not receive the loss
            parts.append((float(output.loss), float(output.recon_loss), float(output.reg_loss)))

        config = CyclicalScheduleKLThresholdTrainerConfig(
            output_dir=str(given.output / "trainer"),
            num_epochs=1,
            learning_rate=given.learning_rate,
            per_device_train_batch_size=batch,
            optimizer_cls="AdamW",
            target_kl=given.target_kl,
            keep_best_on_train=True,
            no_cuda=True,
            seed=given.seed + done,
        )
        data = self._data(stream[done * batch :])
        trainer = CyclicalScheduleKLThresholdTrainer(self.model, data, None, config, [Progress()])
        beta = torch.full((_MAX_EPOCHS * per_epoch,), float(given.beta))
        planned = given.epochs * per_epoch
        beta[:planned] = frange_cycle_zero_linear(
            planned,
            stop=given.beta,
            n_cycle=max(1, round(0.8 * given.epochs)),
            ratio_increase=0.25,
            ratio_zero=0.25,
        )
        trainer.beta_t_list = beta[done:]
        hook = self.model.register_forward_hook(remember)
        try:
            trainer.train()
        except BudgetSpent:
            pass
        finally:
            hook.remove()
        return {
            "epochs": len(meter.losses) / per_epoch,
            "parts": [(reconstruction, kl) for _, reconstruction, kl in parts],
        }

    def held_out_loss(self, lines: Sequence[str]) -> dict[str, float]:
        """LangVAE's reconstruction term and the KL in nats, both means over batches of 50 lines."""
        import torch
        from langvae.data_conversion.tokenization import collate_sparse_fn

        self.model.eval()
        self.model.cur_beta, self.model.target_kl = 1.0, 0.0
        data, found = self._data(sorted(lines, key=len)), []
        with torch.no_grad():
            for start in range(0, len(lines), 50):
                stop = min(start + 50, len(lines))
                output = self.model(collate_sparse_fn([data[i] for i in range(start, stop)]))
                found.append((float(output.recon_loss), float(output.reg_loss)))
        reconstruction, kl = (sum(each) / len(found) for each in zip(*found, strict=True))
        return {"reconstruction": reconstruction, "kl": kl}

    def reconstruct(self, lines: Sequence[str]) -> list[str]:
        """Decode the posterior mean of each line greedily, in batches of 50."""
        import torch
        from langvae.data_conversion.tokenization import collate_sparse_fn

        self.model.eval()
        data, texts = self._data(lines), []
        with torch.no_grad():
            for start in range(0, len(lines), 50):
                stop = min(start + 50, len(lines))
                batch: Any = collate_sparse_fn([data[i] for i in range(start, stop)])
                codes = self.model.encoder(batch["data"]).embedding
                texts += [text.strip() for text in self.model.decode_sentences(codes)]
                print(f"decoded {stop} of {len(lines)} lines", flush=True)
        return texts


# ------------------------------------------------------------------------------------- run


def versions() -> dict[str, str | None]:
    """The versions of Python and of the packages, None for those that are not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def run(
    given: argparse.Namespace,
    build: Callable[[argparse.Namespace], System] = LangVAESystem,
    clock: Callable[[], float] = time.process_time,
) -> Mapping[str, Any]:
    """Train, decode, and write `predictions.jsonl` and `run.json`.

    Args:
        given: The arguments of the command line.
        build: Makes the system; tests pass another one.
        clock: Processor seconds of the process.

    Returns:
        The content of `run.json`.
    """
    given.output.mkdir(parents=True, exist_ok=True)
    lines = read_lines(given.train)
    random.Random(given.seed).shuffle(lines)
    held_out, lines = lines[: given.held_out], lines[given.held_out :]
    began = clock()
    system = build(given)
    record: dict[str, Any] = {
        "settings": {name: _plain(value) for name, value in vars(given).items()},
        "versions": versions(),
        "processor_seconds": {"loading": clock() - began},
    }

    if given.minutes > 0:

        def save() -> None:
            system.save()
            record["training"] = {"steps": len(meter.losses), "losses": meter.losses}
            _write(record, given.output)

        losses = [] if given.checkpoint is None else _losses(given.checkpoint.parent)
        meter = Meter(60 * given.minutes, save=save, clock=clock, losses=losses)
        figures = system.train(lines, held_out, meter)
        record["processor_seconds"]["training"] = meter.spent
        save()
        record["training"] |= figures
    record["held_out"] = system.held_out_loss(held_out)
    _write(record, given.output)

    test = held_out if given.validate else read_lines(given.test)
    ids = chosen_lines(len(test), given.limit, given.seed)
    references = [test[i] for i in ids]
    began = clock()
    texts = system.reconstruct(references)
    record["processor_seconds"]["decoding"] = clock() - began
    record["sentences"] = len(ids)
    cost = {"processor seconds per sentence": record["processor_seconds"]["decoding"] / len(ids)}
    (given.output / "predictions.cost.json").write_text(json.dumps(cost) + "\n", encoding="utf-8")
    write_predictions(given.output / "predictions.jsonl", ids, references, texts, given.benchmark)
    _write(record, given.output)
    return record


def _write(record: dict[str, Any], folder: Path) -> None:
    record["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _losses(folder: Path) -> list[tuple[float, float]]:
    """The losses of the interrupted run of a folder."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return [(seconds, loss) for seconds, loss in record["training"]["losses"]]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True, help="one sentence per line")
    parser.add_argument("--test", type=Path, required=True, help="one sentence per line")
    parser.add_argument("--encoder", type=Path, required=True, help="folder of the encoder")
    parser.add_argument("--decoder", type=Path, required=True, help="folder of the decoder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--latent", type=int, default=128, help="dimensions of the latent space")
    parser.add_argument("--minutes", type=float, default=30.0, help="processor time of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=40)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--beta", type=float, default=1.0, help="maximum weight of the KL")
    parser.add_argument("--target-kl", type=float, default=2.0, help="KL without penalty, in nats")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of the KL schedule")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--held-out", type=int, default=100, help="training lines for validation")
    parser.add_argument("--limit", type=int, default=None, help="number of test lines, sampled")
    parser.add_argument("--validate", action="store_true", help="decode the held-out lines instead")
    parser.add_argument(
        "--checkpoint", type=Path, default=None, help="folder `checkpoint` of an interrupted run"
    )
    parser.add_argument("--benchmark", default="worldtree", help="name of the data")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse())
