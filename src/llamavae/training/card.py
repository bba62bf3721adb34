"""The model card: README.md of a checkpoint, written from the run itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from llamavae.errors import counted
from llamavae.evaluation.results import interval_text, number_text
from llamavae.markdown import markdown_table
from llamavae.modeling import LlaMaVAE
from llamavae.modeling.card import card_data
from llamavae.training.measure import metric_rows


def model_card(model: LlaMaVAE, results: dict[str, Any]) -> str:
    """The model card of a finished run, in Markdown.

    Args:
        model: The trained VAE.
        results: Contents of the run's `results.json`.
    """
    recipe, config, metrics = results["recipe"], model.config, results["metrics"]
    objective, optimisation = recipe["objective"], recipe["optimisation"]
    corpora = (recipe["corpus"], *recipe["corpus"]["mix"])
    head = card_data(model)
    head.model_name = recipe["name"]
    head.eval_results = _results(metric_rows(metrics, recipe["evaluation"]["decoded"]), recipe)
    warnings = "\n".join(f"- {w}" for w in results["warnings"]) or "None."
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    sentences = results["sentences"]
    lines = [
        f"---\n{head.to_yaml()}\n---",
        f"# {recipe['name']}: a LlaMaVAE",
        recipe["description"],
        "The model encodes a sentence as a latent code z in a small continuous space, and decodes "
        "every code to a sentence (LlaMaVAE, arXiv 2312.13208).",
        "```python\n"
        "from llamavae import LlaMaVAE\n\n"
        'model = LlaMaVAE.from_pretrained("FOLDER")\n'
        'model.reconstruct(["a sentence"])\n'
        "model.sample(8)\n```",
        "## Model",
        markdown_table(
            ("part", "value"),
            [
                *([("started from", f"`{recipe['start_from']}`")] if recipe["start_from"] else []),
                ("encoder", _backbone(recipe, "encoder", "T5", config.encoder_training)),
                ("decoder", _backbone(recipe, "decoder", "LLaMA", config.decoder_training)),
                ("latent size D", str(config.latent_dim)),
                ("injection", f"{config.injection}, {counted(config.slots, 'slot')}"),
                ("weights", f"{total:,}, of which {trained:,} trained"),
                ("maximum length", f"{config.max_tokens} decoder tokens"),
            ],
        ),
        "## Data",
        "Corpus "
        + " and ".join(f"`{part['name']}`" for part in corpora)
        + (
            f", {sentences:,} training sentences, {results['truncated']:,} of them truncated to "
            "the decoder's limit."
            if sentences is not None
            else ", streamed."
        ),
        "## Objective",
        f"-E log p(x|z) + beta · KL; beta schedule `{objective['schedule']}` up to "
        f"{objective['beta']:g}, KL rule `{objective['kl_rule']}` "
        f"({objective['kl_threshold']:g} nats), word dropout {objective['word_dropout']:g}. "
        f"AdamW, peak learning rate {optimisation['learning_rate']:g}, "
        f"batch size {optimisation['batch_size']}.",
        _bag_of_words(objective["bag_of_words"]),
        _autoencoder(objective),
        _teacher(recipe),
        f"## Metrics on {metrics['sentences']} held-out sentences",
        "The control is the same metric with the latent code of another sentence (shuffled z).",
        _metrics(metric_rows(metrics, recipe["evaluation"]["decoded"])),
        _measured(results.get("measured", [])),
        _prior(model),
        "Warnings of the posterior-collapse monitor:",
        warnings,
        "## Training run",
        markdown_table(
            ("", ""),
            [
                ("command", f"`{results['command']}`"),
                ("seed", str(results["seed"])),
                ("time", f"{results['seconds'] / 60:.1f} minutes"),
                ("machine", results["machine"]),
                ("llamavae", f"{results['version']} ({results['commit'] or 'installed package'})"),
                ("torch, transformers", f"{results['torch']}, {results['transformers']}"),
            ],
        ),
        "## Limits",
        "The model reconstructs texts that are similar to its corpus; other texts are decoded to "
        "something else. Latent codes far from the prior decode badly. Neither the corpus nor the "
        "backbones were filtered for bias or offensive text. The weights of the backbones have "
        "their own licences.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _results(rows: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]) -> list[EvalResult]:
    """The metrics in the form of the hub, which shows them beside the card."""
    corpus = Path(recipe["corpus"]["name"]).name
    return [
        EvalResult(
            task_type="feature-extraction",
            dataset_type=corpus,
            dataset_name=corpus,
            dataset_split="validation",
            metric_type=row["metric"],
            metric_name=", ".join(filter(None, (row["metric"], row.get("unit")))),
            metric_value=float(row["value"]),
        )
        for row in rows
        if not row["group"] and row["value"] is not None
    ]


def _bag_of_words(weight: float) -> str:
    if not weight:
        return ""
    return (
        f"The loss also contains {weight:g} times -log p of the sentence's unordered words, which "
        "a linear map of z predicts (bag of words, arXiv 1703.10960). The map is used in training "
        "only and is not part of this model."
    )


def _autoencoder(objective: dict[str, Any]) -> str:
    """What the objective of an adversarial or denoising autoencoder adds."""
    found = []
    if not objective["sample"]:
        found.append(
            "In training, z is the posterior mean. The variance of the posterior is not trained; "
            "it is used when a metric draws from the posterior."
        )
    if weight := objective["adversarial"]:
        found.append(
            f"The loss also contains {weight:g} times an adversarial loss, -log D(z) for a "
            "discriminator D between codes and draws of N(0, I) (arXiv 1511.05644)."
        )
    if weight := objective["logvar_penalty"]:
        found.append(
            f"The loss also contains {weight:g} times the sum over dimensions of |log variance| "
            "(arXiv 1802.03761)."
        )
    if share := objective["token_deletion"]:
        found.append(
            f"In training, each token of the encoder's input is deleted with probability {share:g} "
            "(arXiv 1905.12777)."
        )
    return " ".join(found)


def _teacher(recipe: dict[str, Any]) -> str:
    t = recipe["teacher"]
    if not t["model"]:
        return ""
    return (
        f"The loss also contains {t['weight']:g} nats times the mean squared difference between "
        f"the cosines of posterior means and those of the centred vectors of `{t['model']}` (a "
        "similarity-preserving loss, arXiv 1907.09682, 1904.05068). The teacher is used in "
        "training only. Its weights are not part of this model and have their own licence."
    )


def _backbone(recipe: dict[str, Any], part: str, scratch: str, training: str) -> str:
    """Description of the encoder or the decoder, with its trained part."""
    settings = recipe[part]
    if not recipe["start_from"] and settings.get("vectors"):
        return f"none (precomputed vectors in column `{settings['vectors']}`)"
    if recipe["start_from"]:
        name = "that of the checkpoint"
    elif settings["model"]:
        name = f"`{settings['model']}`"
    else:
        name = f"{'LSTM' if settings['lstm'] else scratch} architecture, trained from scratch"
    return f"{name} ({'all weights' if training == 'full' else training})"


def _metrics(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of metrics as a table; those of subsets are excluded."""
    head = ("metric", "value", "control", "95 % interval", "better", "N")
    lines = [
        (
            ", ".join(filter(None, (row["metric"], row.get("unit")))),
            number_text(row["value"]),
            "" if row.get("control") is None else number_text(row["control"]),
            interval_text({"low": None, **row}),
            row["direction"],
            str(row.get("n", "")),
        )
        for row in rows
        if not row["group"]
    ]
    return markdown_table(head, lines)


def _measured(rows: Sequence[Mapping[str, Any]]) -> str:
    """Metrics of this model, by the evaluator that selects the best one, over all the data."""
    if not rows:
        return ""
    text = "Metrics of this model, the last of the run, by the evaluator that selects `best/`:"
    return f"{text}\n\n{_metrics(rows)}"


def _prior(model: LlaMaVAE) -> str:
    """What `sample` draws from."""
    prior = model.default_prior
    if prior is None:
        return "`sample` draws from N(0, I)."
    report = prior.report
    gaussians = counted(report.get("components", 0), "full-covariance Gaussian")
    names = {
        "standard": "N(0, I)",
        "gaussian": "a Gaussian with a full covariance",
        "mixture": f"a mixture of {gaussians}",
        "flow": "a flow",
    }
    nlls = {**report["references"], "this prior": report["nll"]}
    return (
        f"`sample` draws from {names[prior.kind]}, chosen after training by the NLL of "
        f"{report['held_out']:,} held-out codes after a fit to {report['codes']:,} training codes: "
        + ", ".join(f"{name} {nll:.4f}" for name, nll in nlls.items())
        + " nats per dimension, lower is better. `sample(..., prior=...)` samples from another "
        "prior, such as N(0, I)."
    )
