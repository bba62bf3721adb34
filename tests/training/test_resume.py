"""A run that was interrupted, however, ends like one that was not: to the bit."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tests import tiny
from tests.training import runs

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.training.folder import last_checkpoint
from llamavae.training.run import TrainResult
from llamavae.training.trainer import VAETrainer
from llamavae.training.warmup import _LanguageModelTrainer

STEPS = 10
LISTENING: dict[str, Any] = {
    "schedule": "target_rate",
    "target_rate": 0.2,
    "word_dropout": 0.3,
    "bag_of_words": 0.5,
}
EVALUATION = {"every": 6, "sentences": 4, "decoded": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Folder with a run that nothing interrupts: warm-up, then a beta that has a state."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMAVAE_CACHE", str(folder / "cache"))
        runs.quick(settings(folder, "whole"))
    return folder


def settings(folder: Path, name: str, **changes: dict[str, Any]) -> dict[str, Any]:
    scratch = runs.settings(folder, name)["decoder"]["scratch"]
    warm = {"scratch": {**scratch, "warmup_steps": 5, "warmup_batch_size": 4}}
    sections = {"decoder": warm, "objective": LISTENING, "evaluation": EVALUATION}
    return runs.settings(folder, name, **{**sections, **changes})


def assert_equal(a: Path, b: Path) -> None:
    """Same weights to the bit, and the same log."""
    one, other = (load_file(x / "model" / "model.safetensors") for x in (a, b))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert runs.curve(a) == runs.curve(b)


def interrupt(folder: Path, name: str, step: int, how: signal.Signals, **options: Any) -> Path:
    """Folder of a run that a signal interrupted; a run that several tests need is made once."""
    made = folder / "interrupted" / f"{step}-{how.name}-{len(options)}"
    if not made.is_dir():
        values = settings(folder, f"interrupted/{made.name}")
        status = runs.interrupted(values, folder / "cache", step, how, **options)
        assert status == (-how if how == signal.SIGKILL else runs.INTERRUPTED)
    return shutil.copytree(made, folder / name)


@pytest.mark.parametrize("step", random.Random(8).sample(range(STEPS), 1))
def test_killed(whole, step):
    interrupt(whole, f"kill-{step}", step, signal.SIGKILL)
    resumed = runs.quick(settings(whole, f"kill-{step}"), resume=True)
    assert_equal(resumed.folder, whole / "whole")


def test_killed_in_the_warm_up(whole):
    folder = interrupt(whole, "warm", 4, signal.SIGKILL, warm_up=True)
    assert (folder / "warm-up" / "checkpoint-3").is_dir()
    resumed = runs.quick(settings(whole, "warm"), resume=True)
    assert_equal(resumed.folder, whole / "whole")


def test_killed_before_the_first_checkpoint(whole):
    """The warm-up is done and is not repeated, but the fresh weights must be the same ones."""
    interrupt(whole, "early", 1, signal.SIGKILL)
    resumed = runs.quick(settings(whole, "early"), resume=True)
    assert_equal(resumed.folder, whole / "whole")


@pytest.mark.parametrize("state", [None, "", '{"global_step": 6, "lo'])
def test_a_checkpoint_whose_writing_was_cut_short_does_not_count(whole, tmp_path, state):
    folder = interrupt(whole, tmp_path.name, 8, signal.SIGKILL)
    path = folder / "checkpoint-6" / "trainer_state.json"
    assert last_checkpoint(folder) == path.parent
    path.unlink() if state is None else path.write_text(state)
    assert last_checkpoint(folder) == folder / "checkpoint-3"


def test_half_written_files(whole):
    folder = interrupt(whole, "half", 8, signal.SIGKILL)
    state = folder / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    (state.parent / "model.safetensors").write_bytes(b"half")
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # cut short, too
    resumed = runs.quick(settings(whole, "half"), resume=True)
    assert_equal(resumed.folder, whole / "whole")
    LlaMaVAE.from_pretrained(resumed.folder / "checkpoint-9")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop(whole, how):
    """It finishes the step, saves a checkpoint there, and says so by a KeyboardInterrupt."""
    folder = interrupt(whole, how.name, 4, how)
    assert (folder / "checkpoint-5" / "trainer_state.json").is_file()
    assert not (folder / "results.json").exists()
    resume_in_time(whole, folder)


def test_asked_to_stop_in_the_warm_up(whole):
    resume_in_time(whole, interrupt(whole, "stop-warm", 1, signal.SIGINT, warm_up=True))


def resume_in_time(whole: Path, folder: Path) -> None:
    """The run ends like any other, and its time is that of all legs."""
    record = json.loads((folder / "run.json").read_text())
    assert 0 < record["seconds"] < 100
    (folder / "run.json").write_text(json.dumps({**record, "seconds": 1000.0}))
    resumed = runs.quick(settings(whole, folder.name), resume=True)
    assert_equal(resumed.folder, whole / "whole")
    assert 1000 < json.loads((folder / "results.json").read_text())["seconds"] < 1100


def test_a_run_older_than_its_record(whole):
    (interrupt(whole, "older", 4, signal.SIGINT) / "run.json").unlink()
    resumed = runs.quick(settings(whole, "older"), resume=True)
    assert 0 < json.loads((resumed.folder / "results.json").read_text())["seconds"] < 100


def test_dropout_goes_on(tmp_path):
    """Random numbers inside the backbones (dropout of GPT-2 and of LoRA's base) are restored."""
    changes: dict[str, Any] = {
        "encoder": {"model": str(tiny.encoder("bert-mean")), "scratch": None, "training": "lora"},
        "decoder": {"model": str(tiny.decoder("gpt2")), "scratch": None, "training": "full"},
        "optimisation": {"steps": 6, "batch_size": 4, "micro_batch_size": 2},
    }
    whole = runs.quick(runs.settings(tmp_path, "whole", **changes))
    values = runs.settings(tmp_path, "killed", **changes)
    status = runs.interrupted(values, tmp_path / "cache", 4, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert_equal(runs.quick(values, resume=True).folder, whole.folder)


@pytest.mark.parametrize("shards", [1, 4])
def test_stream(tmp_path, shards):
    """Also in the second pass over the stream, which begins inside a block of batches.

    With shards, batches are limited by tokens, and vectors are on disk.
    """
    path = runs.corpus(tmp_path)
    changes: dict[str, Any] = {
        "corpus": {"name": str(path), "streaming": True},
        "optimisation": {"steps": 8, "batch_size": 24},
        "output": {"folder": str(tmp_path / "whole"), "log_every": 1, "save_every": 6},
    }
    if shards > 1:
        path = tmp_path / "sentences.parquet"
        pq.write_table(pa.table({"text": runs.SENTENCES}), path, row_group_size=15)
        changes["corpus"] |= {"name": str(path), "cache_vectors": True, "shuffle_buffer": 48}
        changes["optimisation"] |= {"batch_tokens": 50, "micro_batch_size": 6}
        frozen = {"model": str(tiny.encoder("bert-mean")), "scratch": None, "training": "frozen"}
        changes["encoder"] = frozen
    whole = runs.quick(runs.settings(tmp_path, "whole", **changes))
    changes["output"] |= {"folder": str(tmp_path / "killed")}
    values = runs.settings(tmp_path, "killed", **changes)
    status = runs.interrupted(values, tmp_path / "cache", 7, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert_equal(runs.quick(values, resume=True).folder, whole.folder)


# ------------------------------------------------------------------------------- finished runs


@pytest.fixture
def finished(whole, tmp_path) -> Path:
    """A copy of the whole run."""
    folder = tmp_path / "whole"
    shutil.copytree(whole / "whole", folder)
    return folder


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Fail at a call of a trainer's method."""

    def called(*_: Any, **__: Any) -> None:
        pytest.fail("called")

    for name in names:
        for kind in (VAETrainer, _LanguageModelTrainer):
            monkeypatch.setattr(kind, name, called)


def again(whole: Path, folder: Path, **changes: dict[str, Any]) -> TrainResult:
    output = {**settings(whole, "whole")["output"], "folder": str(folder)}
    return runs.quick(settings(whole, "whole", output=output, **changes), resume=True)


def test_finished_run_is_not_trained_again(whole, finished, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("model/*")}
    forbid(monkeypatch, "train", "evaluate")
    result = again(whole, finished)
    assert result.metrics["sentences"] == 4
    assert result.model.reconstruct(["the dog sees bread today."])
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("model/*")} == before


def test_killed_while_the_results_were_written(whole, finished, monkeypatch):
    """All steps are done: only the last evaluation and the files are made again."""
    shutil.rmtree(finished / "model")
    (finished / "results.json").unlink()
    forbid(monkeypatch, "train")
    again(whole, finished)
    one, other = (load_file(x / "model" / "model.safetensors") for x in (finished, whole / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert runs.curve(finished) == runs.curve(whole / "whole")


def test_a_folder_with_a_run_is_refused(whole):
    before = (whole / "whole" / "log.jsonl").read_text()
    with pytest.raises(UserError, match=r"already holds a run.*--resume"):
        runs.quick(settings(whole, "whole"))
    assert (whole / "whole" / "log.jsonl").read_text() == before


def test_other_settings_are_refused_by_name(whole, finished):
    changes: dict[str, Any] = {
        "latent": {"dim": 5, "slots": 2, "hidden": 8},
        "optimisation": {"steps": 20, "batch_size": 4, "warmup_steps": 2, "learning_rate": 0.01},
    }
    with pytest.raises(UserError) as error:
        again(whole, finished, **changes)
    assert "latent.dim: was 4, now 5" in str(error.value)
    assert "optimisation.steps: was 10, now 20" in str(error.value)
    assert "slots" not in str(error.value)


def test_settings_that_change_no_result_are_free(whole, finished):
    again(whole, finished, evaluation={"every": 2, "sentences": 4, "decoded": 2})


def test_resume_without_a_run_starts_one(tmp_path):
    folder = tmp_path / "new"
    result = runs.quick(
        runs.settings(
            tmp_path, "new", optimisation={"steps": 2, "batch_size": 4, "warmup_steps": 0}
        ),
        resume=True,
    )
    assert result.folder == folder


def test_a_run_that_never_began_does_not_count(tmp_path):
    """A misspelt file is mended without --resume or another folder."""
    values = runs.settings(tmp_path, "new", corpus={"name": str(tmp_path / "sentnces.txt")})
    with pytest.raises(UserError, match=r"sentences\.txt"):
        runs.quick(values)
    assert runs.quick(runs.settings(tmp_path, "new")).metrics


def test_a_damaged_checkpoint_is_skipped(whole, caplog):
    """A flipped bit in the newest checkpoint: the run resumes from the one before."""
    folder = interrupt(whole, "flipped", 8, signal.SIGKILL)
    newest = last_checkpoint(folder)
    assert newest is not None
    path = newest / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 64
    path.write_bytes(data)
    resumed = runs.quick(settings(whole, "flipped"), resume=True)
    assert f"{newest} is skipped, since it is damaged: model.safetensors" in caplog.text
    assert_equal(resumed.folder, whole / "whole")


def test_a_corpus_that_changed_is_refused(whole):
    interrupt(whole, "changed", 4, signal.SIGTERM)
    path = runs.corpus(whole)
    text = path.read_text()
    path.write_text(text.replace("the dog sees bread today.\n", ""))
    with pytest.raises(UserError, match=r"training sentences have changed.*were (\d+), and now"):
        runs.quick(settings(whole, "changed"), resume=True)
    path.write_text(text)
    assert runs.quick(settings(whole, "changed"), resume=True).metrics


def test_foreign_files_are_not_touched(tmp_path):
    for name in ("backbones/mine", "model/mine"):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    with pytest.raises(UserError, match="never overwritten"):
        runs.quick(settings(tmp_path, "run"))
    assert sorted(p.name for p in (tmp_path / "run").rglob("*")) == [
        "backbones",
        "mine",
        "mine",
        "model",
    ]
