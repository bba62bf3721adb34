"""Model cards of the bundled models, written from their measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamavae.markdown import markdown_table

_WORDNET = (
    "WordNet 3.0, copyright 2006 by Princeton University, all rights reserved: free for any use, "
    "with this notice; provided as is, without warranty. https://wordnet.princeton.edu/license"
)
_WORLDTREE = (
    "WorldTree explanations as the EntailmentBank release has them, Allen Institute for AI, "
    "Apache-2.0."
)
_FACTORS = "Sentences of this library's own grammar `factors`, Apache-2.0."

_NOTICES = f"""\
- {_WORDNET}
- {_WORLDTREE}
- {_FACTORS}

No sentence of these is in the files; the weights are Apache-2.0, under the notices above."""


IN_CONTEXT = "definitions in a sentence"
"""Key of the results for words in a sentence."""


def vae_card(found: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """README.md of `mini`.

    Args:
        found: Contents of the file of measures.
        runs: results.json of the training runs, each of which continues the model before.
    """
    run = runs[0]
    recipe = run["recipe"]
    sections = [
        "---\nlibrary_name: llamavae\nlicense: apache-2.0\nlanguage: en\n"
        "tags: [sentence-vae, controllable-generation]\n---",
        "# mini: a small LlaMaVAE of open-domain English",
        "It is bundled with the library, loads without a network, and runs on a CPU. A sentence "
        f"becomes a latent code of {recipe['latent']['dim']} numbers, and every code becomes a "
        "sentence. It was trained on short definitions, examples and facts, and handles little "
        "else.",
        '```python\nfrom llamavae import LlaMaVAE\n\nmodel = LlaMaVAE.from_pretrained("mini")\n'
        'model.reconstruct(["a dog is a kind of animal"])\n```',
        "## Data and licences",
        f"{run['sentences']:,} sentences of at most 16 words.\n\n{_NOTICES}",
        "## Training",
        f"By the {'; then the '.join(map(_stage, runs))}; with PyTorch {run['torch']}. Both "
        "backbones are from scratch. The posterior mean also learned the similarities of "
        "all-MiniLM-L6-v2 (Apache-2.0), which is not needed afterwards. `make mini` makes it anew; "
        "the logs of the runs are in the source, pretrained/.",
        "## Measures",
        "On held-out sentences of at most 16 words, free-running and greedy from the posterior "
        "mean. Control: each sentence gets the code of another. Intervals are 95 % bootstrap "
        "intervals over sentences; the test sentences were never trained on. Perplexity, bits per "
        "byte and IW-NLL are upper bounds from 50 draws per sentence, which are loose at this KL. "
        " Recompute with `python -m pretrained.build check mini --sts FILE`.",
        *(
            f"### {title}\n\n{_table(rows)}"
            for title, rows in [*found["corpora"].items(), ("Similarity (STS-B dev)", found["sts"])]
        ),
        "## Fifty samples from N(0, I), unedited",
        "Latent codes drawn from N(0, I) with seed 0, decoded greedily: `llamavae sample --prior "
        "standard`.",
        _numbered(found["samples"]),
        "## Fifty samples from its default prior, unedited",
        "The same from a Gaussian mixture fitted to the codes of training sentences, seed 0: "
        "`llamavae sample`.",
        _numbered(found["mixture samples"]),
        "## Limits",
        "Sentences over 16 words, names, numbers and words outside its corpora are not "
        "reconstructed. It writes wrong facts: a definition is what the decoder writes at that "
        "code, not what is true. Nothing was done against bias or offensive words in WordNet.",
    ]
    return "\n\n".join(sections) + "\n"


def small_card(found: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """README.md of `small`.

    Args:
        found: Contents of the file of measures.
        runs: results.json of the training runs, each of which continues the model before.
    """
    run = runs[0]
    recipe = run["recipe"]
    written = [f"- {text}\n  - {again}" for text, again in found["reconstructions"].items()]
    sections = [
        "---\nlibrary_name: llamavae\nlicense: apache-2.0\nlanguage: en\n"
        "tags: [sentence-vae, controllable-generation]\n---",
        "# small: open-domain English behind a frozen SmolLM2-135M",
        f"A sentence becomes a latent code of {recipe['latent']['dim']} numbers, and every code "
        "becomes a sentence. The encoder is all-MiniLM-L6-v2 with LoRA and attention pooling. The "
        "decoder is SmolLM2-135M-Instruct, a LLaMA, and is frozen whole: z reaches it as keys and "
        "values in every layer. Only what was trained is in this folder, as 8-bit integers; "
        "`llamavae models get small` fetches the two backbones.",
        '```python\nfrom llamavae import LlaMaVAE\n\nmodel = LlaMaVAE.from_pretrained("small")\n'
        'text = "milk is a kind of food"\nmodel.reconstruct(text)\n'
        "model.reconstruct(text, refine=10)\n```",
        "## Data and licences",
        f"{run['sentences']:,} sentences: definitions and examples of WordNet (at most 16 words), "
        "words of WordNet, the training lines of the published split of WorldTree (arXiv "
        "2311.08579; at most 20 words), and sentences of the grammar `factors`.\n\n"
        f"{_NOTICES}\n\nThe backbones, which are not in the files, are Apache-2.0 each.",
        "## Training",
        f"By the {'; then the '.join(map(_stage, runs))}; with PyTorch {run['torch']}. The "
        "default prior, a Gaussian mixture, was fitted to codes of training sentences. `make small`"
        " repeats it; the logs of the runs are in the source, pretrained/.",
        "## Measures",
        "On held-out sentences, free-running and greedy from the posterior mean. Control: each "
        "sentence gets the code of another. Intervals are 95 % bootstrap intervals over sentences. "
        "*10 steps* and *20 steps*: codes refined by that many gradient steps on each sentence "
        "(`refine=10`). WorldTree: test lines of the published split that are not among the "
        "training lines; BLEU-1 is that of the published tables. Recompute with "
        "`python -m pretrained.build check small --sts FILE`.",
        *(
            f"### {title}\n\n{_table(rows)}"
            for title, rows in [*found["corpora"].items(), ("Similarity (STS-B dev)", found["sts"])]
        ),
        "## Ten test sentences and their reconstructions by the encoder alone, unedited",
        "\n".join(written),
        "## Fifty samples from the default prior, unedited",
        "Seed 0, decoded greedily: `llamavae sample 50 --model small --seed 0`.",
        _numbered(found["samples"]),
        "## Fifty samples from N(0, I), unedited",
        "Seed 0, decoded greedily: `llamavae sample 50 --model small --prior standard --seed 0`.",
        _numbered(found["standard samples"]),
        "## Limits",
        "Long sentences, names and numbers are not reconstructed exactly unless their codes are "
        "refined. It writes wrong facts: a definition is what the decoder writes at that code, "
        "not what is true. Nothing was done against bias or offensive words in the data or the "
        "backbones.",
    ]
    return "\n\n".join(sections) + "\n"


def _stage(run: Mapping[str, Any]) -> str:
    """Recipe, size, time and machine of a run."""
    recipe, hours, machine = run["recipe"], run["seconds"] / 3600, run["machine"]
    steps, batch = recipe["optimisation"]["steps"], recipe["optimisation"]["batch_size"]
    if "CPU" in machine:
        threads = run.get("threads", 1)
        machine = f"{'one core' if threads == 1 else f'{threads} threads'} of {machine}"
    return (
        f"recipe `{recipe['name']}`: {steps:,} steps of {batch} sentences, seed {run['seed']}, "
        f"beta up to {recipe['objective']['beta']:g}, {hours:.1f} hours on {machine}"
    )


def definitions_card(
    found: Mapping[str, Any], fit: Mapping[str, Any], name: str, condition: str
) -> str:
    """README.md of a model of definitions.

    Args:
        found: Contents of the file of measures.
        fit: Settings of the fit.
        name: Name of its VAE.
        condition: What a condition is, a noun phrase.
    """
    measured = found["definitions"]
    examples = [
        "\n".join(
            [f"- **{_condition(row['condition'])}**: {row['definition']}"]
            + [f"  - {k}: {v}" for k, v in row.items() if k not in ("condition", "definition")]
        )
        for row in measured["examples"]
    ]
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in fit.items())
    nlls = {"the flow": measured["fit"]["nll"], **measured["fit"]["references"]}
    sections = [
        "---\nlibrary_name: llamavae\nlicense: apache-2.0\nlanguage: en\n"
        "tags: [definition-modelling, reverse-dictionary]\n---",
        f"# {name}-definitions: from a word to its definition and back",
        f"An invertible CVAE on `{name}`. The condition is {condition}.",
        "```python\nfrom llamavae import InvertibleCVAE\n\nmodel = InvertibleCVAE.from_pretrained("
        f'"{name}-definitions")\nmodel.generate(["robin"])\n```',
        "## Data and licences",
        _NOTICES,
        "## Training",
        f"`python -m pretrained.build define {name}`: WordNet's words and definitions, {settings}; "
        "the weights are stored in float16.",
        "Held-out NLL in nats per dimension, lower is better: "
        + ", ".join(f"{name} {value:.4f}" for name, value in nlls.items())
        + ".",
        "## Measures",
        "On held-out words of WordNet that do not occur in training, one definition each. "
        "*Nearest neighbour* copies the definition of the training condition with the highest "
        "cosine; *by the word alone*, it ignores sentences. *Best of several draws* ranks them by "
        "p(z|c) and by their agreement. Control: texts exchanged between words.",
        *_scores(measured),
        *(["### Words in a sentence", *_scores(found[IN_CONTEXT])] if IN_CONTEXT in found else []),
        "Reverse dictionary: the rank of the correct condition for a definition, among all "
        "held-out conditions.",
        _table(measured["ranks"]),
        f"## Definitions of {len(examples)} held-out words, unedited",
        "\n".join(examples),
        "## Limits",
        f"Those of `{name}`. At best, most of its definitions name the right category.",
    ]
    return "\n\n".join(sections) + "\n"


def _scores(measured: Mapping[str, Any]) -> list[str]:
    return [
        _table(measured["scores"], "system"),
        "Differences, paired bootstrap over words:",
        _differences(measured["differences"]),
    ]


def _condition(condition: str | Sequence[str]) -> str:
    return condition if isinstance(condition, str) else f"{condition[0]}, in: {condition[1]}"


def _differences(rows: Sequence[Mapping[str, Any]]) -> str:
    return markdown_table(
        ("system", "minus", "metric", "difference", "95 % interval", "p"),
        (
            (
                row["system"],
                row["against"],
                row["metric"],
                f"{row['difference']:+.4g}",
                f"{row['low']:+.4g} to {row['high']:+.4g}",
                f"{row['p']:.3f}",
            )
            for row in rows
        ),
    )


def _numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))


def _table(rows: Sequence[Mapping[str, Any]], *first: str) -> str:
    """A table of rows of results, with the columns `first` before all others."""
    head = (*first, "metric", "value", "control", "95 % interval", "unit", "better", "n")
    lines: list[tuple[str, ...]] = []
    for row in rows:
        control = row.get("control")
        low, high = row.get("low"), row.get("high")
        lines.append(
            (
                *(row[name] for name in first),
                row["metric"],
                f"{row['value']:.4g}",
                "" if control is None else f"{control:.4g}",
                "" if low is None else f"{low:.4g} to {high:.4g}",
                row["unit"],
                row["direction"],
                str(row["n"]),
            )
        )
    return markdown_table(head, lines)
