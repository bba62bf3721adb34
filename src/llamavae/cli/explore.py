"""The command that shows the latent space in a browser."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
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
    from llamavae.explorer import Space
    from llamavae.metrics.clusters import Projection
    from llamavae.serving.models import Models


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
    from llamavae.serving.server import listen, run, url
    from llamavae.serving.worker import ProcessWorker

    address.check()
    if file is not None and corpus is not None:
        raise UserError("expected --file or --corpus, not both")
    limits = limit.limits(model.batch_size)
    source, name = str(file or corpus or "factors"), model.source
    part = None if split == "all" else split
    sentences = Sentences(source, part, column, max_sentences, label, projection or ["pca"], seed)
    load = partial(load_models, model, definitions)
    with listen(address.host, address.port) as listener, closing(ProcessWorker(load)) as worker:
        with needs_serve("explore"):  # while the process loads the model
            from llamavae.explorer.routes import explorer_of
        key = address.api_key
        app = explorer_of(worker, sentences.space, name=name, limits=limits, api_key=key)
        address.guard(app)
        note(f"{source} is shown at {url(listener)}/explore/ as soon as it is encoded")
        run(app, listener)


@dataclass(frozen=True)
class Sentences:
    """The sentences that are shown, as the process of the model reads them."""

    source: str
    split: str | None
    column: str | None
    limit: int
    labels: list[str] | None
    projections: list[str]
    seed: int

    def space(self, models: Models) -> Space:
        """Read and encode them."""
        from llamavae.corpora import load_corpus
        from llamavae.evaluation.data import label_columns
        from llamavae.explorer import Space
        from llamavae.metrics.clusters import as_projection
        from llamavae.serving.worker import say

        methods: list[Projection] = [as_projection(each) for each in self.projections]
        say(f"reading {self.source}")
        data = load_corpus(
            self.source, self.split, column=self.column, limit=self.limit, seed=self.seed
        )
        labels = label_columns(data, self.source, self.labels)
        texts = data["text"][:]
        space = Space.of_model(models.vae, texts, labels, methods, self.seed, True, say)
        note(f"{len(space):,} sentences of {self.source} are shown")
        return space
