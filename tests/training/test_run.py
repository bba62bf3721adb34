"""What a run leaves behind, what it trains, and what stops it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers as hf
import yaml
from huggingface_hub import ModelCard, ModelCardData
from safetensors.torch import load_file
from tests import tiny
from tests.training import runs
from transformers import TrainerState

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.folders import MARKER
from llamavae.training import sentence_trainer
from llamavae.training.arguments import learning_rates
from llamavae.training.folder import last_checkpoint
from llamavae.training.recipe import parse_recipe
from llamavae.training.run import TrainResult
from llamavae.training.sentence_trainer import SentenceTrainer
from llamavae.training.trainer import VAETrainer


def backbones(**decoder: Any) -> dict[str, dict[str, Any]]:
    """Sections with a frozen tiny encoder and a tiny LLaMA."""
    return {
        "encoder": {"model": str(tiny.encoder("bert-mean")), "scratch": None, "training": "frozen"},
        "decoder": {"model": str(tiny.decoder("llama-grouped")), "scratch": None, **decoder},
    }


# ------------------------------------------------------------------------------- what is left


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> TrainResult:
    """A run with all files."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAVAE_CACHE", str(folder / "cache"))
        patch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
        output = {
            "folder": str(folder / "run"),
            "log_every": 2,
            "save_every": 3,
            "report_to": ["tensorboard"],
        }
        objective = {
            "schedule": "constant",
            "beta": 0.5,
            "kl_rule": "dimension_mask",
            "kl_threshold": 0.01,
        }
        evaluation = {"every": 4, "sentences": 4, "decoded": 2}
        sections = {"output": output, "objective": objective, "evaluation": evaluation}
        return runs.quick(runs.settings(folder, "run", **sections))


def test_log(result):
    lines = runs.log(result)
    training = [line for line in lines if "loss" in line]
    evaluation = [line for line in lines if "eval_nll" in line]
    assert [line["step"] for line in training] == [2, 4, 6, 8, 10]
    assert [line["step"] for line in evaluation] == [0, 4, 8, 10]
    for line in training:
        assert set(line) == {
            *("step", "epoch", "loss", "nll", "kl", "kl_term", "beta", "learning_rate"),
            *("grad_norm", "sentences_per_second"),
        }
        assert line["loss"] == pytest.approx(line["nll"] + line["beta"] * line["kl_term"], rel=1e-5)
        assert line["kl_term"] <= line["kl"]
        assert line["epoch"] == line["step"] * 4 / 108
    for line in evaluation:
        assert len(line["eval_kl_per_dimension"]) == 4
        assert sum(line["eval_kl_per_dimension"]) == pytest.approx(line["eval_kl"], rel=1e-5)
        assert line["eval_elbo"] == pytest.approx(line["eval_nll"] + line["eval_kl"])
        assert line["eval_sentences"] == 4
        assert {"eval_bleu", "eval_bleu_shuffled", "eval_exact_match"} <= set(line)
    assert all(set(line) == {"step", "warning"} for line in lines if "warning" in line)


def test_results(result):
    found = json.loads((result.folder / "results.json").read_text())
    last = next(line for line in reversed(runs.log(result)) if "eval_nll" in line)
    assert {f"eval_{k}": v for k, v in found["metrics"].items()}.items() <= last.items()
    assert found["metrics"] == result.metrics
    assert found["warnings"] == result.warnings
    assert found["recipe"]["latent"]["dim"] == 4
    assert (found["seed"], found["sentences"], found["truncated"]) == (0, 108, 28)
    for name in ("version", "command", "machine", "torch", "transformers", "seconds"):
        assert found[name]
    saved = yaml.safe_load((result.folder / "recipe.yaml").read_text())
    assert saved == found["recipe"]


