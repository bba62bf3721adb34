from __future__ import annotations

import copy
import logging
import math
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import make_moons
from tests.flows.cases import both_forms, every_flow, every_layered_flow, linear_data

from llamavae.errors import UserError
from llamavae.flows import FitConfig, FlowData, build_flow, fit_flow
from llamavae.flows import fitting as fitting_module
from llamavae.flows.heldout import nll

QUICK = FitConfig(steps=12, eval_every=4, batch_size=32)


def small(name="glow", features=3, context=2, **options):
    return build_flow(name, features, context, **{"blocks": 2, "hidden": (8,), **options})


@pytest.fixture
def data():
    return linear_data(200, 3, 2)[:2]


def weights(flow):
    return {key: value.clone() for key, value in flow.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one) and set(one) == set(other)


def results(fit):
    """All but the times, in a form that knows that NaN equals NaN."""
    rows = [{k: repr(v) for k, v in row.items() if k != "seconds"} for row in fit.history]
    return fit.nll, fit.references, fit.best_step, fit.stopped, rows


# ------------------------------------------------------------------------------- what is found


@both_forms
@pytest.mark.parametrize("name", ["linear-gaussian", "glow"])
def test_a_linear_gaussian_is_found(name, form):
    x, c, truth = linear_data(8000, 4, 3)
    valid = FlowData(x[6000:], c[6000:])
    config = FitConfig(steps=150, eval_every=50)
    flow = small(name, 4, 3, form=form)
    fit = fit_flow(flow, x[:6000], c[:6000], valid=valid, config=config, progress=False)
    assert abs(fit.nll - truth[6000:].mean().item()) < 0.02


@both_forms
@pytest.mark.parametrize("name", ["glow", "spline"])
def test_two_moons_are_no_gaussians(name, form):
    points, labels = make_moons(2000, noise=0.08, random_state=0)
    x, c = torch.from_numpy(points), torch.from_numpy(labels)[:, None]
    flow = small(name, 2, 1, form=form, blocks=3, hidden=(32, 32))
    config = FitConfig(steps=120, eval_every=60, batch_size=128, learning_rate=4e-3)
    fit = fit_flow(flow, x, c, config=config, progress=False)
    assert fit.nll < min(fit.references.values()) - 0.2
    assert fit.references["linear-gaussian"] < fit.references["gaussian"] - 0.2


@every_flow
@both_forms
@torch.no_grad()
def test_the_inverse_is_precise_after_training(name, form):
    size = 128
    factor = 0.8 * torch.eye(size) + 1.4 * torch.randn(size, size) / size**0.5
    c, u = torch.randn(150, 4), torch.randn(150, size)
    x = (torch.tanh(c @ torch.randn(4, size)) + u + 0.5 * u.square()) @ factor.mT + 1
    flow = small(name, size, 4, form=form, blocks=10, hidden=(32,))
    config = FitConfig(steps=10, eval_every=10, batch_size=64, learning_rate=5e-3)
    valid = FlowData(
        x[:32], c[:32]
    )  # not held out, so that the weights after training are the best
    with torch.enable_grad():
        fit = fit_flow(flow, x, c, valid=valid, config=config, progress=False)
    if len(flow.blocks):
        assert fit.best_step == 10
        assert fit.nll < fit.history[0]["nll"] - 0.05
    assert fit.inverse_error < 1e-4
    for dtype, most in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        flow = flow.to(dtype)
        distribution = flow(c[:8])
        y = distribution.base.sample()
        transform = distribution.transform
        assert (transform.inv(transform(x[:8])) - x[:8].to(dtype)).abs().max() < most
        assert (transform(transform.inv(y)) - y).abs().max() < most


def test_a_network_in_the_mean_finds_what_is_not_linear_in_the_context():
    c = torch.randn(2000, 2)
    x = torch.stack([c[:, 0] * c[:, 1], c[:, 0].square()], 1) + 0.3 * torch.randn(2000, 2)
    config = FitConfig(steps=300, eval_every=100, learning_rate=2e-2)
    found = {}
    for widths in ((), (32,)):
        options = {"form": "reference", "base_hidden": widths}
        fit = fit_flow(small("glow", 2, 2, **options), x, c, config=config, progress=False)
        found[widths] = fit.nll
    assert found[()] > found[32,] + 0.4
    # 0.3 is the noise, and x given c is Gaussian around what the network can learn
    assert found[32,] == pytest.approx(math.log(0.3) + 0.5 * math.log(2 * math.pi) + 0.5, abs=0.15)


