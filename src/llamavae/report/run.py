"""The report of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamavae.errors import UserError, counted
from llamavae.evaluation.results import number_text
from llamavae.metrics.metric import Rows
from llamavae.parsing import damage_errors, read_json, read_json_lines
from llamavae.report import plots
from llamavae.report.page import write_page
from llamavae.report.pieces import (
    Section,
    bold,
    chain,
    facts,
    figure,
    gallery,
    join,
    prose,
    table,
    warning,
    with_notes,
)
from llamavae.report.texts import text_sections
from llamavae.training.measure import METRICS, metric_rows

_ADVICE = "Restore it from a copy, or train again with another --output"


@dataclass(frozen=True)
class Number:
    """A value with its control and definition.

    Attributes:
        name: Name and unit.
        value: Formatted value.
        control: Value with shuffled z, or another control; empty if there is none.
        better: "higher", "lower", or empty if neither is better.
        how: Definition, data and N.
    """

    name: str
    value: str
    control: str = ""
    better: str = ""
    how: str = ""


def about(recipe: Mapping[str, Any], sentences: int | None) -> Section:
    """Description of the model, from its recipe.

    Args:
        recipe: Contents of recipe.yaml.
        sentences: Number of training sentences; None if unknown.
    """
    objective = recipe["objective"]
    model = prose(
        "A sentence variational autoencoder (LlaMaVAE, arXiv 2312.13208): it encodes a sentence as "
        "a latent code z in a small continuous space, and decodes every latent code to a sentence."
    )
    first = "sentence", _corpus(recipe["corpus"], sentences)
    parts = chain([first, *_parts(recipe), ("sentence", "greedy, free-running decoding")])
    trained = prose(
        "Training minimises -log p(sentence | z) + β · KL(q(z | sentence) ‖ N(0, I)), in nats per "
        f"sentence, with the {objective['schedule']} schedule of β up to {objective['beta']:g}."
    )
    return Section("The model", join([model, parts, trained]))


def _corpus(corpus: Mapping[str, Any], sentences: int | None) -> str:
    names = " and ".join(part["name"] for part in (corpus, *corpus.get("mix", [])))
    if corpus["streaming"]:
        return f"corpus {names}, a stream of training sentences"
    return f"corpus {names}" + (f", {sentences:,} training sentences" if sentences else "")


def _parts(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The stages of the model, with a description of each."""
    if start := recipe.get("start_from"):
        return [("model", f"{start}, fine-tuned: its encoder, latent space and decoder")]
    encoder, decoder, latent = recipe["encoder"], recipe["decoder"], recipe["latent"]
    if encoder["vectors"]:
        reads = f"sentence vectors of the column {encoder['vectors']}"
    elif encoder["scratch"]:
        reads = f"T5 type, from scratch: {_layers(encoder['scratch'])}"
    else:
        reads = f"{encoder['model']} ({encoder['training']})"
    if scratch := decoder["scratch"]:
        writes = (
            f"LLaMA type, from scratch: {_layers(scratch)}, {scratch['warmup_steps']} warm-up "
            "steps as a plain language model"
        )
    else:
        writes = str(decoder["model"])
    trains = {
        "frozen": "frozen",
        "heads": "hidden layers frozen, embeddings and head trained",
        "lora": "LoRA in the hidden layers, embeddings and head trained",
        "full": "fully trained",
    }[decoder["training"] or ("heads" if scratch else "frozen")]
    return [
        ("encoder", reads),
        ("z", f"{latent['dim']} numbers, drawn from a Gaussian; the prior is N(0, I)"),
        ("injection", f"{latent['injection']}, {counted(latent['slots'], 'slot')}"),
        ("decoder", f"{writes}; {trains}"),
    ]


def _layers(scratch: Mapping[str, Any]) -> str:
    count = scratch["layers"]
    return f"{count} layer{'' if count == 1 else 's'}, {scratch['hidden_size']} wide"


def _metrics_of(metrics: Mapping[str, Any], decoded: int) -> list[Number]:
    """The held-out metrics at the end of training, each with its control.

    Args:
        metrics: `metrics` of results.json.
        decoded: Number of sentences that were decoded, `evaluation.decoded` of the recipe.
    """
    how = {metric.name: metric.definition for metric in METRICS.values()}
    return [
        Number(
            f"{row['metric']}{', ' if row['unit'] else ''}{row['unit']}",
            number_text(row["value"]),
            "" if row["control"] is None else number_text(row["control"]),
            row["direction"],
            f"{how[row['metric']]} N = {row['n']} validation sentences.",
        )
        for row in metric_rows(metrics, decoded)
    ]