def test_card(result):
    text = (result.folder / "model" / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "llamavae"
    data = ModelCard(text).data
    assert isinstance(data, ModelCardData)
    assert data.base_model is None
    values = {each.metric_type: each.metric_value for each in data.eval_results or []}
    assert values["BLEU"] == result.metrics["bleu"]
    metrics = result.metrics
    for value in (
        f"{metrics['nll']:.4g}",
        f"{metrics['nll_shuffled']:.4g}",
        f"{metrics['bleu']:.4g}",
        f"| active units, 0 to 4 | {metrics['active_units']} |",
        "108 training sentences, 28 of them truncated",
        "dimension_mask",
        *result.warnings,
    ):
        assert value in body


def test_nothing_is_pickled(result):
    suffixes = {path.suffix for path in result.folder.rglob("*") if path.is_file()}
    assert not suffixes & {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


def test_checkpoints_are_models(result):
    assert sorted(p.name for p in result.folder.glob("checkpoint-*")) == [
        "checkpoint-10",
        "checkpoint-9",
    ]
    for name in ("checkpoint-9", "checkpoint-10", "model"):
        model = LlaMaVAE.from_pretrained(result.folder / name)
        assert len(model.sample(2)) == 2
    last, final = (
        load_file(result.folder / name / "model.safetensors") for name in ("checkpoint-10", "model")
    )
    assert all(torch.equal(last[name], final[name]) for name in final)


def test_a_default_prior_is_fitted_at_the_end(result):
    prior = LlaMaVAE.from_pretrained(result.folder / "model").default_prior
    assert prior is not None
    assert prior.report == result.model.default_prior.report
    assert (prior.report["codes"], prior.report["held_out"]) == (108, 4)
    assert prior.report["nll"] <= prior.report["references"]["standard"]
    assert prior.fits(result.model)
    assert "`sample` draws from" in (result.folder / "model" / "README.md").read_text()
    assert LlaMaVAE.from_pretrained(result.folder / "checkpoint-10").default_prior is None


def test_a_run_that_fits_no_prior(tmp_path):
    changes = {"optimisation": {"steps": 1}, "output": {"prior_sentences": 0}}
    found = runs.quick(runs.recipe(tmp_path, "run", **changes))
    assert found.model.default_prior is None
    assert not (tmp_path / "run" / "model" / "prior").exists()


def test_the_result_is_the_saved_model(result):
    loaded = LlaMaVAE.from_pretrained(result.folder / "model")
    assert not result.model.training
    assert loaded.reconstruct(runs.SENTENCES[:3]) == result.model.reconstruct(runs.SENTENCES[:3])


def test_tensorboard(result):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = result.folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file.parent)).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/nll", "train/kl", "train/beta", "eval/nll_shuffled", "eval/active_units"} <= tags
    assert [event.step for event in events.Scalars("eval/nll")] == [0, 4, 8, 10]


def test_silence(tmp_path, capfd):
    runs.quick(runs.settings(tmp_path, "run", optimisation={"steps": 2, "batch_size": 4}))
    seen = capfd.readouterr()
    assert seen.out == ""
    assert all(
        line.startswith(("warning (step", "28 of 108 sentences")) for line in seen.err.splitlines()
    )


def test_progress_bar(tmp_path, capfd):
    from llamavae.training.run import train

    train(runs.recipe(tmp_path, "run", optimisation={"steps": 2, "batch_size": 4}))
    seen = capfd.readouterr()
    assert seen.out == ""
    assert "training: 100%" in seen.err
    assert "sentences/s, nll" in seen.err
    assert "step 0: held out: nll" in seen.err


# ------------------------------------------------------------------------------- what is trained


