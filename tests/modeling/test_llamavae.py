from __future__ import annotations

import functools
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers as hf
from tests import passes, tiny

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.latent import lerp, slerp
from llamavae.modeling import LlaMaVAEOutput, decoder, kl_term
from llamavae.modeling.injection import Injection

TEXT = tiny.SENTENCES[0]


@pytest.fixture(scope="module")
def model() -> LlaMaVAE:
    torch.manual_seed(0)
    return tiny.vae("memory")


def batch(model, n=4):
    rows, _ = model.decoder.tokenize(tiny.SENTENCES[:n])
    ids, mask = model.decoder.pad(rows)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "encoder_inputs": model.encoder.tokenize(tiny.SENTENCES[:n]),
    }


# --------------------------------------------------------------------------------- objective


def test_the_loss_is_the_negative_lower_bound(model):
    inputs = batch(model)
    noise = torch.randn(4, tiny.LATENT)
    out = model(**inputs, noise=noise, beta=0.3, kl_rule="free_bits", kl_threshold=0.2)
    assert isinstance(out, LlaMaVAEOutput)
    q = model.encode(tiny.SENTENCES[:4])
    torch.testing.assert_close(out.mean, q.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.z, q.mean + q.stddev * noise, rtol=1e-4, atol=1e-4)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    nll = model.decoder.nll(ids, mask, model.injection(out.z)) / 4
    torch.testing.assert_close(out.nll, nll)
    assert out.kl is not None
    assert out.kl_term is not None
    assert torch.equal(out.kl_term, kl_term(out.kl, "free_bits", 0.2))
    torch.testing.assert_close(out.loss, nll + 0.3 * out.kl_term)


def test_values_per_sentence_average_to_the_loss(model):
    noise = torch.zeros(4, tiny.LATENT)
    inputs = batch(model)
    one, each = model(**inputs, noise=noise), model(**inputs, noise=noise, per_sentence=True)
    assert each.nll.shape == (4,)
    torch.testing.assert_close(each.nll.mean(), one.nll)
    torch.testing.assert_close(each.loss, one.loss)


def test_cached_vectors_are_as_good_as_text(model):
    noise = torch.zeros(4, tiny.LATENT)
    inputs = batch(model)
    expected = model(**inputs, noise=noise).loss
    del inputs["encoder_inputs"]
    h = model.encoder.encode(tiny.SENTENCES[:4])
    torch.testing.assert_close(model(**inputs, sentence_vectors=h, noise=noise).loss, expected)


def test_noise_is_drawn_and_follows_the_seed(model):
    inputs = batch(model)
    torch.manual_seed(3)
    first = model(**inputs).z
    assert not torch.equal(model(**inputs).z, first)
    torch.manual_seed(3)
    assert torch.equal(model(**inputs).z, first)


def test_every_trained_parameter_gets_a_gradient(model):
    vae = tiny.vae("memory+add", encoder_training="full").train()
    vae(**batch(vae)).loss.backward()
    still = {n for n, p in vae.named_parameters() if p.requires_grad and p.grad is None}
    assert all("pooler" in n for n in still)  # BERT's own, which mean pooling leaves out


def test_inputs_that_do_not_fit(model):
    inputs = batch(model)
    with pytest.raises(ValueError, match="got both"):
        model(**inputs, sentence_vectors=torch.zeros(4, tiny.HIDDEN))
    inputs["encoder_inputs"] = model.encoder.tokenize(tiny.SENTENCES[:3])
    with pytest.raises(ValueError, match="got 4 rows and 3 sentences"):
        model(**inputs)
    del inputs["encoder_inputs"]
    with pytest.raises(ValueError, match="expected encoder_inputs or sentence_vectors"):
        model(**inputs)


# ----------------------------------------------------------------------- text in and text out


