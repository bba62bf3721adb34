"""The command that shows the latent space in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamavae.cli.options import ModelOptions, Split
from llamavae.cli.output import note
from llamavae.cli.service import (
    AddressOptions,
    Definitions,
    LimitOptions,
    load_models,
    needs_serve,
)
from llamavae.errors import UserError

if TYPE_CHECKING:
    from llamavae.metrics.clusters import Projection


def explore(
    model: ModelOptions,
    limit: LimitOptions,
    address: AddressOptions,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="File of sentences (.txt, .jsonl, .csv, .parquet, ...)."),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help="Column with the sentences. Default: text, else the only one with text."),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            "--corpus", "-c", help="Named corpus, or hub id of a dataset. Default: factors."
        ),
    ] = None,
    split: Split = "all",
    max_sentences: Annotated[
        int,
        typer.Option(
            "--limit", min=4, help="Maximum number of sentences, chosen at random with the seed."
        ),
    ] = 50_000,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of labels for colours. Can be repeated. Default: all columns whose values "
            "repeat."
        ),
    ] = None,
    projection: Annotated[
        list[str] | None,
        typer.Option(
            help="Projection of the map: pca, tsne or umap, which needs the extra umap. Can be "
            "repeated. Default: pca."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    definitions: Definitions = None,
) -> None:
    """Show the latent space of a model in a browser: a map of sentences to move through."""
    address.check()
    if file is not None and corpus is not None:
        raise UserError("expected --file or --corpus, not both")
    with needs_serve("explore"):
        from llamavae.explorer import Space, create_explorer
        from llamavae.serving.server import listen, run, url
    from llamavae.corpora import load_corpus
    from llamavae.evaluation.data import label_columns
    from llamavae.metrics.clusters import as_projection

    methods: list[Projection] = [as_projection(each) for each in projection or ["pca"]]
    limits = limit.limits(model.batch_size)
    source = str(file or corpus or "factors")
    with listen(address.host, address.port) as listener:  # before the model, which takes seconds
        data = load_corpus(
            source,
            None if split == "all" else split,
            column=column,
            limit=max_sentences,
            seed=seed,
        )
        labels = label_columns(data, source, label)
        vae, cvae = load_models(model, definitions)
        space = Space.of_model(vae, data["text"][:], labels, methods, seed, progress=True)
        key = address.api_key
        app = create_explorer(vae, space, cvae, name=model.source, limits=limits, api_key=key)
        note(f"{len(space):,} sentences of {source} are shown at {url(listener)}/explore/")
        run(app, listener)
