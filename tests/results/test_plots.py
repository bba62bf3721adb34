"""The plots of the page: drawn from the files, and the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from results import experiments, page, plots

ROWS = [("one", "first"), ("two", "second"), ("three", "nothing")]


@pytest.fixture(autouse=True)
def measured(tmp_path, monkeypatch):
    """Two experiments with a training log, a rate, a distortion and a size."""
    monkeypatch.setattr(experiments, "HERE", tmp_path)
    for number, name in enumerate(("first", "second"), 1):
        lines = [
            {"source": "training", "metric": "processor minutes", "value": 10.0 * number},
            {"source": "training", "metric": "NLL", "step": 20, "value": 50.0},
            {"source": "training", "metric": "NLL", "step": 40, "value": 10.0},
            {"source": "evaluation/latent_usage", "metric": "KL", "value": 100.0 * number},
            {"source": "evaluation/likelihood", "metric": "NLL", "value": 20.0 / number},
            {"source": "encoder", "metric": "decoder weights", "value": 10**number},
            {"source": "encoder", "metric": "BLEU-1", "group": "not in train", "value": 0.1},
        ]
        experiments.write_results(name, {"experiment": name}, lines)


def test_a_learning_curve_is_the_mean_of_the_log_by_processor_time():
    (axis,) = plots.learning_curves(ROWS).axes
    curves = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axis.lines}
    assert curves == {
        "one": [[5, 50], [10, 30]],
        "two": [[10, 50], [20, 30]],
    }


def test_a_point_is_the_rate_and_the_distortion_of_a_system():
    (axis,) = plots.rate_distortion(ROWS).axes
    points = [np.asarray(one.get_offsets()).tolist() for one in axis.collections]
    assert points == [[[100, 20]], [[200, 10]]]


def test_no_two_systems_look_alike():
    rows = [(f"system {i}", "first") for i in range(18)]
    (axis,) = plots.rate_distortion(rows).axes
    looks = {
        (str(one.get_facecolor()), str(one.get_paths()[0].vertices)) for one in axis.collections
    }
    assert len(looks) == len(rows)


def test_the_size_of_a_decoder_is_on_a_logarithmic_axis():
    (axis,) = plots.size(ROWS).axes
    assert axis.get_xscale() == "log"
    assert np.asarray(axis.lines[0].get_xydata()).tolist() == [[10, 0.1], [100, 0.1]]


@pytest.mark.parametrize("name", plots.PLOTS)
def test_the_same_values_give_the_same_picture(name):
    assert plots.svg(name, ROWS) == plots.svg(name, ROWS)


def test_the_plots_are_what_the_files_say(monkeypatch):
    monkeypatch.setattr(experiments, "HERE", page.PAGE.parent)
    for name, picture in page.plots().items():
        file = page.PAGE.with_name(f"{name}.svg")
        assert file.read_text(encoding="utf-8") == picture, "run make results"