# ------------------------------------------------------------------------------- the report


@every_layered_flow
@both_forms
def test_the_report_is_of_the_weights_that_are_left(name, form, data):
    x, c = data
    valid = FlowData(*linear_data(50, 3, 2)[:2])
    flow = small(name, form=form)
    fit = fit_flow(flow, x, c, valid=valid, config=QUICK, progress=False)
    assert [row["step"] for row in fit.history] == [0, 4, 8, 12]
    assert fit.stopped == "steps"
    found = {row["step"]: row["nll"] for row in fit.history}
    assert fit.nll == min(found.values()) == found[fit.best_step]
    assert nll(flow, valid) == fit.nll
    assert not flow.training
    assert fit.inverse_error < 1e-4
    for row in fit.history:
        assert set(row) - {"train_nll"} == {
            *("step", "nll", "inverse_error"),
            *("log_scale_min", "log_scale_max", "seconds"),
        }
        assert row["log_scale_min"] <= row["log_scale_max"]
        assert ("train_nll" in row) == (row["step"] > 0)
        assert all(map(math.isfinite, row.values()))
    for reference, expected in fit.references.items():
        alone = fit_flow(small(reference), x, c, valid=valid, progress=False)
        assert alone.nll == pytest.approx(expected)
        assert alone.stopped == "closed form"
        assert len(alone.history) == 1


def test_the_penalty_of_the_regression_is_chosen_on_held_out_rows():
    x, c = torch.randn(80, 4), torch.randn(80, 60)  # nothing to learn from c
    valid = FlowData(torch.randn(500, 4), torch.randn(500, 60))
    fit = fit_flow(small("linear-gaussian", 4, 60), x, c, valid=valid, progress=False)
    assert fit.nll < fit.references["gaussian"] + 0.02


def test_without_context_the_gaussians_are_one(data):
    fit = fit_flow(small(context=0), data[0], config=QUICK, progress=False)
    assert fit.references["gaussian"] == fit.references["linear-gaussian"]


def test_a_tenth_is_held_out_at_random(data, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "llamavae.flows.fitting.nll", lambda flow, rows: seen.append(rows) or nll(flow, rows)
    )
    x, c = data
    fit_flow(small("gaussian"), x, c, progress=False)
    held_out = seen[0]
    assert len(held_out) == 20
    index = (held_out.x[:, None] == x[None]).all(-1).nonzero()[:, 1]
    assert torch.equal(held_out.c, c[index])
    assert index.tolist() != list(range(20))


def test_early_stopping():
    x = torch.randn(40, 6)  # a few rows of a Gaussian: all that can be learned is their noise
    config = FitConfig(steps=1000, eval_every=10, patience=3, batch_size=40, learning_rate=1e-2)
    flow = small(features=6, context=0, hidden=(64,), blocks=4)
    fit = fit_flow(flow, x, valid=FlowData(torch.randn(200, 6)), config=config, progress=False)
    assert fit.stopped == "patience"
    last = fit.history[-1]
    assert last["step"] == fit.best_step + 30 < 1000
    assert last["train_nll"] < last["nll"] - 0.1
    assert nll(flow, FlowData(x)) > last["train_nll"]


def test_noise_is_drawn_anew():
    x, noise = torch.zeros(2000, 2), torch.tensor([0.5, 2.0]).expand(2000, 2)
    flow = small("gaussian", 2, 0)
    fit_flow(flow, x, noise=noise, progress=False)
    samples = flow().sample((20_000,))
    torch.testing.assert_close(samples.std(0), noise[0], rtol=0.1, atol=0)
    fit = fit_flow(small("glow", 2, 0), x, noise=noise, config=QUICK, progress=False)
    losses = [row["train_nll"] for row in fit.history[1:]]
    entropy = 0.5 * math.log(2 * math.pi * math.e)  # of both dimensions, whose scales cancel
    assert losses == pytest.approx([entropy] * 3, abs=0.3)
    assert len(set(losses)) == 3


