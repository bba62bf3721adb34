from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from llamavae.errors import UserError
from llamavae.report import plots

LOG = [
    {"step": 20, "warmup_step": 20, "warmup_nll": 50.0},
    {"step": 0, "eval_nll": 40.0, "eval_nll_shuffled": 40.1, "eval_kl": 1.0, "eval_bleu": 1.0}
    | {"eval_bleu_shuffled": 1.0, "eval_active_units": 3},
    {"step": 10, "loss": 30.0, "nll": 30.0, "kl": 2.0, "beta": 0.0},
    {"step": 20, "loss": 99.0, "nll": 99.0, "kl": 9.0, "beta": 0.9},
    {"step": 20, "loss": 20.0, "nll": 19.0, "kl": 5.0, "beta": 0.2},
    {"step": 20, "eval_nll": 20.0, "eval_nll_shuffled": 45.0, "eval_kl": 5.5, "eval_bleu": 80.0}
    | {"eval_bleu_shuffled": 4.0, "eval_active_units": 6},
    {"step": 20, "warning": "something"},
]


@pytest.fixture(autouse=True)
def _nothing_global_changes():
    before = settings()
    yield
    assert settings() == before


def settings():
    """Without the backend, which matplotlib settles when it is first needed."""
    return {key: value for key, value in matplotlib.rcParams.items() if key != "backend"}


def curves(figure, panel=0):
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in figure.axes[panel].get_lines()
    }


def legend(axis):
    found = axis.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def count_points(axis):
    return sum(len(np.asarray(group.get_offsets())) for group in axis.collections)


def test_training_has_a_panel_for_all_that_the_log_has():
    figure = plots.plot_training(LOG)
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == [
        "NLL (nats per sentence)",
        "KL (nats per sentence)",
        "β (weight of the KL)",
        "reconstruction BLEU (0 to 100)",
        "active units (Var(μ) > 0.01)",
        "NLL (nats per sentence)",
    ]
    assert all("step" in axis.get_xlabel() for axis in figure.axes)
    assert len(plots.plot_training(LOG[2:5]).axes) == 3


def test_right_and_shuffled_z_are_told_apart_without_colour():
    figure = plots.plot_training(LOG, ["bleu"])
    assert curves(figure) == {"own z": ([0, 20], [1, 80]), "shuffled z": ([0, 20], [1, 4])}
    styles = {line.get_linestyle() for line in figure.axes[0].get_lines()}
    assert styles == {"-", "--"}


def test_steps_done_again_after_a_resume_count_once():
    figure = plots.plot_training(LOG, ["beta"])
    (curve,) = curves(figure).values()
    assert curve == ([10, 20], [0.0, 0.2])


def test_training_without_lines():
    with pytest.raises(UserError, match="at least one training line"):
        plots.plot_training([])
    with pytest.raises(UserError, match="Did you mean 'kl'"):
        plots.plot_training(LOG, ["kll"])


def test_kl_bars_are_sorted_and_the_threshold_is_stated():
    figure = plots.plot_kl_per_dimension([0.1, 2.0, 0.001], active=2)
    axis = figure.axes[0]
    bars = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    assert [bar.get_height() for bar in bars] == [2.0, 0.1, 0.001]
    assert len({bar.get_facecolor() for bar in bars}) == 2
    assert axis.get_title() == "KL 2.1 nats in all; 2 of 3 units active"
    assert legend(axis) == ["active means Var(μ) > 0.01, so KL > 0.005"]
    with pytest.raises(UserError, match="at least one KL value"):
        plots.plot_kl_per_dimension([])


def score_rows(**changes):
    rows = [
        {"system": "flow", "metric": "BLEU", "value": 20.0, "low": 18.0, "high": 23.0},
        {"system": "LSTM", "metric": "BLEU", "value": 5.0, "low": 4.0, "high": 6.5},
        {"system": "LSTM", "metric": "median rank", "value": 1234.5, "control": 9000.0},
    ]
    directions = {"BLEU": "higher", "median rank": "lower"}
    return [{**row, "direction": directions[row["metric"]], **changes} for row in rows]


def widths(axis):
    bars = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    return {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in bars}


def test_scores_have_a_panel_for_each_measure_and_a_bar_for_each_system():
    figure = plots.plot_scores(score_rows(unit="0 to 100"))
    bleu, rank = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["BLEU", "median rank"]
    assert bleu.get_xlabel() == "0 to 100\nhigher is better"
    assert rank.get_xlabel() == "0 to 100\nlower is better"
    assert [label.get_text() for label in bleu.get_yticklabels()] == ["flow", "LSTM"]
    assert bleu.yaxis_inverted()  # the first system is on top
    assert widths(bleu) == {0: 20.0, 1: 5.0}
    assert widths(rank) == {1: 1234.5}
    assert [text.get_text() for text in bleu.texts] == ["20", "5"]
    assert [text.get_text() for text in rank.texts] == ["1,234"]


