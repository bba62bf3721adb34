from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny
from torch import Tensor

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.modeling import DiagonalGaussian, Refinement, aggregate
from llamavae.modeling.injection import Injection
from llamavae.modeling.refine import _Batch

TEXTS = tiny.SENTENCES
FEW = TEXTS[:3]


@pytest.fixture(scope="module")
def model() -> LlaMaVAE:
    torch.manual_seed(0)
    return tiny.vae("memory")


@pytest.fixture(scope="module")
def writer() -> LlaMaVAE:
    """A model that has learnt to write the texts from its codes, which the encoder tells badly."""
    torch.manual_seed(0)
    vae = tiny.vae("memory", decoder_training="full", latent_dim=8, injection_hidden=32)
    trained = [*vae.decoder.parameters(), *vae.injection.parameters()]
    ids, mask = vae.decoder.pad(vae.decoder.tokenize(TEXTS)[0])
    codes = torch.randn(len(TEXTS), 8, requires_grad=True)
    adam = torch.optim.Adam([*trained, codes], lr=3e-3)
    for _ in range(150):
        noisy = codes + 0.1 * torch.randn_like(codes)
        loss = vae.decoder.nll(ids, mask, vae.injection(noisy)) + 0.5 * codes.square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    adam.zero_grad()
    return vae.eval()


def objective(model: LlaMaVAE, texts: list[str], z: Tensor, beta: float) -> Tensor:
    """-log p(x|z) + beta / 2 |z|^2 of each text (B,)."""
    ids, mask = model.decoder.pad(model.decoder.tokenize(texts)[0])
    with torch.no_grad():
        nll = model.decoder.nll(ids, mask, model.injection(z), per_sentence=True)
    return nll + beta / 2 * z.square().sum(1)


def written(model: LlaMaVAE, z: Tensor) -> list[list[int]]:
    """Ids that greedy decoding writes from each code, up to the end of the sentence."""
    eos = model.decoder.tokens.eos
    rows = model.decoder.generate(model.injection(z), len(z)).tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


# ------------------------------------------------------------------------------ the mean


@pytest.mark.parametrize("injection", Injection.NAMES)
def test_the_objective_falls_with_any_injection(injection: str) -> None:
    vae = tiny.vae(injection)
    start = vae.encode(FEW).mean
    before = objective(vae, FEW, start, 0.1)
    after = objective(vae, FEW, vae.refine(FEW, 5, variance=False).mean, 0.1)
    assert (after < before).all()


@settings(max_examples=6)
@given(steps=st.integers(0, 4), rate=st.sampled_from([0.01, 0.3, 30.0]))
def test_the_result_is_never_worse_than_the_start(model, steps, rate):
    start = torch.randn(3, tiny.LATENT, generator=torch.Generator().manual_seed(steps))
    how = Refinement(steps, learning_rate=rate)
    after = model.refine(FEW, how, start=start, variance=False).mean
    rise = objective(model, FEW, after, how.beta) - objective(model, FEW, start, how.beta)
    assert (rise <= 1e-3).all()


def test_texts_come_back_that_the_encoder_loses(writer: LlaMaVAE) -> None:
    before = sum(a == b for a, b in zip(TEXTS, writer.reconstruct(TEXTS), strict=True))
    after = sum(a == b for a, b in zip(TEXTS, writer.reconstruct(TEXTS, refine=20), strict=True))
    assert after > before