@pytest.mark.parametrize("name", ["linear-gaussian", "glow"])
def test_the_type_of_the_data_does_not_matter(name, data):
    x, c = (values.bfloat16() for values in data)
    first = small(name)
    flows = [copy.deepcopy(first) for _ in range(3)]
    expected = fit_flow(first, x.float(), c.float(), config=QUICK, progress=False)
    found = [
        fit_flow(flows[0], x, c, config=QUICK, progress=False),
        fit_flow(flows[1], x.double(), c.double(), config=QUICK, progress=False),
    ]
    with torch.autocast("cpu", torch.bfloat16):
        found.append(fit_flow(flows[2], x, c, config=QUICK, progress=False))
    for flow, fit in zip(flows, found, strict=True):
        assert same(weights(flow), weights(first))
        assert results(fit) == results(expected)


@every_flow
@both_forms
def test_a_flow_in_double_stays_so(name, form, data, tmp_path):
    flow = small(name, form=form).double()
    fit = fit_flow(flow, *data, config=QUICK, state=tmp_path, progress=False)
    floats = [value for value in flow.state_dict().values() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float64}
    assert fit.inverse_error < 1e-12


@every_flow
@pytest.mark.parametrize(("features", "context"), [(1, 0), (1, 1), (1, 3)])
@both_forms
def test_one_dimension(name, form, features, context):
    x, c, _ = linear_data(100, features, max(1, context))
    flow = small(name, features, context, form=form)
    fit = fit_flow(
        flow, x, c.expand(100, context) if context else None, config=QUICK, progress=False
    )
    assert math.isfinite(fit.nll)


def test_progress_is_shown_or_not(data, capfd):
    fit_flow(small(), *data, config=QUICK, progress=False)
    assert capfd.readouterr().err == ""
    fit_flow(small(), *data, config=QUICK)
    assert "held-out NLL" in capfd.readouterr().err


def test_seconds_are_those_of_the_fit(data):
    for name in ("linear-gaussian", "glow"):
        start = time.perf_counter()
        fit = fit_flow(small(name), *data, config=QUICK, progress=False)
        wall = time.perf_counter() - start
        assert wall / 2 - 0.05 < fit.seconds < wall + 0.05  # rounded to hundredths, look by look


# ------------------------------------------------------------------------------- reproducibility


def test_seeds(data):
    start = small()

    def fit(seed):
        flow = copy.deepcopy(start)
        options = FitConfig(steps=8, eval_every=4, batch_size=32, seed=seed)
        return results(fit_flow(flow, *data, config=options, progress=False)), weights(flow)

    (one, left), (again, right), (other, _) = fit(0), fit(0), fit(1)
    assert one == again
    assert same(left, right)
    assert one != other


class Interrupted(BaseException):
    """Like a KeyboardInterrupt, which would end the tests if it were not caught."""


def interrupt(patch, step):
    """Makes step number `step` of the optimiser raise."""
    plain, count = torch.optim.AdamW.step, 0

    def counted(self, *args, **options):
        nonlocal count
        count += 1
        if count == step:
            raise Interrupted
        return plain(self, *args, **options)

    patch.setattr(torch.optim.AdamW, "step", counted)


@every_layered_flow
@both_forms
@pytest.mark.parametrize(("step", "same_object"), [(1, True), (6, False), (12, True)])
def test_an_interrupted_fit_ends_like_any_other(
    name, form, step, same_object, data, tmp_path, monkeypatch
):
    x, c = data
    noise = torch.full_like(x, 0.1)
    flow = small(name, form=form)
    whole = copy.deepcopy(flow)
    expected = fit_flow(whole, x, c, noise=noise, config=QUICK, progress=False)
    options = {"noise": noise, "config": QUICK, "progress": False, "state": tmp_path / "state"}
    with monkeypatch.context() as patch:
        interrupt(patch, step)
        with pytest.raises(Interrupted):
            fit_flow(flow, x, c, **options)
    assert (tmp_path / "state" / f"step-{4 * ((step - 1) // 4)}").is_dir()
    if not same_object:
        flow = small(name, form=form)  # its own random weights are not used
    fit = fit_flow(flow, x, c, **options)
    assert same(weights(flow), weights(whole))
    assert results(fit) == results(expected)


