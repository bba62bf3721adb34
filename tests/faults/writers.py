"""What writes files, each with an old state, the work, and what a reader finds afterwards."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from tests import tiny
from tests.training import runs
from typer.testing import CliRunner

from llamavae import InvertibleCVAE, LlaMaVAE
from llamavae.bulk import encode_file
from llamavae.cli.app import app
from llamavae.data.code_files import read_latent_codes
from llamavae.errors import UserError
from llamavae.evaluation import Prediction, Predictions, write_predictions
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.evaluators.latent_usage import LatentUsage
from llamavae.evaluation.evaluators.reconstruction import Reconstruction
from llamavae.evaluation.results import read_results
from llamavae.evaluation.suite import evaluate
from llamavae.files import write_csv
from llamavae.guidance import LabelCondition
from llamavae.modeling.prior import StandardPrior, load_prior

TEXTS = [f"{text} {i}" for i in range(3) for text in tiny.SENTENCES]
MINE = "mine.txt"
"""A file of the user, beside what is written or in it."""


@dataclass(frozen=True)
class Writer:
    """A verb or function that writes.

    Attributes:
        name: Name in the table.
        prepare: Writes the old state into an empty folder.
        work: Writes the new state.
        read: What a reader finds in the folder; None if there is nothing. It raises a `UserError`
            where a reader is told that something is damaged.
        halfway: Writes a state between the old and the new one that is right as well.
    """

    name: str
    prepare: Callable[[Path], None]
    work: Callable[[Path], None]
    read: Callable[[Path], Any]
    halfway: Callable[[Path], None] | None = None


# ------------------------------------------------------------------------------------ models


@functools.cache
def vaes() -> tuple[LlaMaVAE, LlaMaVAE]:
    """Two models that differ in every file."""
    torch.manual_seed(0)
    one, other = tiny.vae(embed_backbones=True), tiny.vae(embed_backbones=True)
    with torch.no_grad():
        for model, value in ((one, 0.01), (other, 0.02)):
            for parameter in (*model.posterior.parameters(), *model.injection.parameters()):
                parameter.add_(value)
    one.card, other.card = "# one", "# other"
    one.default_prior = StandardPrior(one.config.latent_dim)
    return one, other


@functools.cache
def cvaes() -> tuple[InvertibleCVAE, InvertibleCVAE]:
    """Two invertible CVAEs."""
    torch.manual_seed(0)
    one, other = (
        InvertibleCVAE.build(
            vaes()[0], LabelCondition({"side": values}), "maf", blocks=1, hidden=(8,)
        )
        for values in (["left", "right"], ["a", "b", "c"])
    )
    one.vocabulary = ["one"]
    return one, other


@functools.cache
def source() -> Path:
    """A model on disk that verbs read."""
    folder = tiny.decoder().parent / "faults-model"
    vaes()[0].save_pretrained(folder)
    return folder


def _weights(model: torch.nn.Module) -> list[float]:
    return [p.double().abs().sum().item() for p in model.parameters()]


def _read_vae(folder: Path) -> Any:
    model = LlaMaVAE.from_pretrained(folder / "model")
    return model.card, model.default_prior is not None, _weights(model)


def _read_cvae(folder: Path) -> Any:
    model = InvertibleCVAE.from_pretrained(folder / "model", vaes()[0])
    return model.vocabulary, _weights(model.flow)


def _foreign(folder: Path) -> None:
    (folder / "model" / MINE).write_text("mine")


def _save(which: int, kind: Callable[[], tuple[Any, Any]]) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        kind()[which].save_pretrained(folder / "model")
        if which == 0:
            _foreign(folder)

    return save


def _save_prior(features: float) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        prior = StandardPrior(tiny.LATENT)
        prior.report = {"value": features}
        prior.save(folder / "prior")

    return save


def _read_prior(folder: Path) -> Any:
    return {**load_prior(folder / "prior").report, "corpus": ""}  # a path of this folder


# ------------------------------------------------------------------------------------ the verbs


def command(*arguments: object) -> None:
    """Run a verb in this process.

    Raises:
        UserError: It ended with a message.
    """
    result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="llamavae")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        raise UserError(result.stderr)


def _file(folder: Path) -> Path:
    path = folder / "texts.txt"
    if not path.exists():
        path.write_text("\n".join(TEXTS) + "\n")
    return path


def _encode(folder: Path) -> None:
    encode_file(vaes()[0], _file(folder), folder / "codes.parquet", overwrite=True)


def _read_codes(folder: Path) -> Any:
    path = folder / "codes.parquet"
    if not path.exists():
        return None
    return [(part.ids, part.texts, part.z.tolist()) for part in read_latent_codes(path)]


def _evaluate(folder: Path) -> None:
    data = EvaluationData(TEXTS[:8])
    evaluate(vaes()[0], data, [LatentUsage(20), Reconstruction(resamples=20)], folder / "out")


def _evaluate_first(folder: Path) -> None:
    evaluate(vaes()[0], EvaluationData(TEXTS[:8]), [LatentUsage(10)], folder / "out")


def _evaluate_half(folder: Path) -> None:
    evaluate(vaes()[0], EvaluationData(TEXTS[:8]), [LatentUsage(20)], folder / "out")


def _read_evaluation(folder: Path) -> Any:
    if not (folder / "out" / "results.json").exists():
        return None
    results = read_results(folder / "out")
    return {
        name: (found.settings, str(found.evaluation.rows), str(found.evaluation.tables))
        for name, found in results.found.items()
    }


def _run_settings(folder: Path) -> dict[str, Any]:
    optimisation = {"steps": 4, "batch_size": 4, "warmup_steps": 0}
    return runs.settings(folder, "run", optimisation=optimisation)


def _train(folder: Path) -> None:
    runs.quick(_run_settings(folder), resume=(folder / "run").exists())


def _read_run(folder: Path) -> Any:
    if not (folder / "run" / "results.json").exists():
        return None
    json.loads((folder / "run" / "results.json").read_text())
    LlaMaVAE.from_pretrained(folder / "run" / "model")
    weights = load_file(folder / "run" / "model" / "model.safetensors")
    return {name: value.double().sum().item() for name, value in weights.items()}


def _interrupted(folder: Path) -> None:
    """A run without its last steps."""
    _train(folder)
    (folder / "run" / "results.json").unlink()
    shutil.rmtree(folder / "run" / "model")


def _read_resumed(folder: Path) -> Any:
    """The weights after a copy of the run was resumed."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder / "run", Path(copy, "run"))
        values = _run_settings(folder)
        values["output"]["folder"] = f"{copy}/run"
        runs.quick(values, resume=True)
        return _read_run(Path(copy))


