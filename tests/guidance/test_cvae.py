"""The Invertible CVAE over a tiny random VAE: what it fits, writes, ranks, moves and saves."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tests import tiny

from llamavae import InvertibleCVAE
from llamavae.corpora.splits import position
from llamavae.errors import UserError
from llamavae.flows.fitting import FitConfig
from llamavae.guidance import (
    EncoderCondition,
    LabelCondition,
    Pairs,
    VectorCondition,
    WordVectorCondition,
    make_pairs,
)
from llamavae.modeling import checkpoint
from llamavae.modeling.loading import load_sentence_encoder
from llamavae.training.prior import posterior

SHORT = FitConfig(steps=60, batch_size=64, eval_every=30, learning_rate=3e-3)
FORMS = ["reference", "conditional"]
SMALL = {"blocks": 2, "hidden": (16,)}


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(3)
    return tiny.vae()


@pytest.fixture(scope="module")
def rows():
    """Sentences with a label that their points tell: the sign of the first coordinate."""
    words = [
        "a",
        "robot",
        "dog",
        "river",
        "baker",
        "owl",
        "train",
        "lemon",
        "moon",
        "tree",
        "gardener",
        "letter",
    ]
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(len(words), (400, 4), generator=generator)
    texts = [" ".join(words[i] for i in row) for row in numbers.tolist()]
    return list(dict.fromkeys(texts))


@pytest.fixture(scope="module")
def data(vae, rows):
    sign = vae.encode(rows).mean[:, 0]
    side = ["right" if s > sign.median() else "left" for s in sign]
    return Dataset.from_dict({"text": rows, "side": side, "word": [t.split()[0] for t in rows]})


@pytest.fixture(scope="module", params=FORMS)
def cvae(request, vae, data):
    """Fitted to the label, in both forms."""
    torch.manual_seed(0)
    condition = LabelCondition.from_rows(data, ["side"])
    model = InvertibleCVAE.build(vae, condition, form=request.param, **SMALL)
    config = FitConfig(steps=300, batch_size=128, eval_every=50, learning_rate=3e-3)
    model.fit(make_pairs(data, condition), posterior_scale=0.1, config=config, progress=False)
    return model


def side(z: torch.Tensor, vae, rows) -> torch.Tensor:
    return z[:, 0] > vae.encode(rows).mean[:, 0].median()


# ------------------------------------------------------------------------------- what it learns


def test_points_have_the_condition_that_was_asked(cvae, vae, rows):
    for name, right in (("side=right", True), ("side=left", False)):
        z = cvae.sample_codes([name], n=200, seed=0)
        share = (side(z, vae, rows) == right).float().mean()
        assert share > 0.8, name


def test_the_flow_beats_the_gaussian_that_ignores_the_condition(cvae):
    assert cvae.report["nll"] < cvae.report["references"]["gaussian"] - 0.02


def test_rank_finds_the_condition_of_a_text(cvae, data):
    found = [cvae.rank(text, k=1)[0][0] for text in data["text"][:60]]
    asked = [cvae.vocabulary[index] for index in found]
    right = [f"side={s}" for s in data["side"][:60]]
    assert sum(a == b for a, b in zip(asked, right, strict=True)) > 50


def test_scores_are_the_densities(cvae, vae, rows):
    z = vae.encode(rows[:5]).mean
    scores = cvae.scores(z, ["side=left", "side=right", "side=left"])
    assert scores.shape == (5, 3)
    for v, name in enumerate(["side=left", "side=right", "side=left"]):
        torch.testing.assert_close(scores[:, v], cvae.log_density(z, [name]), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(
        cvae.log_prob(rows[:5], ["side=left"]), cvae.log_density(z, ["side=left"])
    )


def test_rank_is_sorted_and_at_most_k(cvae, rows):
    best = cvae.rank(rows[0])
    assert len(best) == 2  # there are two candidates
    assert best[0][1] >= best[1][1]
    assert len(cvae.rank(rows[0], k=1)) == 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flow", ["gaussian", "linear-gaussian", "glow"])
def test_the_vocabulary_is_ranked_as_other_candidates(flow, form, vae, rows, monkeypatch):
    condition = EncoderCondition(vae.encoder)
    torch.manual_seed(0)
    model = InvertibleCVAE.build(vae, condition, flow, form, **SMALL)
    z, words = vae.encode(rows[:50]).mean, [row.split()[0] for row in rows[:50]]
    model.flow.initialise(z, condition.vectors(words))
    model.vocabulary = sorted(set(words))
    forward, passes = type(model.flow).centres, []
    monkeypatch.setattr(
        type(model.flow), "centres", lambda *args: passes.append(1) or forward(*args)
    )

    def check():
        found = model.rank(rows[0])
        expected = model.rank(rows[0], condition.vectors(model.vocabulary))
        assert [index for index, _ in found] == [index for index, _ in expected]
        densities = [torch.tensor([d for _, d in each]) for each in (found, expected)]
        torch.testing.assert_close(*densities, atol=1e-4, rtol=1e-5)
        return found

    first, cached = check(), form == "reference" or flow != "glow"
    passes.clear()
    assert model.rank(rows[0]) == first
    assert not passes  # they are cached, or there are none
    with torch.no_grad():
        model.flow.affine.shift.add_(0.5)
    assert check() != first  # the cache is not that of another flow
    assert bool(passes) == cached


def test_translation_moves_to_the_other_condition_and_back(cvae, vae, data):
    left = [t for t, s in zip(data["text"], data["side"], strict=True) if s == "left"][:80]
    z = vae.encode(left).mean
    moved = cvae.translate(z, ["side=left"], ["side=right"])
    assert side(moved, vae, data["text"]).float().mean() > 0.7
    back = cvae.translate(moved, ["side=right"], ["side=left"])
    torch.testing.assert_close(back, z, atol=1e-3, rtol=1e-3)


def test_translation_to_the_same_condition_changes_nothing(cvae, vae, rows):
    z = vae.encode(rows[:4]).mean
    same = cvae.translate(z, ["side=left"] * 4, ["side=left"])
    torch.testing.assert_close(same, z, atol=1e-3, rtol=1e-3)


def test_predict_tells_the_conditions_apart(cvae, data):
    c = cvae.predict(list(data["text"]))
    right = cvae.condition.vectors([f"side={s}" for s in data["side"]])
    assert c.shape == right.shape
    agree = (c.argmax(1) == right.argmax(1)).float().mean()
    assert agree > 0.85


# ------------------------------------------------------------------------------- drawing


def test_texts_of_one_condition_stand_side_by_side(cvae):
    both = cvae.sample_codes(["side=left", "side=right"], n=3, spread=0.0)
    assert both.shape == (6, tiny.LATENT)
    torch.testing.assert_close(both[0], both[2])  # spread 0: all at the centre
    assert (both[2] - both[3]).abs().max() > 0.05
    assert len(cvae.generate(["side=left", "side=right"], n=3, max_new_tokens=4)) == 6


def test_the_spread_of_draws(cvae):
    wide, narrow = (cvae.sample_codes(["side=left"], 300, t, seed=1) for t in (1.0, 0.3))
    assert narrow.std(0).mean() < 0.6 * wide.std(0).mean()


def test_a_seed_repeats_and_leaves_torchs_generator_alone(cvae):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = cvae.sample_codes(["side=left"], 4, seed=2)
    torch.testing.assert_close(torch.rand(3), expected)
    torch.testing.assert_close(cvae.sample_codes(["side=left"], 4, seed=2), first)
    assert not torch.equal(cvae.sample_codes(["side=left"], 4, seed=3), first)


def test_vectors_serve_as_well_as_names(cvae):
    c = cvae.condition.vectors(["side=left"])
    torch.testing.assert_close(
        cvae.sample_codes(c, 2, seed=0), cvae.sample_codes(["side=left"], 2, seed=0), atol=0, rtol=0
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.sample_codes(["side=left"], n=0), "n must be at least 1"),
        (lambda m: m.sample_codes(["side=left"], spread=-1), "must be at least 0"),
        (lambda m: m.sample_codes(["side=up"]), "Did you mean|Known"),
        (lambda m: m.sample_codes(torch.zeros(1, 3)), r"\(B, 2\)"),
        (lambda m: m.sample_codes(torch.full((1, 2), torch.nan)), "NaN"),
        (lambda m: m.translate(torch.zeros(2, 1), ["side=left"], ["side=left"]), "latent codes"),
        (
            lambda m: m.translate(torch.zeros(3, tiny.LATENT), ["side=left"] * 2, ["side=left"]),
            "1 or 3 conditions",
        ),
        (lambda m: m.rank("a dog", []), "expected candidates"),
    ],
)
def test_refused(cvae, call, message):
    with pytest.raises(UserError, match=message):
        call(cvae)


# ------------------------------------------------------------------------------- fitting


def test_the_vae_is_not_changed(vae, data):
    before = {name: p.clone() for name, p in vae.named_parameters()}
    condition = LabelCondition.from_rows(data, ["side"])
    model = InvertibleCVAE.build(vae, condition, **SMALL)
    model.fit(make_pairs(data, condition), config=SHORT, progress=False)
    for name, p in vae.named_parameters():
        assert torch.equal(p, before[name]), name


def test_copies_of_a_text_are_on_one_side(vae, monkeypatch):
    texts = [t for t in tiny.SENTENCES for _ in range(3)]
    pairs = Pairs(texts, torch.randn(len(texts), 2), texts)
    seen = {}

    def spy(flow, x, c, *, valid, **kwargs):
        seen.update(train=x, valid=valid.x)
        raise KeyboardInterrupt

    monkeypatch.setattr("llamavae.guidance.cvae.fit_flow", spy)
    model = InvertibleCVAE.build(vae, VectorCondition(2), **SMALL)
    with pytest.raises(KeyboardInterrupt):
        model.fit(pairs, progress=False)
    held_out = min(tiny.SENTENCES, key=position)
    expected = vae.encode([held_out] * 3).mean
    torch.testing.assert_close(seen["valid"], expected, atol=1e-5, rtol=1e-5)
    assert len(seen["train"]) == len(texts) - 3


def test_noise_scales_the_posteriors(vae, data, monkeypatch):
    condition = LabelCondition.from_rows(data, ["side"])
    widths = []

    def spy(flow, x, c, *, noise, **kwargs):
        widths.append(noise)
        raise KeyboardInterrupt

    monkeypatch.setattr("llamavae.guidance.cvae.fit_flow", spy)
    model = InvertibleCVAE.build(vae, condition, **SMALL)
    for noise in (1.0, 0.5):
        with pytest.raises(KeyboardInterrupt):
            model.fit(make_pairs(data, condition), posterior_scale=noise, progress=False)
    torch.testing.assert_close(widths[1], widths[0] / 2)
    with pytest.raises(UserError, match="must be at least 0"):
        model.fit(make_pairs(data, condition), posterior_scale=-1.0, progress=False)


def test_pairs_of_another_size_are_refused(vae, data):
    model = InvertibleCVAE.build(vae, VectorCondition(5), **SMALL)
    with pytest.raises(UserError, match=r"\(N, 5\)"):
        model.fit(Pairs(["a"], torch.zeros(1, 3), ["a"]), progress=False)


def test_a_flow_of_another_size_is_refused(vae, cvae):
    with pytest.raises(UserError, match="expected a flow of D = 6"):
        InvertibleCVAE(vae, VectorCondition(7), cvae.flow)


def test_a_vae_without_an_encoder_is_refused():
    model = InvertibleCVAE.build(tiny.vae(sentence_encoder=None), VectorCondition(2), **SMALL)
    with pytest.raises(UserError, match="no sentence encoder"):
        model.fit(Pairs(["a", "b"], torch.randn(2, 2), ["a", "b"]), progress=False)


def test_a_single_text_is_too_few_and_leaves_the_cache_usable(vae, data):
    condition = LabelCondition.from_rows(data, ["side"])
    model = InvertibleCVAE.build(vae, condition, **SMALL)
    c = condition.vectors(["side=left"] * 3)
    with pytest.raises(UserError, match="at least 2 training rows and 1"):
        model.fit(Pairs(["one text"] * 3, c, ["side=left"] * 3), progress=False)
    assert posterior(vae, ["a text that is new"], progress=False).mean.shape == (1, tiny.LATENT)


def test_one_class_is_refused(vae):
    pairs = Pairs([f"a dog {i}" for i in range(40)], torch.ones(40, 2), ["x"] * 40)
    model = InvertibleCVAE.build(vae, VectorCondition(2), **SMALL)
    with pytest.raises(UserError, match="at least two different conditions"):
        model.fit(pairs, progress=False)


def test_a_fit_that_diverges_at_once_is_refused(vae):
    pairs = Pairs([f"a dog {i}" for i in range(40)], torch.randn(40, 2), ["x"] * 40)
    model = InvertibleCVAE.build(vae, VectorCondition(2), **SMALL)
    config = FitConfig(steps=40, eval_every=20, learning_rate=1e30)
    with pytest.raises(UserError, match="diverged before its first evaluation"):
        model.fit(pairs, config=config, progress=False)


def test_what_was_left_out_is_counted_over_both_parts(vae):
    def pairs(first: int, skipped: int) -> Pairs:
        texts = [f"a dog {i}" for i in range(first, first + 20)]
        return Pairs(texts, torch.randn(20, 2), texts, {"xyzzy": skipped})

    model = InvertibleCVAE.build(vae, VectorCondition(2), "gaussian")
    model.fit(pairs(0, 3), pairs(20, 1), progress=False)
    assert model.report["skipped"] == 4
    assert model.report["skipped_words"] == {"xyzzy": 4}
    model.fit(pairs(0, 3), progress=False)
    assert model.report["skipped"] == 3


def test_posteriors_are_those_of_the_vae(vae):
    texts = [*tiny.SENTENCES, tiny.SENTENCES[0]]
    q, direct = posterior(vae, texts, progress=False), vae.encode(texts)
    torch.testing.assert_close(q.mean, direct.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(q.logvar, direct.logvar, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------- saving


@pytest.fixture
def saved(vae, data, tmp_path):
    """A VAE and an invertible CVAE on it, in folders."""
    vae.save_pretrained(tmp_path / "vae")
    again = type(vae).from_pretrained(tmp_path / "vae")
    condition = EncoderCondition(again.encoder)
    torch.manual_seed(0)
    model = InvertibleCVAE.build(again, condition, **SMALL)
    model.fit(make_pairs(data, condition, progress=False), config=SHORT, progress=False)
    model.save_pretrained(tmp_path / "guided")
    return model, tmp_path


def test_a_loaded_model_is_the_same(saved, rows):
    model, folder = saved
    again = InvertibleCVAE.from_pretrained(folder / "guided")
    assert again.vocabulary == model.vocabulary
    assert again.report == json.loads(json.dumps(model.report))
    assert again.generate(["dog"], 2, seed=0) == model.generate(["dog"], 2, seed=0)
    assert torch.equal(again.log_prob(rows[0], ["dog"]), model.log_prob(rows[0], ["dog"]))
    assert torch.equal(again.predict(rows[:3]), model.predict(rows[:3]))
    assert again.rank(rows[0]) == model.rank(rows[0])


def test_the_folder_is_small_and_has_a_card(saved):
    _, folder = saved
    names = {p.name for p in (folder / "guided").iterdir()}
    assert names == {
        *("config.json", "flow.safetensors", "inverse.safetensors"),
        *("vocabulary.txt", "README.md", "manifest.json"),
    }
    config = (folder / "guided" / "config.json").read_text(encoding="utf-8")
    json.loads(config, parse_constant=pytest.fail)  # NaN is no JSON
    card = (folder / "guided" / "README.md").read_text(encoding="utf-8")
    assert "nats per dimension" in card
    assert "conditional linear Gaussian" in card


def test_the_hub_gets_and_gives_the_whole_folder(saved, tmp_path, monkeypatch):
    model, folder = saved
    hub = tmp_path / "hub"

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **options):
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id, folder_path, **options):
            shutil.copytree(folder_path, hub)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(checkpoint, "HfApi", Api)
    assert model.push_to_hub("me/guided") == "https://hub/me/guided"
    files = {path.name for path in (folder / "guided").iterdir()}
    assert {path.name for path in hub.iterdir()} == files
    asked = []
    monkeypatch.setattr(
        checkpoint, "snapshot_download", lambda *a, **kw: asked.append((a, kw)) or str(hub)
    )
    again = InvertibleCVAE.from_pretrained("me/guided", revision="v1")
    (name,), options = asked[0]
    assert (name, options["revision"]) == ("me/guided", "v1")
    patterns = options["allow_patterns"]
    assert all(any(fnmatch(file, pattern) for pattern in patterns) for file in files)
    assert again.generate(["dog"], seed=0) == model.generate(["dog"], seed=0)


def test_another_vae_is_refused_by_name(saved):
    _, folder = saved
    torch.manual_seed(9)
    tiny.vae().save_pretrained(folder / "other")
    with pytest.raises(UserError, match=r"fitted for the VAE .*vae; .*other has other"):
        InvertibleCVAE.from_pretrained(folder / "guided", folder / "other")


def test_a_vae_that_was_never_saved_is_asked_for(vae, data, tmp_path):
    condition = LabelCondition.from_rows(data, ["side"])
    InvertibleCVAE.build(vae, condition, **SMALL).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="was not saved"):
        InvertibleCVAE.from_pretrained(tmp_path)
    InvertibleCVAE.from_pretrained(tmp_path, vae)


def test_a_vae_that_moved_is_asked_for_and_can_be_given(saved):
    _, folder = saved
    (folder / "vae").rename(folder / "moved")
    with pytest.raises(UserError, match="does not exist"):
        InvertibleCVAE.from_pretrained(folder / "guided")
    InvertibleCVAE.from_pretrained(folder / "guided", folder / "moved")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "damaged"),
        (lambda f: (f / "config.json").write_text('{"model_type": "llama"}'), "'llama'"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "invertible-cvae"}'),
            "damaged: missing format_version",
        ),
        (
            lambda f: (f / "config.json").write_text(
                '{"model_type": "invertible-cvae", "format_version": "1"}'
            ),
            "format_version must be of the type int; got '1'",
        ),
        (lambda f: (f / "flow.safetensors").unlink(), "file of the flow"),
        (lambda f: (f / "flow.safetensors").write_bytes(b"x"), "damaged"),
    ],
)
def test_a_damaged_folder_is_refused(saved, damage, message):
    _, folder = saved
    damage(tiny.unsealed(folder / "guided"))
    with pytest.raises(UserError, match=message):
        InvertibleCVAE.from_pretrained(folder / "guided")


def test_a_later_format_is_refused(saved):
    _, folder = saved
    path = tiny.unsealed(folder / "guided") / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"format_version": 99}))
    with pytest.raises(UserError, match="Upgrade"):
        InvertibleCVAE.from_pretrained(folder / "guided")


def test_word_vectors_that_moved(vae, data, tmp_path):
    vae.save_pretrained(tmp_path / "vae")
    again = type(vae).from_pretrained(tmp_path / "vae")
    words = sorted(set(data["word"]))
    lines = [f"{w} {i} {i % 3} 1\n" for i, w in enumerate(words)]
    (tmp_path / "words.vec").write_text("".join(lines))
    condition = WordVectorCondition(tmp_path / "words.vec")
    model = InvertibleCVAE.build(again, condition, **SMALL)
    model.fit(make_pairs(data, condition), config=SHORT, progress=False)
    model.save_pretrained(tmp_path / "guided")
    (tmp_path / "words.vec").rename(tmp_path / "new.vec")
    with pytest.raises(UserError, match="new location"):
        InvertibleCVAE.from_pretrained(tmp_path / "guided")
    moved = InvertibleCVAE.from_pretrained(tmp_path / "guided", word_vectors=tmp_path / "new.vec")
    assert moved.generate(["dog"], seed=0) == model.generate(["dog"], seed=0)
    some = InvertibleCVAE.from_pretrained(
        tmp_path / "guided", word_vectors=tmp_path / "new.vec", words=["dog"]
    )
    assert isinstance(some.condition, WordVectorCondition)
    assert len(some.condition.words) == 1
    assert some.generate(["dog"], seed=0) == model.generate(["dog"], seed=0)


def test_an_encoder_that_moved(vae, data, tmp_path):
    vae.save_pretrained(tmp_path / "vae")
    again = type(vae).from_pretrained(tmp_path / "vae")
    load_sentence_encoder(tiny.encoder("sentence-t5")).save(tmp_path / "reader")
    condition = EncoderCondition.load(tmp_path / "reader")
    model = InvertibleCVAE.build(again, condition, base_hidden=(8,), **SMALL)
    model.fit(make_pairs(data, condition), config=SHORT, progress=False)
    guided = tmp_path / "guided"
    model.save_pretrained(guided)
    loaded = InvertibleCVAE.from_pretrained(guided)
    assert loaded.generate(["dog"], seed=0) == model.generate(["dog"], seed=0)
    assert str(tmp_path / "reader") in (guided / "README.md").read_text()
    (tmp_path / "reader").rename(tmp_path / "moved")
    moved = InvertibleCVAE.from_pretrained(guided, encoder=tmp_path / "moved")
    assert moved.generate(["dog"], seed=0) == model.generate(["dog"], seed=0)
    with pytest.raises(UserError, match="of the kind encoder: it does not take word-vectors"):
        InvertibleCVAE.from_pretrained(guided, word_vectors=tmp_path / "words.vec")


@pytest.mark.parametrize(
    ("flow", "form", "options"),
    [
        *((flow, form, {}) for flow in ("linear-gaussian", "gaussian") for form in FORMS),
        *(("glow", form, SMALL) for form in FORMS),
        ("glow", "reference", {**SMALL, "base_hidden": (8,), "ensemble_size": 3}),
    ],
)
def test_scores_are_the_densities_of_every_flow(vae, rows, flow, form, options):
    model = InvertibleCVAE.build(vae, VectorCondition(3), flow, form, **options)
    c, z = torch.randn(300, 3), torch.randn(300, tiny.LATENT)
    model.flow.initialise(2 * z + 1, c)
    with torch.no_grad():
        for p in model.flow.parameters():
            p.add_(0.05 * torch.randn_like(p))
    scores = model.scores(z[:7], c[:5])
    for v in range(5):
        direct = model.log_density(z[:7], c[v : v + 1])
        torch.testing.assert_close(scores[:, v], direct, atol=1e-3, rtol=1e-4)