def test_noise_on_contexts_is_drawn_anew_in_their_own_units(data, monkeypatch):
    x, c = data
    c = torch.cat([c, torch.full((len(c), 1), 5.0)], 1)  # a constant one gets none
    seen = []
    plain = fitting_module._Run._blurred

    def blurred(*arguments):
        seen.append(plain(*arguments))
        return seen[-1]

    monkeypatch.setattr(fitting_module._Run, "_blurred", blurred)
    valid = FlowData(x[:9], c[:9])
    config = FitConfig(steps=40, eval_every=40, batch_size=200, context_noise=0.5)
    fit_flow(small(context=3), x, c, valid=valid, config=config, progress=False)
    means = torch.stack([part.mean(0) for part in seen])
    assert len(means.unique(dim=0)) == 40
    # in a batch of all rows the variance is that of the contexts and of the noise
    variance = torch.stack([part.var(0) for part in seen]).mean(0)
    torch.testing.assert_close(variance, 1.25 * c.var(0), rtol=0.03, atol=0)


def test_noise_does_not_make_rivals_of_one_context(data, monkeypatch):
    x, c = data
    labels = (c[:, :1] > c[:, :1].median()).to(c)
    seen = []
    plain = fitting_module.contrastive_loss
    monkeypatch.setattr(
        fitting_module,
        "contrastive_loss",
        lambda *conditional: seen.append(conditional[2]) or plain(*conditional),
    )
    config = replace(QUICK, contrastive_weight=2.0, context_noise=0.5)
    flow = small(context=1, form="reference")
    fit_flow(flow, x, labels, config=config, progress=False)
    assert len(seen) == QUICK.steps
    assert {float(value) for part in seen for value in part.unique()} == {0.0, 1.0}


def test_a_fit_in_training_does_not_touch_torchs_generator(data, monkeypatch):
    flow = small(form="reference", base_hidden=(8,), dropout=0.5)
    states = []
    plain = fitting_module.invertibility  # called before and after each part of the training
    monkeypatch.setattr(
        fitting_module,
        "invertibility",
        lambda *conditional: states.append(torch.get_rng_state()) or plain(*conditional),
    )
    fit_flow(flow, *data, config=QUICK, progress=False)
    assert len(states) == 4
    assert all(torch.equal(state, states[0]) for state in states)


def test_an_interrupted_fit_with_contrast_and_dropout_ends_like_any_other(
    data, tmp_path, monkeypatch
):
    options = {"base_hidden": (8,), "ensemble_size": 2, "dropout": 0.5, "form": "reference"}
    config = replace(QUICK, contrastive_weight=5.0, context_noise=0.3)
    flow = small(**options)
    whole = copy.deepcopy(flow)
    expected = fit_flow(whole, *data, config=config, progress=False)
    state = tmp_path / "state"
    with monkeypatch.context() as patch:
        interrupt(patch, 7)
        with pytest.raises(Interrupted):
            fit_flow(flow, *data, config=config, state=state, progress=False)
    assert not flow.training
    (step,) = state.iterdir()
    assert load_file(step / "flow.safetensors")["log_temperature"] != 0  # it is learned
    torch.rand(3)  # what else draws numbers meanwhile does not matter
    flow = small(**options)
    fit = fit_flow(flow, *data, config=config, state=state, progress=False)
    assert same(weights(flow), weights(whole))
    assert results(fit) == results(expected)


def test_a_fit_that_is_done_is_not_done_again(data, tmp_path, monkeypatch):
    patience = FitConfig(steps=400, eval_every=2, patience=2, batch_size=32, learning_rate=1.0)
    for config in (patience, QUICK):
        options = {"config": config, "state": tmp_path / f"{config.steps}", "progress": False}
        flow, again = small(), small()
        expected = fit_flow(flow, *data, **options)
        with monkeypatch.context() as patch:
            interrupt(patch, 1)
            fit = fit_flow(again, *data, **options)
        assert results(fit) == results(expected)
        assert same(weights(again), weights(flow))


