from __future__ import annotations

import numpy as np
import pytest
from tests.experiments.rows import rows_of

from llamavae.errors import UserError
from llamavae.report.correlation import plot_correlations


def test_plot_has_a_panel_for_each_pair():
    rows = rows_of(MIG=[1, 2, 3, 4], DCI=[1, 1, 1, 1], BLEU=[4, 3, 2, 1])
    figure = plot_correlations(rows, ["MIG", "DCI"], ["BLEU"])
    first, second = figure.axes
    assert first.get_title() == "ρ = −1.00, p = 0.083, 4 models"
    assert second.get_title() == "4 models"
    assert (first.get_xlabel(), first.get_ylabel()) == ("MIG", "BLEU")
    dots = np.asarray(first.collections[0].get_offsets())
    assert dots.tolist() == [[1, 4], [2, 3], [3, 2], [4, 1]]
    assert [text.get_text() for text in first.texts] == ["m0", "m1", "m2", "m3"]
    many = plot_correlations(rows_of(a=range(13), b=range(13)), ["a"], ["b"])
    assert not many.axes[0].texts
    with pytest.raises(UserError, match="expected at least one geometry metric"):
        plot_correlations(rows, [], ["BLEU"])
