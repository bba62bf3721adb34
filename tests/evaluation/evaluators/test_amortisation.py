from __future__ import annotations

import pytest
import torch
from tests import passes, tiny

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.evaluation.evaluator import (
    Evaluation,
    EvaluationData,
    latent_codes,
    system_fingerprint,
)
from llamavae.evaluation.evaluators.amortisation import ENCODER, Amortisation
from llamavae.evaluation.refined import RefinedSystem

DATA = EvaluationData(tiny.SENTENCES[:4])


@pytest.fixture(scope="module")
def model() -> LlaMaVAE:
    torch.manual_seed(0)
    return tiny.vae()


@pytest.fixture(scope="module")
def found(model: LlaMaVAE) -> Evaluation:
    return Amortisation([1, 3], samples=2, resamples=20)(model, DATA)


def test_refining_closes_a_gap(found: Evaluation) -> None:
    assert found.rows[0]["metric"] == "amortisation gap"
    assert found.rows[0]["group"] == ""
    nll = [found.value("NLL at the mean", group) for group in (ENCODER, "1 steps", "3 steps")]
    assert nll == sorted(nll, reverse=True)
    for group in ("1 steps", "3 steps"):
        gap = found.value("bound", ENCODER) - found.value("bound", group)
        assert found.value("amortisation gap", group) == pytest.approx(gap)
    assert found.value("amortisation gap") == found.value("amortisation gap", "3 steps")
    assert found.value("amortisation gap") > 0


def test_batch_size_limits_each_forward_pass(model: LlaMaVAE) -> None:
    with passes.row_counts() as rows:
        Amortisation([1], samples=1, batch_size=2, resamples=20)(model, DATA)
    assert max(rows) == 2
    with pytest.raises(UserError, match="batch_size must be at least 1"):
        Amortisation([1], batch_size=0)(model, DATA)


def test_every_group_has_every_measure(found: Evaluation) -> None:
    keys = [(row["metric"], row["group"]) for row in found.rows]
    assert len(set(keys)) == len(keys)
    for metric in Amortisation.metrics:
        groups = {group for name, group in keys if name == metric.name}
        if metric.name == "exact match after noise":
            assert {"noise 0.1", "noise 0.3", "encoder, noise 0.1"} <= groups
        else:
            assert groups - {ENCODER} == {"", "1 steps", "3 steps"}
    for row in found.rows:
        assert (row["control"] is not None) == bool(Amortisation().metric(row["metric"]).control)
    assert all(row["value"] > 0 for row in found.rows if row["metric"] == "processor seconds")


def test_texts_are_those_of_the_codes(model: LlaMaVAE, found: Evaluation) -> None:
    table = found.tables["predictions-refined-0"]
    assert [row["reference"] for row in table] == list(DATA.texts)
    predictions = [row["prediction"] for row in table]
    assert predictions == model.reconstruct(list(DATA.texts))


def test_no_noise_changes_nothing(model: LlaMaVAE) -> None:
    found = Amortisation([1], noise=[0.0], samples=1, resamples=10)(model, DATA)
    same = found.value("exact match after noise", "noise 0")
    assert same == found.value("exact match")


def test_mistakes() -> None:
    for settings in ({"steps": []}, {"steps": [0]}, {"limit": 1}, {"samples": 0}):
        with pytest.raises(UserError, match="steps of at least 1"):
            Amortisation(**settings)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="beta must be above 0"):
        Amortisation(beta=0.0)


# ------------------------------------------------------------------------------ RefinedSystem


def test_a_refined_system_is_the_model_with_other_codes(
    model: LlaMaVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, texts = RefinedSystem(model, 2), list(DATA.texts)
    z = latent_codes(system, texts)
    torch.testing.assert_close(z, model.refine(texts, 2).mean, rtol=1e-3, atol=2e-3)
    assert system.decode(z) == model.decode(z)
    assert system.encoder is model.encoder
    assert system.encode([]).mean.shape == (0, tiny.LATENT)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("refined twice")

    monkeypatch.setattr(model, "refine", never)
    assert torch.equal(latent_codes(system, texts[::-1]), z.flip(0))


def test_results_tell_refined_codes_from_others(model: LlaMaVAE) -> None:
    systems = (model, RefinedSystem(model, 2), RefinedSystem(model, 3))
    hashes = [system_fingerprint(system) for system in systems]
    assert len(set(hashes)) == 3
    assert hashes[1] == system_fingerprint(RefinedSystem(model, 2))


def test_the_gap_is_that_of_the_model_itself(model: LlaMaVAE, found: Evaluation) -> None:
    again = Amortisation([1, 3], samples=2, resamples=20)(RefinedSystem(model, 2), DATA)
    assert again.value("amortisation gap") == pytest.approx(found.value("amortisation gap"))