@pytest.mark.parametrize("change", ["data", "contexts", "noise", "config", "settings", "dtype"])
def test_the_state_of_another_fit_is_refused(change, data, tmp_path, monkeypatch):
    x, c = data
    with monkeypatch.context() as patch:
        interrupt(patch, 10)
        with pytest.raises(Interrupted):
            fit_flow(small(), x, c, config=QUICK, state=tmp_path, progress=False)
    flow = small(clamp=1.0) if change == "settings" else small()
    if change == "dtype":
        flow = flow.double()
    noise = torch.full_like(x, 0.1) if change == "noise" else None
    config = FitConfig(steps=12, eval_every=4, batch_size=31) if change == "config" else QUICK
    x, c = x + (change == "data"), c * (1 + (change == "contexts"))
    options = {"noise": noise, "config": config, "progress": False}
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match="is the state of another fit"):
        fit_flow(flow, x, c, state=tmp_path, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


# ------------------------------------------------------------------------------- what goes wrong


@every_layered_flow
@both_forms
def test_divergence_keeps_the_best_weights_and_says_so(name, form, data, tmp_path, caplog):
    flow = small(name, form=form)
    config = FitConfig(steps=200, eval_every=20, patience=100, learning_rate=1e3)
    fit = fit_flow(flow, *data, config=config, state=tmp_path, progress=False)
    assert fit.stopped == "diverged"
    assert "the fit diverged between steps" in caplog.text
    assert f"kept the weights of step {fit.best_step}. Try a smaller learning rate" in caplog.text
    assert math.isfinite(fit.nll)
    assert fit.nll == min(row["nll"] for row in fit.history)
    assert all(value.isfinite().all() for value in flow.state_dict().values())


def test_few_rows_are_reported(caplog):
    fit_flow(small("gaussian", 5, 0), torch.randn(5, 5), progress=False)
    assert "4 rows are fewer than the 5 dimensions: use more data" in caplog.text
    fit_flow(small("glow", 5, 0), torch.randn(5, 5), config=QUICK, progress=False)
    assert "try the flow linear-gaussian" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        fit_flow(small("gaussian", 5, 0), torch.randn(6, 5), progress=False)
    assert not caplog.records


@pytest.mark.parametrize(
    ("x", "c", "message"),
    [
        (torch.zeros(9, 2), torch.zeros(9, 2), r"the data: expected x of shape \(N, 3\)"),
        (torch.zeros(9, 3), torch.zeros(9, 3), r"expected c of shape \(9, 2\); got \(9, 3\)"),
        (torch.zeros(9, 3), None, r"expected a context c of shape \(N, 2\); got none"),
        (
            torch.full((9, 3), math.nan),
            torch.zeros(9, 2),
            r"NaN or infinite values in 9 rows: 0, 1",
        ),
        (torch.zeros(2, 3), torch.zeros(2, 2), "got 1 and 1"),
        (torch.zeros(0, 3), torch.zeros(0, 2), "at least 2 training rows"),
    ],
)
def test_data_that_does_not_fit_is_refused(x, c, message):
    with pytest.raises(UserError, match=message):
        fit_flow(small(), x, c, progress=False)


def test_held_out_rows_that_do_not_fit_are_refused(data):
    with pytest.raises(UserError, match="the held-out data: expected a context"):
        fit_flow(small(), *data, valid=FlowData(torch.zeros(4, 3)), progress=False)
    with pytest.raises(UserError, match="got 200 and 0"):
        fit_flow(
            small(), *data, valid=FlowData(torch.zeros(0, 3), torch.zeros(0, 2)), progress=False
        )
    huge = FlowData(torch.full((4, 3), 1e30), torch.zeros(4, 2))
    with pytest.raises(UserError, match="extreme values"):
        fit_flow(small(), *data, valid=huge, progress=False)


def test_a_context_that_is_not_taken_is_refused(data):
    with pytest.raises(UserError, match="expected no context; got one of shape"):
        fit_flow(small(context=0), *data, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"eval_every": -1}, "eval_every must be at least 1; got -1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0; got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0; got nan"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be above 0; got -1.0"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative; got -1.0"),
        ({"contrastive_weight": -0.5}, "contrastive_weight must not be negative; got -0.5"),
        ({"context_noise": math.nan}, "context_noise must not be negative; got nan"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        FitConfig(**changes)
