from __future__ import annotations

import pytest
import torch

from llamavae.errors import UserError
from llamavae.flows import resuming
from llamavae.flows.resuming import SavedFit


class Parts:
    """A layer after some steps, with optimiser and schedule."""

    def __init__(self, steps=3):
        self.layer = torch.nn.Linear(2, 1)
        self.optimizer = torch.optim.AdamW(self.layer.parameters(), 0.1)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 0.9**step)
        self.step(steps)

    def step(self, steps=1):
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.layer(torch.ones(2)).square().sum().backward()
            self.optimizer.step()
            self.scheduler.step()

    def write(self, saved, step, report=None):
        weights = {"flow": self.layer.state_dict(), "best": {"w": torch.tensor([float(step)])}}
        saved.write(step, weights, self.optimizer, self.scheduler, report or {})

    def read(self, saved):
        return saved.read(self.optimizer, self.scheduler)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "state"


@pytest.mark.parametrize("steps", [0, 3])
def test_what_is_read_goes_on_to_the_bit(folder, steps):
    one, other = Parts(steps), Parts(0)
    one.write(SavedFit(folder, "key"), steps, {"nll": 0.1 + 0.2, "train": float("nan")})
    found = other.read(SavedFit(folder, "key"))
    assert found is not None
    weights, report = found
    assert report["nll"] == 0.1 + 0.2
    assert report["train"] != report["train"]
    assert weights["best"]["w"] == steps
    other.layer.load_state_dict(weights["flow"])
    for parts in (one, other):
        parts.step(2)
    assert torch.equal(one.layer.weight, other.layer.weight)


def test_only_the_latest_state_is_kept(folder):
    saved, parts = SavedFit(folder, "key"), Parts()
    for step in (0, 90, 100):
        parts.write(saved, step)
    assert [path.name for path in folder.iterdir()] == ["step-100"]


@pytest.mark.parametrize("point", ["save_optimizer", "save_file"])
def test_an_interrupted_write_leaves_the_state_before(folder, monkeypatch, point):
    saved, parts = SavedFit(folder, "key"), Parts()
    parts.write(saved, 100)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resuming, point, interrupt)
        with pytest.raises(KeyboardInterrupt):
            parts.write(saved, 200)
    found = parts.read(saved)
    assert found is not None
    assert found[0]["best"]["w"] == 100
    parts.write(saved, 200)
    assert [path.name for path in folder.iterdir()] == ["step-200"]


def test_a_half_removed_state_is_not_used(folder):
    saved, parts = SavedFit(folder, "key"), Parts()
    parts.write(saved, 100)
    old = folder / "step-90"
    old.mkdir()
    (old / "fit.json").write_text((folder / "step-100" / "fit.json").read_text())
    (folder / "step-300").mkdir()  # its fit.json went first
    found = parts.read(saved)
    assert found is not None
    assert found[0]["best"]["w"] == 100


def test_the_state_of_another_fit_is_refused(folder):
    parts = Parts()
    assert parts.read(SavedFit(folder, "key")) is None
    parts.write(SavedFit(folder, "key"), 300)
    with pytest.raises(UserError, match="is the state of another fit"):
        parts.read(SavedFit(folder, "another"))
    assert parts.read(SavedFit(folder, "key")) is not None


def test_other_files_in_the_folder_stay(folder):
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    saved, parts = SavedFit(folder, "key"), Parts()
    for step in (100, 200):
        parts.write(saved, step)
    assert {path.name for path in folder.iterdir()} == {"notes.txt", "step-200"}
