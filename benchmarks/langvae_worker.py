"""Training steps of LangVAE 0.6.13, a neighbouring library, one for each line of standard input.

    $LANGVAE_PYTHON benchmarks/langvae_worker.py JOB.json

LangVAE needs an environment of its own, because it pins transformers 4.48. This file uses neither
llamavae nor other files of the repository, so that it runs in that environment. `JOB.json` has the
folders `encoder` and `decoder`, the `lines` in the order of the batches, and `latent`,
`max_tokens`, `batch`, `threads`, `clock` (cpu or wall) and `seed`.

The process first writes a line of JSON with `versions`. It then makes a step of training for each
line that it reads, and writes `seconds` for each. It ends with its input.

The step is that of LangVAE's trainer with the settings of its README: AdamW, clipped gradients, KL
threshold of 2 nats, cached encodings. The encodings are cached beforehand. `torch.compile`, which
LangVAE applies to its loss, is disabled: it would compile the loss for each length of a batch.
"""

# pyright: reportMissingImports=false
# langvae and pythae are not in the environment of the library

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


class Finished(Exception):
    """The input has ended."""


class Steps:
    """Waits for a line of the input before each step, and writes the seconds of each step.

    Args:
        replies: What is written to.
        clock: Seconds.
    """

    def __init__(self, replies: Any, clock: Any) -> None:
        self.replies, self.clock, self.start = replies, clock, 0.0

    def reply(self, **values: Any) -> None:
        """Write a line of JSON."""
        print(json.dumps(values), file=self.replies, flush=True)

    def wait(self) -> None:
        """Wait for a line, and start the clock.

        Raises:
            Finished: There is none.
        """
        if not sys.stdin.readline():
            raise Finished
        self.start = self.clock()

    def done(self) -> None:
        """Write the seconds of the step, and wait for the next one."""
        self.reply(seconds=self.clock() - self.start)
        self.wait()


def train(job: dict[str, Any], steps: Steps) -> None:
    """Make the steps.

    Raises:
        Finished: The input has ended.
    """
    import torch
    from langvae import LangVAE
    from langvae.data_conversion.tokenization import TokenizedDataSet, collate_sparse_fn
    from langvae.decoders import SentenceDecoder
    from langvae.encoders import SentenceEncoder
    from langvae.trainers import (
        CyclicalScheduleKLThresholdTrainer,
        CyclicalScheduleKLThresholdTrainerConfig,
    )
    from pythae.models.vae import VAEConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    torch._dynamo.config.disable = True
    torch.manual_seed(job["seed"])
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    latent, batch, lines = job["latent"], job["batch"], job["lines"]
    decoder = SentenceDecoder(job["decoder"], latent, job["max_tokens"])
    encoder = SentenceEncoder(job["encoder"], latent, decoder.tokenizer, caching=True)
    model = LangVAE(VAEConfig(latent_dim=latent), encoder, decoder)
    data = TokenizedDataSet(lines, decoder.tokenizer, decoder.max_len, caching=True)
    with torch.no_grad():
        for first in range(0, len(lines), batch):
            rows: Any = collate_sparse_fn([data[i] for i in range(first, first + batch)])
            encoder(rows["data"])

    class Stepwise(TrainingCallback):
        def on_train_step_begin(self, training_config: Any, **_: Any) -> None:
            steps.wait()  # called once for an epoch

        def on_train_step_end(self, training_config: Any, **_: Any) -> None:
            steps.done()

    with tempfile.TemporaryDirectory() as folder:
        config = CyclicalScheduleKLThresholdTrainerConfig(
            output_dir=folder,
            num_epochs=1,
            learning_rate=1e-3,
            per_device_train_batch_size=batch,
            optimizer_cls="AdamW",
            target_kl=2.0,
            no_cuda=True,
            seed=job["seed"],
        )
        trainer = CyclicalScheduleKLThresholdTrainer(model, data, None, config, [Stepwise()])
        names = ("langvae", "pythae", "torch", "transformers")
        steps.reply(versions={name: version(name) for name in names})
        trainer.train()


def main() -> None:
    """Make the steps of the job that the first argument names."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is no reply
    with suppress(Finished):
        train(job, Steps(replies, CLOCKS[job["clock"]]))


if __name__ == "__main__":
    main()
