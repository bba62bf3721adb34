"""The model card of an Invertible CVAE: the README.md of its folder, generated from the fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamavae.markdown import markdown_table

_LIMITS = (
    "It generates only texts that its VAE can decode. Conditions unlike those of the training set "
    "lead to latent codes without training data. p(z|c) is exact, but how much of the meaning of a "
    "text z contains depends on the VAE."
)


def model_card(flow: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The card in Markdown.

    Args:
        flow: Settings of the flow.
        settings: Contents of `config.json`.
    """
    report, condition = settings["report"], settings["condition"]
    source = f" `{condition['source']}`" if condition.get("source") is not None else ""
    lines = [
        "---\nlibrary_name: llamavae\ntags: [invertible-cvae, controllable-generation]\n---",
        "# An invertible CVAE",
        "A flow maps a condition to latent codes of a frozen VAE, which are decoded to text "
        "(LlaMaVAE, arXiv 2312.13208).",
        "```python\n"
        "from llamavae import InvertibleCVAE\n\n"
        'model = InvertibleCVAE.from_pretrained("FOLDER")\n'
        "model.generate([...], n=3)\n```",
        markdown_table(
            ("", ""),
            [
                ("VAE", f"`{settings['vae']}`"),
                ("condition", f"{condition['name']}{source}, size {flow['context']}"),
                ("flow", _flow(flow)),
                ("networks in the mean", _networks(flow)),
                ("latent size D", str(flow["features"])),
            ],
        ),
    ]
    if report:
        fit, references = report["fitting"], report["references"]
        if not flow["blocks"]:  # a closed form uses only the seed, for the noise
            fit = {"seed": fit["seed"]}
        lines += [
            "## Fit",
            f"{report['pairs']:,} pairs; {report['held_out']:,} held out by text; "
            f"{report['skipped']:,} without a vector were skipped. "
            f"Posterior scale: {report['posterior_scale']}. Stopped: {report['stopped']}; "
            f"best step: {report['best_step']}.",
            f"Settings: {', '.join(f'{name} {value}' for name, value in fit.items())}.",
            markdown_table(
                ("held-out NLL of", "nats per dimension (lower is better)"),
                [
                    ("this flow", f"{report['nll']:.4f}"),
                    ("conditional linear Gaussian", f"{references['linear-gaussian']:.4f}"),
                    ("Gaussian, full covariance", f"{references['gaussian']:.4f}"),
                ],
            ),
            f"Largest inverse error: {report['inverse_error']:.1e}.",
        ]
    return "\n\n".join([*lines, "## Limits", _LIMITS]) + "\n"


def _flow(flow: Mapping[str, Any]) -> str:
    if not flow["blocks"]:
        return flow["name"]
    dropout = f", dropout {flow['dropout']}" if flow["dropout"] else ""
    return f"{flow['name']}, {flow['blocks']} blocks, form {flow['form']}{dropout}"


def _networks(flow: Mapping[str, Any]) -> str:
    if not flow["base_hidden"]:
        return "none"
    each = f"hidden layers of {', '.join(map(str, flow['base_hidden']))}"
    return each if flow["ensemble_size"] == 1 else f"{flow['ensemble_size']}, each with {each}"
