"""Self-check of a new model: its encoder works, and it generates from the p(x|z) it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llamavae.errors import UserError
from llamavae.modeling.quantised import is_quantised
from llamavae.modes import evaluating

if TYPE_CHECKING:
    from llamavae.modeling.base import SentenceVAE

_TOKENS = 4
_TOLERANCE = 0.01
"""Maximum root mean square of the difference of log-probabilities, relative to their standard
deviation over the vocabulary. Working families have at most 3e-5 in float32 and 2e-2 in bfloat16;
the others 0.4 or more."""
_HALF = 10
"""In data types of 16 bits, the maximum is as many times larger."""
_ADVICE = "Use another injection, or another decoder (docs/how-to/decoder.md)"

_FAILURES = RuntimeError, ValueError, TypeError, LookupError, AttributeError


def check_encoder(model: SentenceVAE) -> None:
    """Encode two texts with the sentence encoder, if there is one.

    Raises:
        UserError: It fails, or its vectors are not finite or not of its size.
    """
    if model.encoder is None:
        return
    found, size = "", model.encoder.dim
    try:
        h = model.encoder.encode(["a dog", "two dogs and a cat"])
        if h.shape != (2, size) or not size:
            found = f"vectors of shape {tuple(h.shape)}"
        elif not h.isfinite().all():
            found = "NaN or infinite values"
    except (UserError, torch.OutOfMemoryError):
        raise
    except _FAILURES as error:
        found = f"{type(error).__name__}: {error}"
    if found:
        raise UserError(
            f"the sentence encoder cannot be used: expected finite vectors of size {size} of two "
            f"texts; got {found}. Use another encoder, or check its weights and its tokenizer"
        )


@torch.no_grad()
def check_decoder(model: SentenceVAE) -> None:
    """Compare the log-probabilities of cached generation with those under teacher forcing.

    Two sequences of four tokens are generated greedily from two random latent codes, as `decode`
    does. In addition, the last token of a text must not affect the predictions before it.

    Args:
        model: The VAE; not changed.

    Raises:
        UserError: The decoder reads later tokens, cannot be steered by this injection, or does not
            generate from the distribution that it is trained on.
    """
    decoder, name = model.decoder, model.config.injection
    kind, dtype = type(decoder.lm).__name__, str(decoder.lm.dtype).removeprefix("torch.")
    weight = model.posterior.linear.weight
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, model.config.latent_dim, generator=generator).to(weight)
    try:
        with evaluating(model):
            steering = model.injection(z)
            output = decoder.generate(
                steering,
                len(z),
                max_new_tokens=_TOKENS,
                min_new_tokens=_TOKENS,
                return_dict_in_generate=True,
                output_logits=True,
            )
            start = torch.full((len(z), 1), decoder.tokens.bos, device=decoder.device)
            ids = torch.cat([start, output.sequences.to(start)], dim=1)
            generated = torch.stack(output.logits, 1).float().log_softmax(-1)
            forced = decoder.log_probabilities(ids, steering)
            changed = ids[:1].repeat(2, 1)  # equal up to the last token that is read
            changed[1, -2] = (changed[1, -2] + 1) % decoder.embeddings.num_embeddings
            before = decoder.log_probabilities(changed)[:, :-1]
    except torch.OutOfMemoryError:
        raise
    except _FAILURES as error:
        if isinstance(error, UserError) and error.__cause__ is None:  # it names the injection
            raise
        cause = " ".join(str(error.__cause__ or error).split())[:300]
        raise UserError(
            f"{kind} cannot be used with injection {name!r} in {dtype}: {cause}. {_ADVICE}"
        ) from error
    half = decoder.lm.dtype.itemsize == 2 or is_quantised(decoder.lm)
    tolerance = _TOLERANCE * (_HALF if half else 1)
    if not (forced.isfinite().all() and generated.isfinite().all()):
        raise UserError(
            f"{kind} with injection {name!r} predicts values that are not finite in {dtype}. Load "
            "it in float32 or bfloat16 (decoder_options={'dtype': ...}, or decoder.dtype in a "
            "recipe), or check its weights"
        )
    if not _difference(*before) <= tolerance:
        raise UserError(
            f"{kind} reads later tokens, so it is not a causal language model. For a BERT-like "
            "model, set is_decoder to true in its config.json and fine-tune it; or use a causal "
            "language model"
        )
    if not (found := _difference(generated, forced)) <= tolerance:
        raise UserError(
            f"{kind} with injection {name!r} in {dtype} does not generate from the distribution "
            f"that it is trained on: the log-probabilities of the same tokens differ by {found:.2g}"
            f" standard deviations; expected at most {tolerance}. {_ADVICE}"
        )


def _difference(a: Tensor, b: Tensor) -> float:
    """Root mean square of a - b, relative to the standard deviation of b over the vocabulary."""
    return ((a - b).square().mean().sqrt() / b.std(-1).mean()).item()
