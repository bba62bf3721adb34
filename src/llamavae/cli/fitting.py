"""Options of the commands that fit flows from conditions to latent codes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from llamavae.cli.options import CorpusPath, PosteriorScale
from llamavae.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from llamavae import LlaMaVAE
    from llamavae.flows import FitConfig
    from llamavae.guidance import Condition


@dataclass
class PairOptions:
    """A corpus of texts, each with a word, such as definitions."""

    corpus: Annotated[
        str, typer.Option("--corpus", "-c", help="Named corpus, file, or hub id of a dataset.")
    ] = "wordnet-pairs"
    path: CorpusPath = None
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of texts.")] = None
    max_words: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of words of a text; longer texts are excluded."),
    ] = None
    word_vectors: Annotated[
        Path | None,
        typer.Option(
            help="File of word vectors (word2vec, GloVe or fastText .vec) to represent words, "
            "instead of the sentence encoder."
        ),
    ] = None
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER_OR_ID",
            help="Sentence encoder to represent words. Default: the encoder of the model.",
        ),
    ] = None

    def word_condition(self, vae: LlaMaVAE, words: Collection[str]) -> Condition:
        """The condition that represents words as vectors.

        Args:
            vae: The model.
            words: Words to read from a file of word vectors.
        """
        from llamavae.guidance import EncoderCondition, WordVectorCondition

        if self.word_vectors is not None and self.encoder is not None:
            raise UserError("expected --word-vectors or --encoder, not both")
        if self.word_vectors is not None:
            return WordVectorCondition(self.word_vectors, words)
        if self.encoder is not None:
            condition = EncoderCondition.load(self.encoder)
            condition.encoder.to(vae.posterior.linear.weight.device)
            return condition
        if vae.encoder is None:
            raise UserError(
                "the model has no sentence encoder to represent words. Pass --encoder, "
                "--word-vectors, --labels or --vectors"
            )
        return EncoderCondition(vae.encoder)

    def rows(self, split: str | None, limit: int | None) -> Dataset:
        """One split of the corpus, or the whole corpus."""
        from llamavae.corpora import load_corpus

        return load_corpus(
            self.corpus, split, path=self.path, limit=limit, max_words=self.max_words
        )


@dataclass
class FlowOptions:
    """Settings of fitting a flow from conditions to latent codes."""

    panel: ClassVar[str] = "Fit"

    steps: Annotated[int, typer.Option(min=1, help="Maximum number of training steps.")] = 4000
    train_batch_size: Annotated[
        int, typer.Option(min=1, help="Number of pairs per training step.")
    ] = 256
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3
    posterior_scale: PosteriorScale = 1.0
    contrastive_weight: Annotated[
        float,
        typer.Option(
            min=0,
            help="Weight of the contrastive loss, which improves `reverse` and label accuracy. "
            "Requires --form reference.",
        ),
    ] = 0.0
    base_hidden: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHS",
            help="Comma-separated hidden sizes of an MLP that is added to the linear map of the "
            "condition. Requires --form reference. Default: no MLP.",
        ),
    ] = None
    ensemble_size: Annotated[
        int, typer.Option(min=1, help="Number of MLPs whose outputs are averaged.")
    ] = 1
    dropout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Dropout rate of the hidden layers of the MLPs.")
    ] = 0.0
    context_noise: Annotated[
        float,
        typer.Option(
            min=0,
            help="Standard deviation of the noise added to conditions, relative to their own.",
        ),
    ] = 0.0
    patience: Annotated[
        int,
        typer.Option(
            min=1,
            help="Stop after this many evaluations without improvement; evaluates every 200 steps.",
        ),
    ] = 5

    def config(self, seed: int = 0) -> FitConfig:
        """Settings of the fit."""
        from llamavae.flows import FitConfig

        return FitConfig(
            steps=self.steps,
            batch_size=self.train_batch_size,
            learning_rate=self.learning_rate,
            contrastive_weight=self.contrastive_weight,
            context_noise=self.context_noise,
            patience=self.patience,
            seed=seed,
        )

    def networks(self, *forms: str) -> dict[str, Any]:
        """Options of `build_flow` for the MLPs of the base distribution.

        Args:
            forms: Forms to fit.
        """
        widths = [width.strip() for width in (self.base_hidden or "").split(",") if width.strip()]
        if not all(width.isdecimal() and int(width) > 1 for width in widths):
            raise UserError(
                f"--base-hidden expects hidden sizes of at least 2, such as 512,512; got "
                f"{self.base_hidden!r}"
            )
        widths = [int(width) for width in widths]
        if "conditional" in forms and (self.contrastive_weight or widths):
            raise UserError(
                "--contrastive-weight and --base-hidden require the reference form. Add "
                "--form reference"
            )
        if self.ensemble_size > 1 and not widths:
            raise UserError(
                "--ensemble-size above 1 requires --base-hidden, for example --base-hidden 512"
            )
        return {"base_hidden": widths, "ensemble_size": self.ensemble_size, "dropout": self.dropout}