def test_encode_takes_one_text_or_many(model):
    many = model.encode(tiny.SENTENCES)
    assert many.mean.shape == many.logvar.shape == (len(tiny.SENTENCES), tiny.LATENT)
    torch.testing.assert_close(model.encode(TEXT).mean, many.mean[:1], rtol=1e-4, atol=1e-4)
    assert torch.equal(model.encode(tiny.SENTENCES).mean, many.mean)
    assert not many.mean.requires_grad
    assert model.encode([]).mean.shape == (0, tiny.LATENT)


@pytest.mark.parametrize("injection", Injection.NAMES)
def test_decode_takes_one_point_or_many(injection):
    vae = tiny.vae(injection)
    z = torch.randn(3, tiny.LATENT)
    texts = vae.decode(z)
    assert len(texts) == 3
    assert vae.decode(z[0]) == texts[:1]
    assert vae.decode(z.double()) == texts
    assert vae.decode(z[:0]) == []
    assert list(vae.decode_each(z, batch_size=2)) == texts
    assert len(vae.decode(z, num_return_sequences=2, do_sample=True)) == 6
    with pytest.raises(UserError, match=r"latent codes of shape \(B, 6\); got \(3, 4\)"):
        vae.decode(z[:, :4])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_codes_that_are_not_finite_are_refused(model, value):
    with pytest.raises(UserError, match="expected finite latent codes"):
        model.decode(torch.full((2, model.config.latent_dim), value))


def test_special_tokens_in_a_prompt_are_text(model):
    seen = []

    def stop(ids, scores):
        seen.append(ids)
        return torch.ones(len(ids), dtype=torch.bool)

    tokenizer = model.decoder.tokenizer
    model.decode(
        torch.zeros(1, tiny.LATENT), prompt=f"{tokenizer.eos_token} a", stopping_criteria=[stop]
    )
    start = seen[0][0, 1:-1].tolist()
    assert len(start) > 2
    assert not set(start) & {*tokenizer.all_special_ids}
    for prompt in (["a"], None, 3):
        with pytest.raises(UserError, match="expected a text as prompt"):
            model.decode(torch.zeros(1, tiny.LATENT), prompt=prompt)


def test_paths_and_numbers_that_nothing_can_use(model):
    z = torch.zeros(1, tiny.LATENT)
    places: list[Any] = ["", "a\0b", None, 3, "x" * 5000]
    for place in places:
        with pytest.raises(UserError, match="expected the path of a folder; got"):
            model.save_pretrained(place)
        with pytest.raises(UserError, match="expected the folder, hub id or name of a model; got"):
            LlaMaVAE.from_pretrained(place)
    with pytest.raises(UserError, match="as decoder; got ''"):
        LlaMaVAE.from_backbones(None, "", encoder_dim=4)
    with pytest.raises(UserError, match="expected a text or a list of texts"):
        model.encode(np.array(3))
    for temperature in (1e-320, 1e-45, 10**400):
        with pytest.raises(UserError, match="temperature must be"):
            model.decode(z, do_sample=True, temperature=temperature)
    assert len(model.decode(z, do_sample=True, temperature=1e-6)) == 1
    for act in (
        lambda: model.sample(10**30),
        lambda: model.interpolate(TEXT, TEXT, 10**30),
        lambda: model.traverse(TEXT, 0, 10**30),
        lambda: model.decode(z, batch_size=10**30),
        lambda: model.decode(z, num_return_sequences=10**30),
        lambda: model.decode(z, num_beams=1001),
    ):
        with pytest.raises(UserError, match=r"must be (at most|from [12] to)"):
            act()
    for odd in (z.to_sparse(), z.to("meta")):
        with pytest.raises(UserError, match="expected a dense tensor of latent codes"):
            model.decode(odd)


def test_generation_without_enough_memory(model, monkeypatch):
    def exhausted(*_):
        return torch.empty(2**47)  # more than there are addresses

    monkeypatch.setattr(decoder, "steered", exhausted)
    with pytest.raises(UserError, match=r"not enough memory for generation\. Use a smaller batch"):
        model.decode(torch.zeros(1, tiny.LATENT))