def test_overfits_a_few_sentences(tmp_path):
    """The loop works: the words come back, the control gets worse, and frozen means frozen."""
    few = tmp_path / "few"
    few.mkdir()
    texts = tiny.SENTENCES[:6]
    for split in ("train", "validation", "test"):
        (few / f"{split}.txt").write_text("\n".join(texts), encoding="utf-8")
    before = LlaMaVAE.from_backbones(
        tiny.encoder("bert-mean"), tiny.decoder("llama-grouped"), latent_dim=8
    )
    result = runs.quick(
        runs.settings(
            tmp_path,
            "run",
            **backbones(training="heads"),
            corpus={"name": str(few)},
            latent={"dim": 16, "slots": 4, "hidden": 64, "injection": "memory+add"},
            objective={"schedule": "constant", "beta": 0.0},
            optimisation={
                "steps": 150,
                "batch_size": 6,
                "learning_rate": 0.01,
                "backbone_learning_rate": 0.01,
                "decay": "linear",
            },
            evaluation={"every": 150, "sentences": 6, "decoded": 6},
            output={"log_every": 50, "save_every": 150},
        )
    )
    metrics = result.metrics
    assert metrics["nll"] < 1
    assert metrics["nll_shuffled"] > metrics["nll"] + 20
    assert metrics["exact_match"] == 1
    assert metrics["bleu"] == pytest.approx(100)
    assert metrics["bleu_shuffled"] < 30
    assert result.model.reconstruct(texts) == texts
    old, new = dict(before.named_parameters()), dict(result.model.named_parameters())
    heads = {"decoder.lm.model.embed_tokens.weight", "decoder.lm.lm_head.weight"}
    for name in (n for n in old if n.startswith(("encoder.", "decoder."))):
        assert torch.equal(old[name], new[name]) == (name not in heads), name


@pytest.mark.parametrize(
    ("latent", "decoder", "optimisation"),
    [
        ({"injection": "soft_prompt"}, {"training": "heads"}, {}),
        ({"injection": "add"}, {"training": "lora"}, {}),
        ({"injection": "memory+add", "tied_kv": True}, {"training": "full"}, {}),
        ({}, {"training": "heads"}, {"precision": "bfloat16"}),
        ({}, {"training": "heads", "dtype": "bfloat16"}, {"precision": "bfloat16"}),
        ({}, {"training": "lora", "dtype": "bfloat16"}, {"precision": "bfloat16"}),
        ({}, {"training": "heads"}, {"gradient_checkpointing": True}),
        ({}, {"training": "full"}, {"gradient_checkpointing": True, "workers": 1}),
    ],
)
def test_kinds_of_model(tmp_path, latent, decoder, optimisation):
    sections = backbones(max_tokens=32, **decoder)
    sections["optimisation"] = {
        **{"steps": 12, "batch_size": 8, "warmup_steps": 1},
        **{"learning_rate": 0.01, "backbone_learning_rate": 0.01},
        **optimisation,
    }
    latent = {"dim": 4, "slots": 2, "hidden": 8, **latent}
    sections |= {"latent": latent, "output": {"save_every": 12}}
    evaluation = {"every": 12, "sentences": 4, "decoded": 1}
    result = runs.quick(runs.settings(tmp_path, "run", **sections, evaluation=evaluation))
    first, last = (line["eval_nll"] for line in runs.log(result) if "eval_nll" in line)
    assert last < first - 5
    dtype = {"bfloat16": torch.bfloat16}.get(decoder.get("dtype", ""), torch.float32)
    assert {p.dtype for p in result.model.decoder.parameters()} == {dtype}
    loaded = LlaMaVAE.from_pretrained(result.folder / "model")
    assert len(loaded.reconstruct(runs.SENTENCES[:2])) == 2
    assert len(result.model.reconstruct(runs.SENTENCES[:2])) == 2


def test_checkpointing_changes_nothing(tmp_path):
    logs = []
    for name, on in (("off", False), ("on", True)):
        optimisation = {"steps": 4, "batch_size": 8, "gradient_checkpointing": on}
        values = runs.settings(tmp_path, name, **backbones(), optimisation=optimisation)
        logs.append([line["nll"] for line in runs.log(runs.quick(values)) if "nll" in line])
    assert logs[0] == pytest.approx(logs[1], rel=1e-6)


