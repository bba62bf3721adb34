from __future__ import annotations

from pathlib import Path

import pytest

from llamavae.errors import UserError
from llamavae.training.arguments import training_arguments
from llamavae.training.recipe import load_recipe


def test_a_batch_smaller_than_the_number_of_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    four = type("Four", (), {"num_processes": 4})
    monkeypatch.setattr("llamavae.training.arguments.processes", four)
    recipe = load_recipe("demo", ["optimisation.batch_size=2"])
    with pytest.raises(UserError, match=r"batch_size 2 cannot be shared among 4 .* multiple of 4"):
        training_arguments(recipe, tmp_path, 1, resumed=False)


def test_a_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("llamavae.training.arguments.find_spec", lambda name: None)
    recipe = load_recipe("demo", ["output.report_to=[wandb]"])
    with pytest.raises(UserError, match=r"pip install 'llamavae\[tracking\]'"):
        training_arguments(recipe, tmp_path, 1, resumed=False)
