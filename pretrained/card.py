"""Model cards of `mini` and `mini-definitions`, written from their measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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


def vae_card(found: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """README.md of `mini`.

    Args:
        found: Contents of measures.json.
        runs: results.json of the training runs, each of which goes on with the model before.
    """
    run = runs[0]
    recipe = run["recipe"]
    sections = [
        "---\nlibrary_name: llamavae\nlicense: apache-2.0\nlanguage: en\n"
        "tags: [sentence-vae, controllable-generation]\n---",
        "# mini: a small LlaMaVAE of open-domain English",
        "It comes with the library, loads without a network, and runs on a CPU: a sentence becomes "
        f"a point of {recipe['latent']['dim']} numbers and every point becomes a sentence. It "
        "knows short definitions, examples and facts, and little else.",
        '```python\nfrom llamavae import LlaMaVAE\n\nmodel = LlaMaVAE.from_pretrained("mini")\n'
        'model.reconstruct(["a dog is a kind of animal"])\n```',
        "## Data and licences",
        f"{run['sentences']:,} sentences of at most 16 words.\n\n{_NOTICES}",
        "## How it was made",
        f"By the {'; then the '.join(map(_stage, runs))}; with PyTorch {run['torch']}. Both "
        "backbones are from scratch. The posterior mean also learned the similarities of "
        "all-MiniLM-L6-v2 (Apache-2.0), which is not needed afterwards. `make mini` makes it anew; "
        "the logs of the runs are in the source, pretrained/.",
        "## Measures",
        "On held-out sentences of at most 16 words, free-running and greedy from the posterior "
        "mean. Control: each sentence gets the point of another. Intervals are 95 % bootstrap "
        "intervals over sentences; the test sentences were never trained on. Perplexity, bits per "
        "byte and IW-NLL are bounds from 50 points a sentence, which is loose at this KL: the true "
        "values are lower. Recompute with `python -m pretrained.build check --sts FILE`.",
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
        "Sentences over 16 words, names, numbers and words outside its corpora come back as "
        "something else. It writes wrong facts: a definition is what the space holds at that "
        "point, not what is true. Nothing was done against bias or offensive words in WordNet.",
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


def definitions_card(found: Mapping[str, Any], fit: Mapping[str, Any], name: str = "mini") -> str:
    """README.md of a model of definitions.

    Args:
        found: Contents of measures.json.
        fit: Settings of the fit.
        name: Name of its VAE.
    """
    measured = found["definitions"]
    examples = "\n".join(f"- **{word}**: {text}" for word, text in measured["examples"].items())
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in fit.items())
    nlls = {"the flow": measured["fit"]["nll"], **measured["fit"]["references"]}
    sections = [
        "---\nlibrary_name: llamavae\nlicense: apache-2.0\nlanguage: en\n"
        "tags: [definition-modelling, reverse-dictionary]\n---",
        f"# {name}-definitions: from a word to its definition and back",
        f"An invertible CVAE on `{name}`. The condition is the vector that {name}'s own sentence "
        "encoder gives the word.",
        "```python\nfrom llamavae import InvertibleCVAE\n\nmodel = InvertibleCVAE.from_pretrained("
        f'"{name}-definitions")\nmodel.generate(["robin"])\n```',
        "## Data and licences",
        _NOTICES,
        "## How it was made",
        f"`python -m pretrained.build define {name}`: WordNet's words and definitions, {settings}; "
        "the weights are stored in float16.",
        "Held-out NLL in nats per dimension, lower is better: "
        + ", ".join(f"{name} {value:.4f}" for name, value in nlls.items())
        + ".",
        "## Measures",
        "Held-out definitions of WordNet, one a word, the centre of p(z|word) decoded greedily. "
        "Control: texts exchanged between words.",
        _table(measured["scores"]),
        "Reverse dictionary: the rank of the word for a definition among the held-out words.",
        _table(measured["ranks"]),
        "## What it writes for the first twenty held-out words, unedited",
        examples,
        "## Limits",
        f"Those of `{name}`. Most of its definitions are of the right kind of thing at best.",
    ]
    return "\n\n".join(sections) + "\n"


def _numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("measure", "value", "control", "95 % interval", "unit", "better", "n")
    lines = [head, tuple("---" for _ in head)]
    for row in rows:
        control = row.get("control", row.get("shuffled", row.get("guess")))
        low, high = row.get("low"), row.get("high")
        lines.append(
            (
                row["measure"],
                f"{row['value']:.4g}",
                "" if control is None else f"{control:.4g}",
                "" if low is None else f"{low:.4g} to {high:.4g}",
                row["unit"],
                row["direction"],
                str(row["n"]),
            )
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