def test_half_precision_weights_need_mixed_precision(tmp_path):
    with pytest.raises(UserError, match=r"bfloat16.*optimisation\.precision bfloat16"):
        runs.quick(runs.settings(tmp_path, "run", **backbones(dtype="bfloat16", training="heads")))


def test_a_cpu_that_emulates_bfloat16_is_reported(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    one = {"steps": 1, "batch_size": 2, "warmup_steps": 0}
    runs.quick(runs.settings(tmp_path, "run", **backbones(dtype="bfloat16"), optimisation=one))
    assert "--set decoder.dtype=float32" in caplog.text


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_precomputed_vectors(tmp_path, suffix):
    rows = [{"text": t, "h": [float(len(t)), float(t.count("o")), 1.0]} for t in runs.SENTENCES]
    path = tmp_path / f"vectors.{suffix}"
    data = datasets.Dataset.from_list(rows)
    data.to_parquet(path) if suffix == "parquet" else data.to_json(path)
    sections = backbones()
    sections["encoder"] = {"vectors": "h", "scratch": None, "training": "frozen"}
    corpus = {"name": str(path), "column": "text"}
    optimisation = {"steps": 4, "batch_size": 8}
    result = runs.quick(
        runs.settings(tmp_path, "run", **sections, corpus=corpus, optimisation=optimisation)
    )
    assert result.model.config.encoder_dim == 3
    loaded = LlaMaVAE.from_pretrained(result.folder / "model")
    assert loaded.encode(torch.ones(2, 3)).mean.shape == (2, 4)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("g", [1.0], "no column 'h'; it has text, g"),
        ("h", "word", "must hold lists of numbers"),
        ("h", [float("nan")], "must hold lists of numbers"),
    ],
)
def test_vectors_that_are_none(tmp_path, column, value, words):
    path = tmp_path / "vectors.parquet"
    datasets.Dataset.from_list([{"text": t, column: value} for t in runs.SENTENCES]).to_parquet(
        path
    )
    sections = backbones()
    sections["encoder"] = {"vectors": "h", "scratch": None, "training": "frozen"}
    corpus = {"name": str(path), "column": "text"}
    with pytest.raises(UserError, match=words):
        runs.quick(runs.settings(tmp_path, "run", **sections, corpus=corpus))


def test_stream_without_a_file_in_between(tmp_path):
    corpus = {"name": str(runs.corpus(tmp_path)), "streaming": True}
    result = runs.quick(runs.settings(tmp_path, "run", corpus=corpus, **backbones()))
    found = json.loads((result.folder / "results.json").read_text())
    assert found["sentences"] is None
    assert "streamed" in (result.folder / "model" / "README.md").read_text()
    assert all("epoch" not in line for line in runs.log(result))


def test_corpus_that_leaves_nothing_to_validate(tmp_path):
    path = tmp_path / "two.txt"
    path.write_text("a dog is an animal\nan owl is a bird\n")
    with pytest.raises(UserError):
        runs.quick(runs.settings(tmp_path, "run", corpus={"name": str(path)}))


