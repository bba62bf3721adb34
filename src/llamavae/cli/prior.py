"""The verb `fit-prior`: a better place than N(0, I) to draw points from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llamavae.cli.options import ModelOptions, grouped
from llamavae.cli.output import note, write
from llamavae.errors import UserError, unknown

if TYPE_CHECKING:
    from llamavae.guidance import Prior


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.command()(grouped(fit_prior))


@dataclass
class SentenceOptions:
    """The sentences whose points the prior is fitted to."""

    corpus: Annotated[
        str,
        typer.Option(
            "--corpus", "-c", help="Corpus, file or hub id that the model was trained on."
        ),
    ]
    path: Annotated[
        Path | None, typer.Option(help="Where a named corpus lies, if not in its usual place.")
    ] = None
    column: Annotated[str | None, typer.Option(help="Column that holds the sentences.")] = None
    limit: Annotated[int, typer.Option(min=2, help="At most this many training sentences.")] = (
        20_000
    )

    def texts(self) -> tuple[list[str], list[str]]:
        """Sentences of the training split, and a tenth as many of the validation split."""
        from llamavae.corpora import load_corpus

        train, held_out = (
            load_corpus(self.corpus, split, path=self.path, column=self.column, limit=limit)
            for split, limit in (("train", self.limit), ("validation", max(1, self.limit // 10)))
        )
        return list(train["text"]), list(held_out["text"])


def fit_prior(
    model: ModelOptions,
    source: SentenceOptions,
    kind: Annotated[
        Literal["gaussian", "mixture", "flow"],
        typer.Option("--prior", help="One full-covariance Gaussian, a mixture of them, or a flow."),
    ] = "mixture",
    components: Annotated[
        list[int] | None,
        typer.Option(help="Size of the mixture; several are tried. Default: 1, 2, 5, ... 50."),
    ] = None,
    flow: Annotated[str, typer.Option(help="Architecture: glow, spline or maf.")] = "glow",
    steps: Annotated[int, typer.Option(min=1, help="Most steps of a flow.")] = 4000,
    noise: Annotated[
        float,
        typer.Option(
            min=0, help="Width of the posteriors, as a multiple of their own; 0: their means."
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder of the result. Default: inside the model's folder."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a prior that is there.")
    ] = False,
) -> None:
    """Fit a prior to the points that sentences have, for `sample --prior`."""
    from llamavae.flows import Fitting, flow_names

    if flow not in flow_names():
        raise unknown("flow", flow, flow_names())
    vae = model.load()
    from llamavae.guidance import prior
    from llamavae.pretrained import shipped

    place = output or (None if shipped(vae.name_or_path or "") else prior.place_inside(vae, kind))
    if place is None:
        raise UserError(
            f"{vae.name_or_path} is no folder of yours: give one for the prior with --output"
        )
    if place.exists() and not overwrite:
        raise UserError(f"{place} exists already; take another --output, or --overwrite it")
    train, held_out = (
        prior.aggregate_posterior(vae, texts, noise, seed + i, progress=True)
        for i, texts in enumerate(source.texts())
    )
    fitted = prior.fit_prior(
        train,
        kind,
        valid=held_out,
        components=components or prior.COMPONENTS,
        flow=flow,
        fitting=Fitting(steps=steps),
        seed=seed,
        vae=vae,
        progress=True,
    )
    fitted.report |= {"corpus": source.corpus, "noise": noise}
    fitted.save(place)
    _show(fitted)
    name = kind if output is None else place
    note(f"the prior is in {place}; try: llamavae sample 8 --model {model.model} --prior {name}")


def _show(prior: Prior) -> None:
    """The held-out NLLs, best first."""
    report = prior.report
    rows = {**report["references"], "this prior": report["nll"]}
    for name, nll in sorted(rows.items(), key=lambda row: row[1]):
        write(False, f"{nll:.4f}", name)
    size = f"; {report['components']} components" if "components" in report else ""
    note(
        f"held-out NLL in nats per dimension, lower is better; standard is N(0, I), gaussian has a "
        f"full covariance{size}"
    )
