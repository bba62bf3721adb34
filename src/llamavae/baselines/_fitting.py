"""The training loop that the fitted baselines share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from llamavae.data.batches import LengthGroupedSampler
from llamavae.errors import UserError, check_int
from llamavae.learning_rate import warmup_cosine

_WARMUP = 100  # maximum number of warm-up steps of the learning rate
_MAX_NORM = 1.0  # gradients are clipped to this norm


def draw_batches(lengths: np.ndarray, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Sentence indices of each step (steps, batch size), in batches of similar length (N,)."""
    check_int("seed", seed, 0, 2**64 - 1)
    order = LengthGroupedSampler(lengths, batch_size, steps, seed)
    return np.fromiter(order, np.int64, len(order)).reshape(steps, batch_size)


def fit_weights(
    name: str,
    weights: Sequence[nn.Parameter],
    loss: Callable[[np.ndarray], tuple[Tensor, str]],
    batches: np.ndarray,
    texts: Sequence[str],
    learning_rate: float,
    progress: bool,
) -> list[float]:
    """One step of AdamW per batch, with a short warm-up, cosine decay and clipped gradients.

    Args:
        name: Name of the model, for the progress bar and the error.
        weights: The trained weights.
        loss: From sentence indices (B,) to the loss, a scalar, and the text of the progress bar.
        batches: Sentence indices of each step (steps, B).
        texts: N sentences, for the error.
        learning_rate: Peak learning rate.
        progress: Show a progress bar on stderr.

    Returns:
        The loss of each step.

    Raises:
        UserError: The loss or its gradient is not finite.
    """
    optimizer = torch.optim.AdamW(weights, learning_rate)
    steps = len(batches)
    warmup = min(_WARMUP, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, steps, warmup)
    )
    losses = []
    bar = tqdm(batches, name, unit="step", disable=not progress)
    for step, rows in enumerate(bar):
        value, numbers = loss(rows)
        value.backward()
        norm = nn.utils.clip_grad_norm_(weights, _MAX_NORM)
        if not torch.isfinite(value.detach() + norm):
            raise UserError(
                f"the loss of the {name} or its gradient is not finite at step {step}; "
                f"its sentences begin with {[texts[int(i)][:40] for i in rows[:4]]}. "
                "Try a lower learning_rate"
            )
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(value.item())
        bar.set_postfix_str(numbers, refresh=False)
    return losses


def note_truncated(truncated: int, sentences: int, max_tokens: int) -> None:
    """Print to stderr how many sentences were truncated, if any."""
    if truncated:
        tqdm.write(
            f"{truncated} of {sentences} sentences are longer than {max_tokens} tokens and were "
            "truncated",
            file=sys.stderr,
        )