@pytest.mark.parametrize("injection", ["memory", "soft_prompt"])
@pytest.mark.parametrize("prompt", ["", "a dog is"])
def test_streamed_pieces_join_to_the_text(injection, prompt):
    vae = tiny.vae(injection)
    pieces: list[str] = []
    for z in torch.randn(4, tiny.LATENT):
        pieces.clear()
        text = vae.stream(z, pieces.append, prompt=prompt)
        assert "".join(pieces).strip() == text == vae.decode(z, prompt=prompt)[0]
    with pytest.raises(UserError, match="one latent code"):
        vae.stream(torch.zeros(2, tiny.LATENT), pieces.append)


def test_reconstruct_is_decode_of_the_mean(model):
    expected = model.decode(model.encode(tiny.SENTENCES).mean)
    assert model.reconstruct(tiny.SENTENCES) == expected


def test_posterior_means_are_the_codes_that_are_decoded(model):
    texts = tiny.SENTENCES
    assert torch.equal(model.posterior_means(texts), model.encode(texts).mean)
    refined = model.refine(texts, 2, variance=False).mean
    assert torch.equal(model.posterior_means(texts, refine=2), refined)
    assert model.reconstruct(texts, refine=2) == model.decode(refined)


@pytest.mark.parametrize("refine", [0, 1])
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("encode", []),
        ("posterior_means", []),
        ("reconstruct", []),
        ("average", []),
        ("direction", [tiny.SENTENCES]),
        ("steer", [torch.ones(tiny.LATENT)]),
    ],
)
def test_batch_size_limits_each_forward_pass(model, method, arguments, refine):
    act = functools.partial(getattr(model, method), tiny.SENTENCES, *arguments, refine=refine)
    with passes.row_counts() as rows:
        act(batch_size=3)
    assert max(rows) == 3
    for size in (0, 2.5, 10**30):
        with pytest.raises(UserError, match="batch_size must be"):
            act(batch_size=size)


@pytest.mark.parametrize("refine", [0, 1])
def test_batch_size_limits_the_search_for_neighbours(model, refine):
    with passes.row_counts() as rows:
        model.neighbours(TEXT, tiny.SENTENCES, refine=refine, batch_size=3)
    assert max(rows) == 3
    with pytest.raises(UserError, match="batch_size must be"):
        model.neighbours(TEXT, torch.ones(2, tiny.LATENT), batch_size=0)


def test_batch_size_limits_the_encoder_before_refinement(model):
    with passes.row_counts() as rows:
        model.refine(tiny.SENTENCES, 1, batch_size=3)
    assert max(rows) == 3


def test_samples_are_texts_of_the_prior(model):
    assert model.sample(3, seed=1) == model.decode(model.sample_codes(3, seed=1))
    assert model.sample(2, spread=0.0) == model.decode(torch.zeros(2, tiny.LATENT))
    assert len(model.sample(5)) == 5
    state = torch.random.get_rng_state()
    z = model.sample_codes(10_000, spread=0.5, seed=7)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert z.shape == (10_000, tiny.LATENT)
    assert z.std() == pytest.approx(0.5, rel=0.05)
    assert not torch.equal(model.sample_codes(2), model.sample_codes(2))
    torch.manual_seed(3)
    z = model.sample_codes(2)
    torch.manual_seed(3)
    assert torch.equal(model.sample_codes(2), z)
    for bad in ({"n": 0}, {"spread": -1.0}):
        with pytest.raises(UserError, match="got"):
            model.sample(**bad)


@pytest.mark.parametrize(("mode", "path"), [("linear", lerp), ("slerp", slerp)])
def test_interpolation_decodes_the_path(model, mode, path):
    a, b = TEXT, tiny.SENTENCES[1]
    points = path(model.encode(a).mean[0], model.encode(b).mean[0], 4)
    assert model.interpolate(a, b, steps=4, mode=mode) == model.decode(points)
    assert model.interpolate(points[0], points[-1], 4, mode) == model.decode(points)
    assert len(model.interpolate(a, b)) == 9