def test_scores_show_intervals_and_controls_where_there_are_any():
    figure = plots.plot_scores(score_rows())
    lines = [[np.array(line.get_xdata()) for line in axis.get_lines()] for axis in figure.axes]
    np.testing.assert_array_equal(lines[0], [[18.0, 23.0], [4.0, 6.5]])
    np.testing.assert_array_equal(lines[1], [[9000.0, 9000.0]])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["95 % interval", "control"]
    plain = plots.plot_scores([{**row, "low": None, "control": None} for row in score_rows()])
    assert not plain.legends
    assert plain.axes[0].get_xlabel() == "higher is better"


def test_numbers_stand_clear_of_bars_intervals_and_controls():
    row = {"system": "a", "metric": "m", "direction": "higher", "value": 1.0, "high": 1.2}
    for control, place in ((0.5, 1.2), (1.3, 1.3), (9.0, 1.2)):
        axis = plots.plot_scores([{**row, "low": 0.9, "control": control}]).axes[0]
        (number,) = axis.texts
        assert isinstance(number, Annotation)
        assert number.xy[0] == place
        assert axis.get_xlim()[1] > max(control, place)


def test_negative_scores_go_to_the_left():
    row = {"system": "a", "metric": "MoverScore", "direction": "higher"}
    axis = plots.plot_scores([{**row, "value": -0.1}]).axes[0]
    assert widths(axis) == {0: -0.1}
    assert axis.get_xlim()[0] < -0.1
    assert axis.texts[0].get_text() == "−0.1"


def test_panels_fill_rows_and_long_names_are_broken():
    rows = [
        {"system": "an LSTM that reads the vector of the word", "metric": f"m{i}", "value": 0.0}
        | {"direction": "lower"}
        for i in range(5)
    ]
    figure = plots.plot_scores(rows)
    assert len(figure.axes) == 5
    names = [[label.get_text() for label in axis.get_yticklabels()] for axis in figure.axes]
    broken = ["an LSTM that reads the\nvector of the word"]
    assert names == [broken, [""], [""], broken, [""]]
    places = {axis.get_title(): axis.get_subplotspec() for axis in figure.axes}
    assert [spec.colspan.start for spec in places.values() if spec] == [0, 1, 2, 0, 1]


def test_scores_that_cannot_be_drawn():
    with pytest.raises(UserError, match="at least one; got 0 rows"):
        plots.plot_scores([])
    with pytest.raises(UserError, match="got 6 rows for 3 combinations"):
        plots.plot_scores(score_rows() * 2)
    with pytest.raises(UserError, match="lacks direction, value"):
        plots.plot_scores([{"system": "a", "metric": "m"}])


def test_trade_off_has_a_line_for_each_value_of_the_other_settings():
    rows = [
        {"label": f"beta={beta}", "line": line, "kl": kl, "nll": nll}
        | {"bleu": bleu, "bleu_shuffled": 2.0}
        for line, points in {"dim=4": [(1, 9, 40), (3, 5, 60)], "dim=8": [(2, 4, None)]}.items()
        for beta, (kl, nll, bleu) in enumerate(points)
    ]
    figure = plots.plot_trade_off(rows)
    assert curves(figure) == {"dim=4": ([1, 3], [9, 5]), "dim=8": ([2], [4])}
    assert curves(figure, 1) == {
        "dim=4": ([1, 3], [40, 60]),
        "dim=8": ([], []),
        "shuffled z (control)": ([1, 3], [2.0, 2.0]),
    }
    assert [text.get_text() for text in figure.axes[0].texts] == ["beta=0", "beta=1", "beta=0"]
    only = plots.plot_trade_off([{**row, "line": "", "bleu": None} for row in rows])
    assert len(only.axes) == 1
    assert only.axes[0].get_legend() is None
    with pytest.raises(UserError, match="at least one model"):
        plots.plot_trade_off([])


def map_rows(labels):
    return [{"x": i, "y": -i, "kind": label} for i, label in enumerate(labels)]


def test_plot_map():
    figure = plots.plot_map(map_rows(["b", "a", 3, "a"]), "kind")
    (axis,) = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["3", "a", "b"]
    assert axis.get_title() == "kind"
    points = [np.asarray(dots.get_offsets()).tolist() for dots in axis.collections]
    assert points == [[[2, -2]], [[1, -1], [3, -3]], [[0, 0]]]


def test_plot_map_with_many_long_labels():
    labels = [f"a label with a long name, number {i}" for i in range(20)]
    figure = plots.plot_map(map_rows([str(i) for i in range(20)] + labels), "kind", "title")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(names) == 12
    assert names[0].endswith("others")
    assert figure.axes[0].get_title() == "title"
    figure.canvas.draw()  # no warning of a layout that does not fit


def test_plot_map_errors():
    with pytest.raises(UserError, match="at least one point"):
        plots.plot_map([], "kind")
    with pytest.raises(UserError, match="lacks kin"):
        plots.plot_map(map_rows("a"), "kin")
