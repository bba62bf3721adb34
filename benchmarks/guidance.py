"""The cases of the invertible CVAE: texts for conditions, and fitting its flow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.bench import Bench, Mark, Run
from llamavae.flows import FitConfig, Flow, build_flow, fit_flow
from llamavae.guidance import EncoderCondition, InvertibleCVAE

FLOW = "glow"
FORM = "reference"

# ---------------------------------------------------------------------------- guided generation

SEEN = 1000  # random points that the flow is initialised from


def guided_generation(bench: Bench) -> Run:
    """Greedy texts of a fixed length for words: encoded, a point drawn for each, decoded."""
    cvae, words, _ = _guided(bench)
    tokens = bench.settings.tokens

    def run(mark: Mark) -> None:
        def placed(*_: Any) -> None:
            hook.remove()
            mark("points")

        hook = cvae.vae.injection.register_forward_pre_hook(placed)  # what points meet first
        cvae.generate(words, seed=bench.settings.seed, max_new_tokens=tokens, min_new_tokens=tokens)
        mark("decode")

    return run


def decode(bench: Bench) -> Run:
    """Greedy texts of the same length from the same points."""
    cvae, _, z = _guided(bench)
    tokens = bench.settings.tokens

    def run(mark: Mark) -> None:
        cvae.vae.decode(z, max_new_tokens=tokens, min_new_tokens=tokens)
        mark("decode")

    return run


def _guided(bench: Bench) -> tuple[InvertibleCVAE, list[str], Tensor]:
    """An initialised CVAE, a batch of words and the points drawn for them; the same at each call.

    The encoder's weights are mapped from a file: they are in memory once it has encoded the words.
    """
    vae = bench.model(bench.encoder())
    assert vae.encoder is not None
    cvae = InvertibleCVAE.build(vae, EncoderCondition(vae.encoder), FLOW, FORM)
    flow = cvae.flow
    flow.initialise(torch.randn(SEEN, flow.features), torch.randn(SEEN, flow.context))
    words = [text.split()[-1] for text in bench.texts[: bench.settings.batch]]
    return cvae, words, cvae.sample_codes(words, seed=bench.settings.seed)


# ------------------------------------------------------------------------------- fitting a flow

DEFAULT = FitConfig()
FIT = FitConfig(
    steps=300, eval_every=50, patience=6
)  # what is measured of it: it never stops early


def flow_fit(bench: Bench) -> Run:
    """The first steps of a fit, `begin`, then alternately `steps` (`FIT.eval_every`) and `look`."""
    return _fit(bench, FIT)


def short_fit(bench: Bench) -> Run:
    """A fit with one look, which holds as much memory."""
    return _fit(bench, replace(FIT, steps=FIT.eval_every))


def _fit(bench: Bench, config: FitConfig) -> Run:
    flow = _flow(bench)
    x, c = (torch.randn(bench.settings.points, size) for size in (flow.features, flow.context))
    noise = torch.full_like(x, 0.3)

    def run(mark: Mark) -> None:
        part = "begin"

        def called(module: nn.Module, inputs: Any) -> None:
            """Marks the part that is done where the fit turns from held-out rows to steps."""
            nonlocal part
            if module.training != (part == "steps"):
                mark(part)
                part = "steps" if module.training else "look"

        hook = flow.eval().register_forward_pre_hook(called)
        fit_flow(flow, x, c, noise=noise, config=config, progress=False)
        hook.remove()
        mark(part)

    return run


def products(bench: Bench) -> Run:
    """The matrix products alone of as many steps: three for each layer of the couplings."""
    rows = min(FIT.batch_size, bench.settings.points)
    layers: list[tuple[Tensor, Tensor, Tensor]] = []
    for parameter in _flow(bench).blocks.parameters():
        if parameter.ndim == 2:
            weight = parameter.detach()
            before, gradient = (weight.new_empty(rows, n).normal_() for n in weight.mT.shape)
            layers.append((weight, before, gradient))

    def run(mark: Mark) -> None:
        for _ in range(FIT.eval_every):
            for weight, before, gradient in layers:
                torch.mm(before, weight.mT)  # forward
                torch.mm(gradient, weight)  # backward, to the layer before
                torch.mm(gradient.mT, before)  # backward, to the weight

    return run


def _flow(bench: Bench) -> Flow:
    torch.manual_seed(bench.settings.seed)
    return build_flow(FLOW, bench.latent_dim, bench.encoder_dim, form=FORM).to(bench.device)
