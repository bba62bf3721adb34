from __future__ import annotations

import json

import pytest
import torch
from tests.evaluation.systems import DATA, Fails, Length, Letters, Likely, Partly
from tests.report.html import EVIL, check_page

from llamavae.errors import UserError
from llamavae.evaluation.comparison import compare
from llamavae.evaluation.evaluator import Evaluation, Plot
from llamavae.evaluation.evaluators.samples import Samples
from llamavae.evaluation.results import write_results
from llamavae.evaluation.suite import evaluate
from llamavae.report import write_report
from llamavae.report.comparison import write_comparison
from llamavae.training import load_recipe


class Tables(Length):
    """Has a table of each kind that the page draws."""

    name = "tables"

    def evaluate(self, system, data):
        tables = {
            "predictions": [
                {"reference": EVIL, "prediction": EVIL + " <b>", "bleu": 20.0, "control": EVIL}
            ],
            "interpolations": [
                {"pair": pair, "position": t, "text": text}
                for pair in range(9)
                for t, text in ((0.0, "the old dog"), (1.0, EVIL))
            ],
            "traversals": [
                {"dimension": 3, "start": start, "value": value, "text": f"text {start} {value}"}
                for start in (1, 2)
                for value in (0, 1)
            ],
            "samples": [{"text": EVIL, "nearest": "x"}],
            "map pca": [{"x": 0.0, "y": 1.0, "number": "one", "text": EVIL}] * 3,
            "units": [{"dimension": 0, "kl": 0.5, "active": True}, {"dimension": 1, "kl": 0.0}],
            "information": [{"dimension": 0, "factor": "tense", "information": 0.1}],
            "bound": [{"K": k, "perplexity": 5 - k} for k in (1, 2)],
            "no plot": [{"K": k, "x": 0.0, "y": 1.0} for k in (1, 2)],
            "empty": [],
        }
        plots = {
            "map pca": Plot("map", ("number",)),
            "units": Plot("bars", ("kl", "active"), "KL of each dimension"),
            "information": Plot("squares", ("dimension", "factor", "information"), "In nats"),
            "bound": Plot("curve", ("K", "perplexity"), "bound: perplexity by K"),
            "empty": Plot("map", ("number",)),
        }
        tables["units"][1]["active"] = False
        return Evaluation([self.metric("letters").row(1234567, 3)], tables, plots=plots)


@pytest.fixture
def folder(tmp_path):
    run = {"recipe": load_recipe("demo").model_dump(mode="json"), "sentences": 40000}
    evaluate(
        Letters(),
        DATA,
        [Length(), Tables(), Fails(), Likely(), Partly()],
        tmp_path,
        name="my <model>",
        model={"source": "letters", "run": run},
        corpus={"corpus": "zoo", "split": "test"},
    )
    return tmp_path


HOSTILE = r'"><img src=x onerror=y> $\frac{$ ]]>'


class Hostile(Tables):
    """Names and labels that are HTML, SVG or formulas."""

    name = HOSTILE

    def evaluate(self, system, data):
        tables = {
            HOSTILE: [{"x": 0.0, "y": 1.0, "label": text} for text in (EVIL, HOSTILE)],
            "bars": [{HOSTILE: text, "K": 0.5} for text in (EVIL, HOSTILE)],
        }
        plots = {
            HOSTILE: Plot("map", ("label",)),
            "bars": Plot("squares", (HOSTILE, HOSTILE, "K"), HOSTILE),
        }
        row = self.metric("letters").row(1, 3) | {"metric": EVIL, "group": HOSTILE, "unit": EVIL}
        return Evaluation([row], tables, plots=plots)


def test_hostile_names_and_labels_are_escaped(tmp_path):
    corpus = {"corpus": EVIL, "split": HOSTILE}
    model = {"source": EVIL, "run": None}
    evaluate(Letters(), DATA, [Hostile()], tmp_path, name=EVIL, model=model, corpus=corpus)
    page = check_page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert not {"script", "img"} & set(page.tags)
    assert EVIL in words(page)
    assert HOSTILE in words(page)


def words(page):
    return " ".join("".join(page.texts).split())


def test_page_says_what_how_and_with_which_control(folder):
    page = check_page(write_report(folder).read_text(encoding="utf-8"))
    text = words(page)
    for part in (
        "my <model>: evaluation",
        "3 evaluators on 4 sentences of zoo (test), seed 0.",
        "corpus factors, 40,000 training sentences",
        "Mean number of letters per text. N = 4. Control: The metric without letters.",
        "3.5 to 9",
        "1,234,567",
        "failed: there is no file x.csv; get it from y",
        "was skipped: needs a system with a likelihood",
        "partly, task 2 was not found: there is no file y.csv",
        "The first 1 of 1, not selected",
        "Here are the first 6 of 9 paths, not selected.",
        "covers 95 % of the latent codes of the sentences; changed words",
        "dimension 3, start 1",
        "map pca: number",
        "KL of each dimension",
        "In nats",
        "bound: perplexity by K",
        "per text: all 4 rows",
        "factor = 1.0",
        "hash of the data",
    ):
        assert part in text
    assert "dimension 3, start 2" not in text
    assert page.tags.count("svg") == 4


def test_page_of_a_system_of_which_nothing_is_known(tmp_path):
    evaluate(Letters(), DATA, [Length()], tmp_path)
    text = words(check_page(write_report(tmp_path).read_text(encoding="utf-8")))
    assert "Its training run is unknown" in text
    assert "Training" not in text


def test_page_of_nothing(tmp_path):
    evaluate(Letters(), DATA, [Fails()], tmp_path)
    assert "None." in words(check_page(write_report(tmp_path).read_text(encoding="utf-8")))
    with pytest.raises(UserError, match="holds no evaluation"):
        write_report(tmp_path / "other")


def test_page_of_a_comparison(tmp_path):
    evaluations = [
        evaluate(Letters(), DATA, [Length()], tmp_path / "a <b>"),
        evaluate(Letters(), DATA, [Length()], tmp_path / "c"),
    ]
    evaluations[1].found["length"].evaluation.rows[0]["value"] = 9
    page = check_page(
        write_comparison(evaluations, compare(evaluations), tmp_path).read_text(encoding="utf-8")
    )
    text = words(page)
    assert "a <b> and c" in text
    assert "not tested" in text
    assert "letters; higher is better" in text
    assert evaluations[0].data["hash"] in text
    assert page.tags.count("svg") == 1


def test_a_run_has_its_own_page(tmp_path):
    (tmp_path / "recipe.yaml").write_text("")
    (tmp_path / "results.json").write_text(json.dumps({"metrics": {}, "recipe": {}}))
    with pytest.raises(UserError, match=r"holds no finished run: log\.jsonl"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("prior", "shown"), [(None, "the prior N(0, I)"), ("flow", "the prior flow")]
)
def test_samples_say_where_their_points_are_from(prior, shown, tmp_path):
    class Planted(Letters):
        def sample_codes(self, n, seed):
            return torch.zeros(n, 1)

        def decode(self, z):
            return ["a dog"] * len(z)

    results = evaluate(Planted(), DATA, [Samples(resamples=20)], tmp_path)
    for row in results.found["samples"].evaluation.tables["samples"] if prior else []:
        row["prior"] = prior
    write_results(results, tmp_path, "samples")
    assert shown in words(check_page(write_report(tmp_path).read_text(encoding="utf-8")))