def headline(metrics: Sequence[Number], warnings: Sequence[str]) -> Section:
    """The warnings of the monitor and the metrics as a table."""
    verdict = [warning(text) for text in warnings]
    rows = [
        {
            "metric and definition": with_notes(m.name, m.how),
            "value": bold(m.value),
            "shuffled z": m.control,
            "better": m.better,
        }
        for m in metrics
    ]
    note = prose(
        "Shuffled z is the control: each sentence is paired with the latent code of another "
        "sentence. A model that uses z is much worse under the control; a model that ignores z is "
        "not."
    )
    silent = prose(
        "The monitor found no posterior collapse, no deterministic posterior and no holes."
    )
    return Section("Metrics", join([*(verdict or [silent]), table(rows, "Metrics"), note]))


_PANEL_CAPTIONS = {
    "nll": "NLL of the sentence with its own z, and with shuffled z",
    "kl": "KL of the posterior from the prior",
    "beta": "The weight β of the KL",
    "bleu": "BLEU of free-running reconstructions",
    "units": "Active units",
    "warmup": "Warm-up of the decoder as a plain language model",
}


def training(log: Sequence[plots.Line], metrics: Mapping[str, Any]) -> Section:
    """The training curves of the run and the KL of each dimension at its end."""
    figures = [
        figure(plots.plot_training(log, [name]), _PANEL_CAPTIONS[name])
        for name in plots.training_panels(log)
    ]
    if kl := metrics.get("kl_per_dimension"):
        bars = plots.plot_kl_per_dimension(kl, metrics.get("active_units"))
        figures.append(figure(bars, "KL of each dimension at the end"))
    return Section("Training", gallery(figures))


def provenance(results: Mapping[str, Any]) -> Section:
    """Command, seed, machine and versions."""
    seconds = results.get("seconds")
    rows = [
        ("command", results.get("command")),
        ("seed", results.get("seed")),
        ("training time", None if seconds is None else f"{seconds / 60:.1f} minutes"),
        ("machine", results.get("machine")),
        ("llamavae", results.get("version")),
        ("commit", results.get("commit") or "installed package"),
        ("torch", results.get("torch")),
        ("transformers", results.get("transformers")),
    ]
    return Section("Provenance", facts([row for row in rows if row[1] is not None], "Run"))


def write_run_report(
    folder: Path,
    tables: Mapping[str, Rows] | None = None,
    metrics: Sequence[Number] = (),
    sections: Sequence[Section] = (),
) -> Path:
    """Write `report.html` into the folder of a finished run.

    Args:
        folder: The run's folder, with `results.json` and `log.jsonl`.
        tables: The tables `predictions`, `interpolations`, `traversals` and `samples` of the
            evaluators; missing tables are skipped.
        metrics: Further metrics, at the top of the table.
        sections: Further sections, before the metrics.

    Returns:
        Path of the page.

    Raises:
        UserError: The folder holds no finished run, or a file of it is damaged.
    """
    results, log = read_run(folder)
    with damage_errors(folder, _ADVICE):
        return _write(folder, results, log, tables or {}, metrics, sections)


def _write(
    folder: Path,
    results: Mapping[str, Any],
    log: Sequence[plots.Line],
    tables: Mapping[str, Rows],
    metrics: Sequence[Number],
    sections: Sequence[Section],
) -> Path:
    recipe, found = results["recipe"], results["metrics"]
    usual = _metrics_of(found, recipe["evaluation"]["decoded"])
    parts = [
        about(recipe, results.get("sentences")),
        *sections,
        headline([*metrics, *usual], results.get("warnings", [])),
        *text_sections(tables),
        training(log, found),
        provenance(results),
    ]
    lead = recipe["description"] or f"A run of the recipe {recipe['name']}."
    return write_page(folder, f"{recipe['name']}: report of a LlaMaVAE run", lead, parts)


def read_run(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Contents of `results.json` and the lines of `log.jsonl` of a finished run.

    Raises:
        UserError: The folder holds no finished run, or a file of it is damaged.
    """
    try:
        results = read_json(folder / "results.json", {"metrics": dict, "recipe": dict}, _ADVICE)
        return results, read_json_lines(folder / "log.jsonl", _ADVICE)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no finished run: {Path(error.filename).name} is missing. Train one "
            "with llamavae train, or finish it with --resume"
        ) from error