def _labelled(folder: Path) -> Path:
    path = folder / "labels.csv"
    if not path.exists():
        rows = [{"text": text, "side": "ab"[i % 2]} for i, text in enumerate(TEXTS)]
        write_csv(rows, path)
    return path


def _fit_condition(folder: Path) -> None:
    if (folder / "fit" / "config.json").exists():
        return
    resume = ["--resume"] if (folder / "fit" / "state").exists() else []
    command(
        "fit-condition", "--model", source(), "--corpus", _labelled(folder), "--labels", "side",
        "--output", folder / "fit", "--steps", 4, "--train-batch-size", 8, *resume,
    )  # fmt: skip


def _read_fit(folder: Path) -> Any:
    if not (folder / "fit" / "config.json").exists():
        return None
    return _weights(InvertibleCVAE.from_pretrained(folder / "fit", vaes()[0]).flow)


def _fit_prior(folder: Path) -> None:
    command(
        "fit-prior", "--model", source(), "--corpus", _file(folder), "--prior", "gaussian",
        "--output", folder / "prior", "--overwrite",
    )  # fmt: skip


def _nothing(folder: Path) -> None:
    """No old state."""


def _report(folder: Path) -> None:
    command("report", folder / "out")


def _read_page(folder: Path) -> Any:
    path = folder / "out" / "report.html"
    text = path.read_text("utf-8") if path.exists() else None
    assert text is None or text.rstrip().endswith("</html>")
    return None if text is None else "whole"


def _compare_first(folder: Path) -> None:
    _evaluate_first(folder)
    (folder / "other").mkdir()
    _evaluate_first(folder / "other")


def _compare(folder: Path) -> None:
    command("compare", folder / "out", folder / "other" / "out", "-o", folder / "comparison")


def _read_comparison(folder: Path) -> Any:
    """The page is exchanged after the table, so that either can be absent or old."""
    table, page = folder / "comparison" / "comparison.csv", folder / "comparison" / "report.html"
    if page.exists():
        assert page.read_text("utf-8").rstrip().endswith("</html>")
        return table.read_text("utf-8").replace(str(folder), "")
    return None


def _pairs(folder: Path) -> None:
    rows = [{"text": f"{text} {i}", "word": f"word{i}"} for i, text in enumerate(3 * TEXTS)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))


def _study(folder: Path) -> None:
    command(
        "study", "flows", "--model", source(), "--corpus", folder / "pairs.jsonl",
        "--output", folder / "study",
        "--flow", "glow", "--form", "reference", "--steps", 2, "--texts", 3,
    )  # fmt: skip


