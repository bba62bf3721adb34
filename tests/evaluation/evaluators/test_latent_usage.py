from __future__ import annotations

import math

import pytest
import torch
from tests.evaluation.systems import check_items
from tests.metrics.gaussians import draws

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.evaluators.latent_usage import LatentUsage, dimensions
from llamavae.metrics.latent import active_units, mutual_information
from llamavae.modeling.posterior import DiagonalGaussian


class Planted:
    """Posteriors that are given: text number i has row i."""

    posterior = True

    def __init__(self, mean, variance):
        self.mean, self.logvar = mean, torch.as_tensor(variance).log().expand_as(mean)

    def encode(self, texts):
        rows = [int(text) for text in texts]
        return DiagonalGaussian(self.mean[rows], self.logvar[rows])


def usage(mean, variance, resamples=50):
    data = EvaluationData([str(i) for i in range(len(mean))])
    return LatentUsage(resamples)(Planted(mean, variance), data)


def test_too_few_points():
    found = usage(draws(3, 3), 0.5)
    assert "Gaussian KL" not in {row["metric"] for row in found.rows}


def test_a_space_that_matches_the_prior():
    """Means of variance 3/4 and posteriors of variance 1/4 make N(0, I) together."""
    n, d = 3000, 2
    found = usage(math.sqrt(0.75) * draws(n, d), 0.25)
    information = -0.5 * math.log(0.25) * d  # of a Gaussian channel
    assert found.rows[0]["metric"] == "active units"
    assert found.value("active units") == d
    assert found.value("KL") == pytest.approx(information, abs=0.05)
    assert found.value("mutual information") == pytest.approx(information, abs=0.05)
    assert found.value("KL − information") == pytest.approx(0, abs=0.02)
    row = next(row for row in found.rows if row["metric"] == "Gaussian KL")
    assert row["value"] < 0.01
    assert row["control"] < 0.01
    assert found.value("posterior variance") == pytest.approx(0.25)


def test_a_space_beside_the_prior():
    """Moved by 2 in one of two dimensions: KL(q(z) || p(z)) = 2² / 2, all of it Gaussian."""
    mean = math.sqrt(0.75) * draws(3000, 2) + torch.tensor([2.0, 0.0])
    found = usage(mean, 0.25)
    assert found.value("KL − information") == pytest.approx(2, abs=0.1)
    assert found.value("Gaussian KL") == pytest.approx(2, abs=0.1)
    low, high = (found.value(name) for name in ("Gaussian KL", "KL − information"))
    assert low < high + 0.05


def test_collapse():
    found = usage(torch.zeros(200, 3), 1.0)
    for name in ("active units", "KL", "mutual information", "KL − information"):
        assert found.value(name) == pytest.approx(0, abs=1e-9)
    assert found.value("posterior variance") == 1


def test_points_without_width_hide_the_distance():
    """Information comes to its limit log N, so the difference says nothing; the table knows."""
    found = usage(draws(100, 4), 1e-6)
    assert found.value("mutual information") == pytest.approx(math.log(100))
    assert found.value("KL − information") > 10
    assert found.value("Gaussian KL") < 1


def test_dimensions():
    mean = torch.tensor([[1.0, 0.0, 0.05], [3.0, 0.0, -0.05]])
    logvar = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, -1.0]])
    first, second, third = dimensions(mean, logvar)
    assert first == {
        "dimension": 0,
        "kl": pytest.approx((1 + 9) / 2 / 2),
        "active": True,
        "variance of means": 1,
        "posterior variance": 1,
        "aggregate mean": 2,
        "aggregate variance": 2,
    }
    assert (second["dimension"], second["active"]) == (2, False)
    assert second["kl"] == pytest.approx((0.05**2 + math.exp(-1) - 1 + 1) / 2)
    assert (third["dimension"], third["kl"]) == (1, 0)


def test_rows_agree_with_the_measures_of_training():
    mean, variance = draws(60, 3) * torch.tensor([1.0, 0.5, 0.05]), 0.5
    found = usage(mean, variance)
    system = Planted(mean, variance)
    assert found.value("active units") == active_units(mean) == 2
    noise = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    z = mean + math.sqrt(variance) * noise
    expected = mutual_information(mean, system.logvar, z)
    assert found.value("mutual information") == pytest.approx(expected, abs=1e-5)
    table = found.tables["dimensions"]
    assert set(found.plots["dimensions"].columns) <= set(table[0])
    assert sum(row["kl"] for row in table) == pytest.approx(found.value("KL"))
    assert sum(row["active"] for row in table) == 2


def test_intervals():
    found = usage(draws(60, 3) * torch.tensor([1.0, 0.5, 0.1]), 0.5, resamples=200)
    row = found.rows[0]
    assert (row["low"], row["high"]) == (2, 3)  # the third has about the variance of the threshold
    row = next(row for row in found.rows if row["metric"] == "KL")
    assert row["low"] < row["value"] < row["high"]
    row = next(row for row in found.rows if row["metric"] == "mutual information")
    assert row["low"] is None
    check_items(
        LatentUsage(),
        found,
        {"active units", "mutual information", "KL − information", "Gaussian KL"},
    )


def test_a_system_without_posterior():
    class Plain:
        def encode(self, texts):
            return torch.zeros(len(texts), 2)

    with pytest.raises(UserError, match="posterior"):
        LatentUsage()(Plain(), EvaluationData(["a", "b"]))