def test_unknown_paths_are_refused(model):
    with pytest.raises(UserError, match="'linear' or 'slerp'"):
        model.interpolate(TEXT, TEXT, mode="spline")


def test_traversal_arithmetic_and_neighbours(model):
    mean = model.encode(tiny.SENTENCES).mean
    assert len(model.traverse(TEXT, dim=2)) == 7
    with pytest.raises(UserError, match="from 0 to 5"):
        model.traverse(TEXT, dim=6)
    a, b, c = tiny.SENTENCES[:3]
    assert model.arithmetic(a, b, c) == model.decode(mean[0] - mean[1] + mean[2])
    assert model.neighbours(b, tiny.SENTENCES, k=2)[0][0] == 1
    (best, cosine), *rest = model.neighbours(mean[3], mean, k=3)
    assert best == 3
    assert cosine == pytest.approx(1, abs=1e-5)
    assert len(rest) == 2


def test_a_point_is_one_point(model):
    assert model.latent_code(torch.zeros(1, tiny.LATENT)).shape == (tiny.LATENT,)
    with pytest.raises(UserError, match="expected one latent code"):
        model.latent_code(torch.zeros(2, tiny.LATENT))


# ------------------------------------------------------------------------------------ building


def test_a_new_model_is_in_eval_mode_and_moves(model):
    vae = tiny.vae()
    assert not any(part.training for part in vae.modules())
    assert vae.double() is vae
    assert vae.decode(torch.zeros(1, tiny.LATENT, dtype=torch.float64))
    assert vae.cpu() is vae
    assert vae.train() is vae


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dimension": 3}, "unknown setting 'latent_dimension'. Did you mean 'latent_dim"),
        ({"injection": "softprompt"}, "Did you mean 'soft_prompt'"),
        ({"encoder_pooling": "max"}, "unknown encoder_pooling 'max'"),
    ],
)
def test_unknown_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        LlaMaVAE.from_backbones(tiny.encoder(), tiny.decoder(), **settings)


def test_objects_serve_as_backbones():
    lm = hf.AutoModelForCausalLM.from_pretrained(tiny.decoder())
    with pytest.raises(UserError, match="needs its tokenizer"):
        LlaMaVAE.from_backbones(None, lm, encoder_dim=3)
    settings: dict[str, Any] = {"encoder_dim": 3, "latent_dim": 2}
    vae = LlaMaVAE.from_backbones(None, lm, tokenizer=tiny.tokenizer(), **settings)
    assert vae.config.embed_backbones
    assert vae.decoder.lm is lm


def test_the_trainers_questions_are_answered(model):
    assert model.get_input_embeddings() is model.decoder.embeddings
    assert model.supports_gradient_checkpointing
    names = {"posterior", "injection"}
    assert {name.split(".")[0] for name in model.trained_names} == names


def test_points_may_be_numpy_and_scores_are_returned():
    model = tiny.vae()
    z = torch.randn(2, tiny.LATENT)
    assert model.decode(cast(Any, z.numpy())) == model.decode(z)
    output = model.generate(z, return_dict_in_generate=True, output_scores=True)
    assert torch.equal(output.sequences, model.generate(z))
    assert len(output.scores) == output.sequences.shape[1]


def test_steering_by_nothing_is_reconstruction():
    vae = tiny.vae().eval()
    direction = vae.direction(["a dog runs in a park"], ["an owl reads a letter"])
    assert vae.steer(["a dog"], direction, 0.0) == vae.reconstruct(["a dog"])
    moved = vae.steer("an owl reads a letter", direction)  # to the other text
    assert moved == vae.reconstruct("a dog runs in a park")