def _read_study(folder: Path) -> Any:
    if not (folder / "study" / "scores.png").exists():  # the last file
        return None
    rows = json.loads((folder / "study" / "study.json").read_text("utf-8"))["systems"]
    InvertibleCVAE.from_pretrained(folder / "study" / "models" / "glow-reference-0", vaes()[0])
    return {
        (system, row["metric"]): row["value"]
        for system, found in rows.items()
        for row in found
        if "time" not in row["metric"]
    }


def _sweep_recipe(folder: Path) -> None:
    values = runs.settings(folder, "unused", optimisation={"steps": 2, "batch_size": 4})
    values["corpus"]["name"] = str(runs.corpus(source().parent))  # one place in all cases
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))


def _sweep(folder: Path) -> None:
    command(
        "sweep", "-r", folder / "recipe.yaml", "--vary", "objective.beta=0.1,0.2", "--limit", 8,
        "--output", folder / "sweep",
    )  # fmt: skip


@functools.cache
def _trained() -> Path:
    """The runs of a sweep, so that only what follows on their training is disturbed."""
    folder = source().with_name("faults-sweep")
    folder.mkdir(exist_ok=True)
    _sweep_recipe(folder)
    _sweep(folder)
    return folder / "sweep"


def _sweep_first(folder: Path) -> None:
    ignored = shutil.ignore_patterns("sweep.*", "report.html", "trade-off.png")
    _sweep_recipe(folder)
    shutil.copytree(_trained(), folder / "sweep", ignore=ignored)


def _read_sweep(folder: Path) -> Any:
    if not (folder / "sweep" / "report.html").exists():
        return None
    return (folder / "sweep" / "sweep.csv").read_text("utf-8").replace(str(folder), "")


def _copy_recipe(folder: Path) -> None:
    path = folder / "copy.yaml"
    if not path.exists():
        command("recipes", "copy", "small", path)


def _read_copy(folder: Path) -> Any:
    path = folder / "copy.yaml"
    return path.read_text("utf-8") if path.exists() else None


def _predictions(folder: Path) -> None:
    items = [Prediction(str(i), text.upper(), (text,)) for i, text in enumerate(TEXTS)]
    write_predictions(Predictions(items, "mine"), folder / "mine.jsonl")


def _score(folder: Path) -> None:
    output = ("-o", folder / "scores", "--resamples", 5)
    command("score", folder / "mine.jsonl", *output)


def _read_scores(folder: Path) -> Any:
    """The JSON file is exchanged after the table."""
    if not (folder / "scores" / "scores.json").exists():
        return None
    rows = json.loads((folder / "scores" / "scores.json").read_text("utf-8"))["rows"]
    table = (folder / "scores" / "scores.csv").read_text("utf-8")
    return table, [(row["metric"], row["value"]) for row in rows]


def begin(writer: Writer, folder: Path) -> None:
    """Write the old state, and the files that verbs read."""
    for write in (_file, _labelled, runs.corpus):
        write(folder)
    writer.prepare(folder)


WRITERS = (
    Writer("save a model", _save(0, vaes), _save(1, vaes), _read_vae),
    Writer("save a flow", _save(0, cvaes), _save(1, cvaes), _read_cvae),
    Writer("save a prior", _save_prior(1.0), _save_prior(2.0), _read_prior),
    Writer("encode", _nothing, _encode, _read_codes),
    Writer("encode --overwrite", _encode, _encode, _read_codes),
    Writer("evaluate", _evaluate_first, _evaluate, _read_evaluation, _evaluate_half),
    Writer("report", _evaluate_first, _report, _read_page),
    Writer("fit-prior", _save_prior(1.0), _fit_prior, _read_prior),
    Writer("fit-condition", _nothing, _fit_condition, _read_fit),
    Writer("compare", _compare_first, _compare, _read_comparison),
    Writer("score", _predictions, _score, _read_scores),
    Writer("study flows", _pairs, _study, _read_study),
    Writer("sweep", _sweep_first, _sweep, _read_sweep),
    Writer("recipes copy", _nothing, _copy_recipe, _read_copy),
    Writer("train", _nothing, _train, _read_run),
)
DAMAGED = (
    *(w for w in WRITERS if w.name in ("save a model", "save a flow", "save a prior")),
    *(w for w in WRITERS if w.name in ("encode --overwrite", "evaluate")),
    Writer("resume a run", _interrupted, _train, _read_resumed),
)
"""Those whose files are damaged before they are read."""
