from __future__ import annotations

import json

import pytest
from tests.report.html import EVIL, Page, check_page

from llamavae.errors import UserError
from llamavae.report.pieces import Section, prose
from llamavae.report.run import Number, about, write_run_report
from llamavae.training import load_recipe
from llamavae.training.recipe import recipe_names

METRICS = {
    "nll": 3.2,
    "nll_shuffled": 41.0,
    "kl": 15.5,
    "elbo": 18.7,
    "active_units": 20,
    "mutual_information": 6.2,
    "mutual_information_n": 500,
    "posterior_variance": 0.41,
    "bleu": 91.2,
    "bleu_shuffled": 6.1,
    "exact_match": 0.734,
    "sentences": 500,
    "kl_per_dimension": [0.5] * 31 + [0.0],
}
TABLES = {
    "predictions": [
        {"reference": "the old dog", "prediction": "the old dog", "bleu": 100.0, "control": "x"},
        {"reference": EVIL, "prediction": EVIL + " <b>", "bleu": 20.0, "control": EVIL},
    ],
    "interpolations": [
        {"pair": pair, "position": t, "text": text}
        for pair in (1, 2)
        for t, text in ((0.0, "the old dog"), (0.5, "the young dog"), (1.0, EVIL))
    ],
    "traversals": [{"dimension": 3, "value": 0.0, "text": EVIL}],
    "samples": [{"text": EVIL, "tense": "past"}],
}


@pytest.fixture
def run(tmp_path):
    """A folder as training leaves it behind."""
    recipe = load_recipe("demo").model_dump(mode="json")
    results = {
        "metrics": METRICS,
        "recipe": recipe,
        "warnings": [],
        "seed": 0,
        "sentences": 40000,
        "seconds": 300.0,
        "command": "llamavae train --recipe demo",
        "version": "0.1.0",
        "commit": None,
        "machine": "2 CPU cores",
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    log = [
        {"step": 0, "warmup_step": 5, "warmup_nll": 9.0},
        {"step": 0, "eval_nll": 40.0, "eval_nll_shuffled": 40.0, "eval_kl": 1.0},
        {"step": 10, "nll": 30.0, "kl": 2.0, "beta": 0.1},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return tmp_path


def test_page_is_whole_and_loads_nothing(run):
    text = write_run_report(run, TABLES).read_text(encoding="utf-8")
    page = check_page(text)
    assert "http" not in text
    assert page.tags.count("svg") == 5


def test_text_is_escaped(run):
    text = write_run_report(run, TABLES).read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; more" in text


def test_page_says_what_was_measured_and_how(run):
    text = " ".join("".join(Page(write_run_report(run).read_text("utf-8")).texts).split())
    for part in (
        "32 numbers",
        "40,000 training sentences",
        "91.2",
        "0.734",
        "active units, 0 to 32",
        "at most log N = 6.21",
        "no posterior collapse",
        "llamavae train --recipe demo",
        "2 CPU cores",
        "5.0 minutes",
        "installed package",
    ):
        assert part in text
    assert "Reconstructions" not in text


def test_warnings_come_first(run):
    path = run / "results.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps(results | {"warnings": ["posterior collapse: bad <luck>"]}))
    text = write_run_report(run).read_text(encoding="utf-8")
    assert '<p class="warning">posterior collapse: bad &lt;luck&gt;</p>' in text
    assert "no posterior collapse" not in text


def test_page_does_not_change_from_one_writing_to_the_next(run):
    first = write_run_report(run, TABLES).read_bytes()
    assert write_run_report(run, TABLES).read_bytes() == first


def test_further_pieces_have_their_place(run):
    more = Section("Further", prose("words & words"))
    metric = Number("my measure", "1.23", how="by hand")
    text = write_run_report(run, {}, [metric], [more]).read_text(encoding="utf-8")
    assert "<h2>Further</h2>\n<p>words &amp; words</p>" in text
    assert text.index("my measure") < text.index("NLL, nats")


def test_folder_without_a_finished_run(tmp_path):
    with pytest.raises(UserError, match=r"results\.json is missing"):
        write_run_report(tmp_path)


@pytest.mark.parametrize("name", recipe_names())
def test_the_model_of_every_recipe_can_be_described(name):
    section = about(load_recipe(name).model_dump(mode="json"), 1000)
    assert "1,000 training sentences" in section.body


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.json", "{"),
        ("results.json", "{}"),
        ("results.json", "[]"),
        ("results.json", '{"metrics": {}, "recipe": {}}'),
        ("log.jsonl", "{\n"),
        ("log.jsonl", "[]\n"),
        ("log.jsonl", '{"step": [], "nll": "x"}\n'),
    ],
)
def test_damaged_files(run, name, text):
    (run / name).write_text(text)
    with pytest.raises(UserError, match=r"is damaged: .*Restore it from a copy"):
        write_run_report(run)
    assert not (run / "report.html").exists()