# ------------------------------------------------------------------------------- what stops it


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_loss_that_is_no_number(tmp_path, monkeypatch, where):
    """The last good checkpoint is named, and is good."""
    compute_loss = SentenceTrainer.compute_loss

    def poisoned(self, *args, **options):
        loss = compute_loss(self, *args, **options)
        if self.state.global_step == 5:
            if where == "loss":
                return loss * float("nan")
            loss.register_hook(lambda grad: grad * float("inf"))
        return loss

    monkeypatch.setattr(SentenceTrainer, "compute_loss", poisoned)
    output = {"log_every": 50, "save_every": 3}  # noticed in time even where nothing is logged
    with pytest.raises(UserError, match=r"not finite.*checkpoint-3.*learning_rate") as error:
        runs.quick(runs.settings(tmp_path, "run", output=output))
    assert "step 6" in str(error.value)
    folder = tmp_path / "run"
    assert last_checkpoint(folder) == folder / "checkpoint-3"
    weights = load_file(folder / "checkpoint-3" / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    LlaMaVAE.from_pretrained(folder / "checkpoint-3")
    assert not (folder / "model").exists()


def test_full_disk_while_saving(tmp_path, monkeypatch):
    """The previous checkpoint stays whole, no half one is left, and the run goes on from it."""

    def at_the_second(function, before):
        calls = [None] * before

        def fail(*args, **options):
            calls.append(None)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            return function(*args, **options)

        return fail

    folder = tmp_path / "run"
    for owner, name in (
        (VAETrainer, "save_weights"),
        (sentence_trainer, "save_optimizer"),
        (TrainerState, "save_to_json"),
    ):
        resume = folder.exists()  # from checkpoint 3, so that the first that is saved is the second
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, at_the_second(getattr(owner, name), int(resume)))
            with pytest.raises(
                UserError, match=r"checkpoint-6: No space left.*--resume.*checkpoint-3"
            ):
                runs.quick(runs.settings(tmp_path, "run"), resume=resume)
        assert [p.name for p in folder.glob("checkpoint-*")] == ["checkpoint-3"]
        LlaMaVAE.from_pretrained(folder / "checkpoint-3")
    assert runs.quick(runs.settings(tmp_path, "run"), resume=True).metrics


