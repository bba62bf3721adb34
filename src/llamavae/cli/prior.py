"""The command `fit-prior`: fit a prior to sample from."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llamavae.cli.options import CorpusPath, ModelOptions, PosteriorScale
from llamavae.cli.output import note, write_nlls
from llamavae.errors import UserError, counted, unknown
from llamavae.folders import check_output
from llamavae.manifest import read_manifest

if TYPE_CHECKING:
    from llamavae import LlaMaVAE


@dataclass
class _SentenceOptions:
    """Sentences whose latent codes the prior is fitted to."""

    corpus: Annotated[
        str,
        typer.Option(
            "--corpus",
            "-c",
            help="Named corpus, file, or hub id of a dataset; usually the training corpus of the "
            "model.",
        ),
    ]
    path: CorpusPath = None
    column: Annotated[str | None, typer.Option(help="Column with the sentences.")] = None
    limit: Annotated[int, typer.Option(min=2, help="Maximum number of training sentences.")] = (
        20_000
    )

    def texts(self) -> tuple[list[str], list[str]]:
        """Sentences of the training split, and a tenth of their number of the validation split."""
        from llamavae.corpora import load_corpus

        train, held_out = (
            load_corpus(self.corpus, split, path=self.path, column=self.column, limit=limit)
            for split, limit in (("train", self.limit), ("validation", max(1, self.limit // 10)))
        )
        return list(train["text"]), list(held_out["text"])


def fit_prior(
    model: ModelOptions,
    source: _SentenceOptions,
    kind: Annotated[
        Literal["auto", "standard", "gaussian", "mixture", "flow"],
        typer.Option(
            "--prior",
            help="Kind of prior: standard is N(0, I), gaussian has a full covariance, mixture is a "
            "mixture of Gaussians, flow is a normalising flow. auto fits all of them and selects "
            "the one with the lowest held-out NLL.",
        ),
    ] = "auto",
    components: Annotated[
        list[int] | None,
        typer.Option(
            help="Number of mixture components; can be repeated to try several. Default: 1, 2, "
            "5, ... 50."
        ),
    ] = None,
    flow: Annotated[
        str, typer.Option(help="Architecture of the flow: glow, spline or maf.")
    ] = "glow",
    steps: Annotated[
        int, typer.Option(min=1, help="Maximum number of training steps of the flow.")
    ] = 4000,
    posterior_scale: PosteriorScale = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    default: Annotated[
        bool,
        typer.Option(
            "--default/--no-default",
            help="Save it as the model's default prior, or as an additional prior under its kind.",
        ),
    ] = True,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder of the prior. Default: inside the model's folder."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing prior.")
    ] = False,
) -> None:
    """Fit a prior to the latent codes of sentences, for use with `sample`."""
    from llamavae.flows import FitConfig, flow_names

    if flow not in flow_names():
        raise unknown("flow", flow, flow_names())
    if output is not None:
        _check_place(output, overwrite)
    vae = model.load()
    from llamavae.training import prior

    place = output
    if place is None:
        place = _place(vae, kind, default)
        _check_place(place, overwrite)
    train, held_out = (
        prior.aggregate_posterior(vae, texts, posterior_scale, seed + i, progress=True)
        for i, texts in enumerate(source.texts())
    )
    fitted = prior.fit_prior(
        train,
        kind,
        valid=held_out,
        components=components or prior.COMPONENTS,
        flow=flow,
        config=FitConfig(steps=steps),
        seed=seed,
        vae=vae,
        progress=True,
    )
    fitted.report |= {"corpus": source.corpus, "posterior_scale": posterior_scale}
    fitted.save(place)
    report = fitted.report
    size = f" of {counted(report['components'], 'component')}" if "components" in report else ""
    write_nlls(
        {**report["references"], **report["candidates"]},
        "standard is N(0, I), gaussian has a full covariance. Selected: " + fitted.kind + size,
    )
    command = ["llamavae", "sample", "8", "--model", model.source]
    if output is not None or not default:
        command += ["--prior", str(output or kind)]
    note(f"the prior is in {place}; try: {shlex.join(command)}")


def _check_place(folder: Path, overwrite: bool) -> None:
    """The folder is new or empty, or holds a prior that may be replaced."""
    if folder.exists() and not overwrite:
        raise UserError(
            f"{folder} already exists: replace it with --overwrite, or choose another --output"
        )
    if not folder.is_dir() or "prior.json" not in (read_manifest(folder) or {}):
        check_output(folder, "a prior")


def _place(vae: LlaMaVAE, kind: str, default: bool) -> Path:
    """Folder of the prior inside the model's folder."""
    from llamavae.modeling.prior import DEFAULT, OTHERS, folder_of
    from llamavae.pretrained import bundled

    if kind == "auto" and not default:
        raise UserError("--no-default requires a kind other than auto. Choose one with --prior")
    place = folder_of(vae, DEFAULT if default else f"{OTHERS}/{kind}")
    if place is None or bundled(vae.name_or_path or ""):
        raise UserError(
            f"{vae.name_or_path} is not a local model folder. Choose a folder for the prior with "
            "--output"
        )
    return place