@settings(max_examples=6)
@given(scale=st.floats(0, 2), seed=st.integers(0, 99))
def test_exact_is_what_greedy_decoding_writes(writer, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    z = writer.refine(TEXTS, Refinement(20), variance=False).mean
    z = z + scale * torch.randn(z.shape, generator=generator)
    rows, _ = writer.decoder.tokenize(TEXTS)
    ids, mask = writer.decoder.pad(rows)
    with torch.no_grad():
        scores = writer.decoder.score(ids, mask, writer.injection(z))
    found = [row[1:] == text for row, text in zip(rows, written(writer, z), strict=True)]
    assert scores.exact.tolist() == found
    assert scores.exact[scores.worst < math.log(2)].all()


def test_a_sentence_that_is_exact_stays_so_and_stops(writer: LlaMaVAE) -> None:
    done = writer.refine(TEXTS, Refinement(40, confidence=0.6), variance=False).mean
    ids, mask = writer.decoder.pad(writer.decoder.tokenize(TEXTS)[0])
    with torch.no_grad():
        scores = writer.decoder.score(ids, mask, writer.injection(done))
    sure = scores.exact & (scores.worst <= -math.log(0.6) - 1e-3)
    assert sure.any()
    again = writer.refine(TEXTS, Refinement(5, confidence=0.6), start=done, variance=False).mean
    assert torch.equal(again[sure], done[sure])
    rough = writer.refine(
        TEXTS, Refinement(5, confidence=1, learning_rate=1.0), start=done, variance=False
    ).mean
    with torch.no_grad():
        assert writer.decoder.score(ids, mask, writer.injection(rough)).exact[sure].all()


# ------------------------------------------------------------------------------ the variance


def bounds(model: LlaMaVAE, texts: list[str], q: DiagonalGaussian, beta: float) -> Tensor:
    """F of each posterior, with 200 draws of a generator of its own."""
    generator = torch.Generator().manual_seed(77)
    draws = [torch.randn(q.mean.shape, generator=generator) for _ in range(200)]
    nll = [objective(model, texts, q.mean + q.stddev * noise, 0.0) for noise in draws]
    return torch.stack(nll).mean(0) + beta * q.kl().sum(1)


def test_the_bound_improves(writer: LlaMaVAE) -> None:
    how = Refinement(20, samples=8)
    q = writer.encode(TEXTS)
    refined = writer.refine(TEXTS, how)
    before, after = (bounds(writer, TEXTS, each, how.beta) for each in (q, refined))
    assert after.mean() < before.mean()
    width = DiagonalGaussian(refined.mean, q.logvar)
    assert after.mean() < bounds(writer, TEXTS, width, how.beta).mean()


def test_a_wrong_variance_is_found_again(model: LlaMaVAE) -> None:
    """Where the decoder hardly reads z, the bound wants the prior's width."""
    start = DiagonalGaussian(torch.zeros(3, tiny.LATENT), torch.full((3, tiny.LATENT), -6.0))
    deaf = Refinement(0, beta=1e6)
    assert model.refine(FEW, deaf, start=start).logvar.abs().max() < 0.01


def test_fisher_information_is_that_of_all_draws(model: LlaMaVAE) -> None:
    """Against the exact sum over the vocabulary, at each position by itself."""
    ids, mask = model.decoder.pad(model.decoder.tokenize(["robots paint"])[0])
    z = torch.randn(1, tiny.LATENT, requires_grad=True)
    uniform = torch.rand(1500, ids.shape[1], generator=torch.Generator().manual_seed(1))
    found = model.decoder.fisher_information(ids, mask, model.injection(z), z, uniform)

    @torch.no_grad()
    def log_p(x: Tensor) -> Tensor:
        rows, _, _ = model.decoder._read(ids, mask, model.injection(x), None)
        return model.decoder.head(rows).log_softmax(-1)  # (T, V)

    steps = 0.01 * torch.eye(tiny.LATENT)
    slopes = torch.stack([(log_p(z + step) - log_p(z - step)) / 0.02 for step in steps])
    exact = (log_p(z).exp() * slopes.square()).sum((1, 2))
    torch.testing.assert_close(found[0], exact, rtol=0.2, atol=0.02)


# ------------------------------------------------------------------------------ independence


@settings(max_examples=4)
@given(order=st.permutations(range(len(TEXTS))), batch_size=st.integers(1, 8))
def test_sentences_do_not_see_their_batch(model, order, batch_size):
    whole = model.refine(TEXTS, 2)
    mixed = model.refine([TEXTS[i] for i in order], 2, batch_size=batch_size)
    torch.testing.assert_close(mixed.mean, whole.mean[list(order)], rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(mixed.logvar, whole.logvar[list(order)], rtol=1e-2, atol=1e-2)


def test_the_model_and_the_generator_stay_as_they_are(model: LlaMaVAE) -> None:
    before = {n: (p.requires_grad, p.detach().clone()) for n, p in model.named_parameters()}
    model.train()
    state = torch.random.get_rng_state()
    with torch.no_grad():
        first = model.refine(FEW, 2)
    with torch.inference_mode():
        second = model.refine(FEW, 2)
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.logvar, second.logvar)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    model.eval()
    for name, parameter in model.named_parameters():
        needed, value = before[name]
        assert parameter.requires_grad == needed
        assert parameter.grad is None
        assert torch.equal(parameter, value)
    assert not first.mean.requires_grad
    assert not first.logvar.requires_grad


def test_half_precision() -> None:
    vae = tiny.vae("memory+add", decoder_options={"dtype": torch.bfloat16})
    q = vae.refine(FEW, 3)
    assert q.mean.dtype == torch.float32
    assert q.mean.isfinite().all()
    assert q.logvar.isfinite().all()


# ------------------------------------------------------------------------------ prior and start


def test_the_prior_is_what_codes_are_drawn_to(model: LlaMaVAE) -> None:
    prior = DiagonalGaussian(torch.full((1, tiny.LATENT), 3.0), torch.full((1, tiny.LATENT), -1.0))
    how = Refinement(60, beta=1e4, prior=prior, confidence=1)
    q = model.refine(FEW, how)
    torch.testing.assert_close(q.mean, prior.mean.expand(3, -1), rtol=0, atol=0.2)
    torch.testing.assert_close(q.logvar, prior.logvar.expand(3, -1), rtol=0, atol=0.05)


@given(st.integers(0, 99))
@settings(max_examples=3)
def test_a_change_of_units_changes_nothing(model, seed):
    """N(0, I) as a prior that is given is the default."""
    z = torch.randn(3, tiny.LATENT, generator=torch.Generator().manual_seed(seed))
    zero = torch.zeros(tiny.LATENT)
    given_prior = Refinement(2, prior=DiagonalGaussian(zero, zero))
    a, b = (model.refine(FEW, how, start=z) for how in (2, given_prior))
    torch.testing.assert_close(a.mean, b.mean)
    torch.testing.assert_close(a.logvar, b.logvar)


def test_aggregate_posterior() -> None:
    q = DiagonalGaussian(torch.randn(500, 3) * 2 + 1, torch.full((500, 3), math.log(0.25)))
    found, draws = aggregate(q), q.sample((200,)).flatten(0, 1)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(found.mean[0], draws.mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(found.stddev[0], draws.std(0), rtol=0.02, atol=0)
    with pytest.raises(UserError, match="at least 2 sentences; got 1"):
        aggregate(DiagonalGaussian(torch.zeros(1, 3), torch.zeros(1, 3)))


def test_without_encoder_it_starts_from_the_prior() -> None:
    vae = tiny.vae(sentence_encoder=None)
    h = torch.randn(3, tiny.HIDDEN)
    prior = DiagonalGaussian(torch.ones(tiny.LATENT), torch.zeros(tiny.LATENT))
    unmoved = vae.refine(FEW, Refinement(0, prior=prior), variance=False)
    assert torch.equal(unmoved.mean, torch.ones(3, tiny.LATENT))
    start = vae.encode(h)
    after = objective(vae, FEW, vae.refine(FEW, 3, start=start).mean, 0.1)
    assert (after <= objective(vae, FEW, start.mean, 0.1) + 1e-3).all()
    with pytest.raises(UserError, match="refining needs texts"):
        vae.encode(h, refine=3)


def test_mistakes(model: LlaMaVAE) -> None:
    with pytest.raises(UserError, match=r"shape \(3, 6\); got \(2, 6\)"):
        model.refine(FEW, start=torch.zeros(2, tiny.LATENT))
    with pytest.raises(UserError, match=r"expected a prior of shape \(6,\)"):
        model.refine(FEW, Refinement(prior=DiagonalGaussian(torch.zeros(4), torch.zeros(4))))
    for name, value in (
        ("steps", -1),
        ("learning_rate", 0.0),
        ("beta", 0.0),
        ("confidence", 1.1),
        ("samples", 0),
        ("seed", -1),
    ):
        with pytest.raises(UserError, match=f"{name} must be"):
            Refinement(**{name: value})  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------------------ everywhere


def test_all_methods_refine_in_the_same_way(writer: LlaMaVAE) -> None:
    a, b, c = FEW
    z = writer.refine(FEW, 3, variance=False).mean
    torch.testing.assert_close(writer.latent_code(a, refine=3), z[0], rtol=1e-3, atol=2e-3)
    assert writer.reconstruct(FEW, refine=3) == writer.decode(z)
    points = [writer.latent_code(text, refine=3) for text in FEW]
    assert writer.interpolate(a, b, 3, refine=3) == writer.interpolate(points[0], points[1], 3)
    assert writer.traverse(a, 1, refine=3) == writer.traverse(points[0], 1)
    assert writer.arithmetic(a, b, c, refine=3) == writer.arithmetic(*points)
    found = writer.neighbours(a, FEW, k=3, refine=3)
    assert found[0][0] == 0
    assert found[0][1] == pytest.approx(1, abs=1e-3)
    q, same = writer.encode(FEW, refine=3), writer.refine(FEW, 3)
    assert torch.equal(q.mean, same.mean)
    assert torch.equal(q.logvar, same.logvar)
    assert writer.refine([]).mean.shape == (0, 8)
    assert writer.refine(a, 1).mean.shape == (1, 8)


def test_progress_is_told(model: LlaMaVAE) -> None:
    told: list[tuple[int, int | None]] = []
    model.refine(TEXTS, 1, batch_size=3, progress=lambda *each: told.append(each))
    assert told == [(3, 8), (6, 8), (8, 8)]


def test_a_batch_is_as_wide_as_its_longest_text(model: LlaMaVAE) -> None:
    """What is done leaves the batch, and its padding with it."""
    rows, _ = model.decoder.tokenize(TEXTS)
    ids, _ = _Batch(model, rows, Refinement())._inputs([1])
    assert ids.shape == (1, len(rows[1]))
