from __future__ import annotations

import numpy as np
import pytest
import torch
from tests import tiny

from llamavae.data.batches import Collator
from llamavae.data.sentences import SentenceData, prepare
from llamavae.metrics.control import derangement
from llamavae.training.measure import measure, metric_rows


@pytest.fixture(params=["bert-mean", None])
def case(request):
    """A model, with an encoder that trains or with vectors, and held-out sentences."""
    torch.manual_seed(3)
    model = tiny.vae(
        sentence_encoder=request.param,
        max_tokens=24,
        **({"encoder_training": "full"} if request.param else {}),
    )
    vectors = None
    if request.param is None:
        vectors = np.random.default_rng(0).normal(size=(8, tiny.HIDDEN)).astype(np.float32)
    data = prepare(tiny.SENTENCES, model.decoder, model.encoder, vectors, progress=False)
    return model, data


def batch(model, data: SentenceData, i: int) -> dict:
    return Collator(model.decoder, model.encoder)([data[i]])


def test_numbers(case):
    """Each equals what the model's forward pass says of single sentences with the same draws."""
    model, data = case
    metrics = measure(model, data, decoded=3, seed=5, batch_size=3)
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(8, tiny.LATENT, generator=generator)
    other = derangement(8, generator)
    with torch.no_grad():
        outputs = [model(**batch(model, data, i), noise=noise[i : i + 1]) for i in range(8)]
        kl = torch.cat([output.kl for output in outputs])
        z = torch.cat([output.z for output in outputs])
        shuffled = [
            model.decoder.nll(b["input_ids"], b["attention_mask"], model.injection(z[j : j + 1]))
            for b, j in ((batch(model, data, i), other[i]) for i in range(8))
        ]
    nll = torch.stack([output.nll for output in outputs]).mean().item()
    assert metrics["nll"] == pytest.approx(nll, rel=1e-5)
    assert metrics["nll_shuffled"] == pytest.approx(torch.stack(shuffled).mean().item(), rel=1e-5)
    assert metrics["nll_shuffled"] != pytest.approx(nll, rel=1e-5)
    assert metrics["kl"] == pytest.approx(kl.sum(1).mean().item(), rel=1e-5)
    assert metrics["kl_per_dimension"] == pytest.approx(kl.mean(0).tolist(), rel=1e-5)
    assert metrics["elbo"] == pytest.approx(metrics["nll"] + metrics["kl"])
    assert metrics["sentences"] == metrics["mutual_information_n"] == 8
    written = model.decode(torch.cat([o.mean for o in outputs])[:3])
    same = [w == t for w, t in zip(written, data.texts[:3], strict=True)]
    assert metrics["exact_match"] == sum(same) / 3


def test_it_is_repeatable_and_leaves_the_model_alone(case):
    model, data = case
    model.train()
    state = torch.get_rng_state()
    one = measure(model, data, decoded=2)
    assert torch.equal(torch.get_rng_state(), state)  # else an evaluation would change a run
    assert model.training
    other = measure(model, data, decoded=2, batch_size=1)
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_nothing_decoded(case):
    model, data = case
    assert "bleu" not in measure(model, data, decoded=0)


def test_rows():
    """The rows have the definitions of the evaluators and the limits of this model."""
    found = {"nll": 2.0, "nll_shuffled": 3.0, "bleu": 50.0, "active_units": 3}
    found |= {"mutual_information": 1.5, "sentences": 100, "kl_per_dimension": [1.0] * 8}
    rows = {row["metric"]: row for row in metric_rows(found, decoded=20)}
    assert list(rows) == ["NLL", "BLEU", "active units", "mutual information"]
    assert (rows["NLL"]["value"], rows["NLL"]["control"], rows["NLL"]["n"]) == (2.0, 3.0, 100)
    assert rows["BLEU"]["n"] == 20
    assert rows["active units"]["unit"] == "0 to 8"
    assert rows["mutual information"]["unit"] == "nats, at most log N = 4.61"
