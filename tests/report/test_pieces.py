from __future__ import annotations

from llamavae.report import plots
from llamavae.report.pieces import changes, details, figure, table


def test_changes_marks_words():
    assert changes("a b c d", "a x d d") == "a <del>b c</del> <mark>x</mark> d <mark>d</mark>"
    assert changes("a b", "a b") == "a b"
    assert changes("", "<a>") == "<mark>&lt;a&gt;</mark>"
    assert changes("a", "") == "<del>a</del>"


def test_numbers_stand_right_and_long_text_has_room():
    text = table([{"n": 1.50, "t": "x" * 40}])
    assert '<td class="number">1.5</td>' in text
    assert '<td class="long">' in text
    assert table([]) == "<p>None.</p>"


def test_figure_follows_the_theme():
    text = figure(plots.plot_kl_per_dimension([1.0]), "KL & more")
    assert "var(--blue)" in text
    assert "var(--ink)" in text
    assert "<figcaption>KL &amp; more</figcaption>" in text


def test_details_are_escaped():
    assert details("a & b", table([])) == (
        "<details><summary>a &amp; b</summary><p>None.</p></details>"
    )