def test_full_disk_while_the_results_are_written(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    values = runs.settings(tmp_path, "run", optimisation={"steps": 3})
    with monkeypatch.context() as patch:
        patch.setattr("llamavae.training.run.model_card", fail)
        with pytest.raises(UserError, match=r"No space left.*--resume"):
            runs.quick(values)
    assert not (tmp_path / "run" / "results.json").exists()
    runs.quick(values, resume=True)
    assert (tmp_path / "run" / "results.json").is_file()


def test_last_checkpoint_looks_at_numbers(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11", "checkpoint-12-old"):
        (tmp_path / name).mkdir()
    for name in ("checkpoint-9", "checkpoint-10"):
        (tmp_path / name / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == Path(tmp_path, "checkpoint-10")
    assert last_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        (
            "encoder",
            {"vectors": "h", "scratch": None, "training": "frozen"},
            "corpus.streaming to false",
        ),
        ("optimisation", {"steps": 4, "workers": 2}, "workers to 0 or 1"),
    ],
)
def test_what_a_stream_cannot_do(tmp_path, section, changes, words):
    corpus = {"name": str(runs.corpus(tmp_path)), "streaming": True}
    with pytest.raises(UserError, match=words):
        runs.recipe(tmp_path, "run", corpus=corpus, **{section: changes})


# ------------------------------------------------------------------------------- pretrained parts


def test_a_pretrained_decoder_stays_as_it_is_to_the_bit(tmp_path):
    sections = backbones()
    sections["encoder"] |= {"training": "full", "pooling": "attention", "pooling_heads": 2}
    sections["optimisation"] = {"steps": 5}
    result = runs.quick(runs.settings(tmp_path, "run", **sections))
    config = result.model.config
    assert (config.decoder_training, config.standardise, config.scaled_memory) == (
        "frozen",
        True,
        True,
    )
    fresh = LlaMaVAE.from_backbones(sections["encoder"]["model"], sections["decoder"]["model"])
    now = dict(result.model.decoder.named_parameters())
    for name, weight in fresh.decoder.named_parameters():
        assert torch.equal(weight, now[name]), name
    stored = load_file(result.folder / "model" / "model.safetensors")
    assert not any(name.startswith("decoder.") for name in stored)
    std = stored["posterior.features_std"]
    assert not torch.equal(std, torch.ones_like(std))


def test_parts_learn_at_rates_of_their_own(tmp_path):
    sections = backbones(training="heads")
    sections["encoder"] |= {"training": "full", "pooling": "attention"}
    rates = {"posterior_learning_rate": 0.003, "backbone_learning_rate": 1e-4}
    sections["optimisation"] = {"steps": 3, **rates}
    result = runs.quick(runs.settings(tmp_path, "run", **sections))
    checkpoint = last_checkpoint(result.folder)
    assert checkpoint is not None
    groups = json.loads((checkpoint / "optimizer.json").read_text())["groups"]
    assert {group["initial_lr"] for group in groups} == {0.01, 0.003, 1e-4}
    assert groups[0]["initial_lr"] == 0.01  # the one that the log shows


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"encoder.model.": 5e-4, "decoder.": 5e-4}),
        ({"backbone_learning_rate": 1e-5}, {"encoder.model.": 1e-5, "decoder.": 1e-5}),
    ],
)
def test_a_twentieth_is_the_rate_of_pretrained_parts(tmp_path, changes, expected):
    values = runs.settings(tmp_path, "run", **backbones(), optimisation=changes)
    assert learning_rates(parse_recipe(values)) == expected
    assert learning_rates(parse_recipe(runs.settings(tmp_path, "run"))) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"beta": 1e300}}, r"loss of training step 1 .*begin with 'the "),
        ({"optimisation": {"learning_rate": 1e30}}, r"(loss|gradient) of training step 3 .*'the "),
        (
            {"optimisation": {"learning_rate": 1e30, "steps": 1, "warmup_steps": 0}},
            "held-out sentences is not finite",
        ),
        (
            {"decoder": {"scratch": {"warmup_steps": 3, "warmup_learning_rate": 1e30}}},
            r"(loss|gradient) of warm-up step \d .*'the ",
        ),
    ],
    ids=["beta", "learning-rate", "one-step", "warm-up"],
)
def test_a_run_that_diverges_stops_and_names_step_and_sentences(tmp_path, changes, message):
    settings = runs.settings(tmp_path, "run", output={"log_every": 50})
    for section, values in changes.items():
        scratch = settings[section].get("scratch", {}) | values.get("scratch", {})
        settings[section] |= values | ({"scratch": scratch} if scratch else {})
    with pytest.raises(UserError, match=message):
        runs.quick(settings)
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_backbones_of_half_precision_train_in_float32(tmp_path, dtype):
    folder = {}
    for name, source, kind in (
        ("encoder", tiny.encoder("bert"), hf.AutoModel),
        ("decoder", tiny.decoder(), hf.AutoModelForCausalLM),
    ):
        folder[name] = tmp_path / name
        kind.from_pretrained(source).to(dtype).save_pretrained(folder[name])
        hf.AutoTokenizer.from_pretrained(source).save_pretrained(folder[name])
    settings = runs.settings(tmp_path, "run", optimisation={"steps": 3})
    settings["encoder"] = {"model": str(folder["encoder"]), "pooling": "mean", "training": "full"}
    settings["decoder"] = {
        "model": str(folder["decoder"]),
        "dtype": "auto",
        "training": "full",
        "max_tokens": 24,
    }
    result = runs.quick(settings)
    assert all(math.isfinite(line["loss"]) for line in runs.log(result) if "loss" in line)
    saved = load_file(result.folder / "model" / "model.safetensors")
    trained = {n: p for n, p in result.model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {saved[name].dtype for name in trained if name in saved} == {torch.float32}
    assert LlaMaVAE.from_pretrained(result.folder / "model").decoder.lm.dtype == torch.float32


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"metrics": 1, "warnings": []}'])
def test_damaged_results_of_a_finished_run(tmp_path, text):
    values = runs.settings(tmp_path, "run")
    folder = tmp_path / "run"
    folder.mkdir()
    recipe = parse_recipe(values).model_dump(mode="json")
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    for name in ("log.jsonl", MARKER):
        (folder / name).touch()
    (folder / "results.json").write_text(text)
    with pytest.raises(UserError, match=r"results\.json is damaged: .*Delete it, then run again"):
        runs.quick(values, resume=True)
