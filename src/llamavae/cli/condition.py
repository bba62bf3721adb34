"""The command `fit-condition`: fit an invertible CVAE."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llamavae.cli.fitting import FlowOptions, PairOptions
from llamavae.cli.options import ModelOptions, Split
from llamavae.cli.output import note, resumable, write_nlls
from llamavae.errors import UserError, unknown
from llamavae.folders import locked

if TYPE_CHECKING:
    from llamavae import LlaMaVAE
    from llamavae.guidance import Condition, Pairs


@dataclass
class _ConditionOptions(PairOptions):
    """The condition of each row of a corpus."""

    split: Split = "train"
    word: Annotated[
        str,
        typer.Option(
            help="Column with the words, represented by the sentence encoder or by word vectors."
        ),
    ] = "word"
    context: Annotated[
        str | None,
        typer.Option(
            help="Column with a sentence that contains the word, or an empty cell. The model is "
            "trained on each of these words both alone and in its sentence."
        ),
    ] = None
    labels: Annotated[
        str | None, typer.Option(help="Comma-separated columns of labels to use as the condition.")
    ] = None
    vectors: Annotated[
        str | None,
        typer.Option(
            help="Column of vectors, or a .npy or .parquet file with one row per text, to use as "
            "the condition."
        ),
    ] = None

    def pairs(self, vae: LlaMaVAE) -> tuple[Condition, Pairs, list[str]]:
        """The condition, the texts with their conditions, and the words that can be defined."""
        from llamavae.guidance import make_pairs

        kinds = ("word_vectors", "encoder", "labels", "vectors")
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) > 1:
            names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UserError(f"expected one condition; got {names}")
        data = self.rows(None if self.split == "all" else self.split, self.limit)
        condition, vectors = self._condition(vae, data)
        pairs = make_pairs(
            data,
            condition,
            word=self.word,
            context=self.context,
            also_alone=True,
            vectors=vectors,
        )
        if self.vectors is not None:
            words: list[str] = []  # vectors given by the user have no words
        elif self.context is None:
            words = pairs.names
        else:
            words = [str(word) for word in data[self.word]]
        return condition, pairs, list(dict.fromkeys(words))

    def _condition(self, vae: LlaMaVAE, data: Any) -> tuple[Condition, Any]:
        from llamavae.corpora.matrices import column_matrix, read_matrix
        from llamavae.guidance import LabelCondition, VectorCondition
        from llamavae.guidance.conditions import read_column

        if self.labels is not None:
            columns = [name.strip() for name in self.labels.split(",")]
            return LabelCondition.from_rows(data, columns), None
        if self.vectors is not None:
            if self.vectors in data.column_names:
                column = data.select_columns(self.vectors).with_format("arrow")[:]
                matrix = column_matrix(column.column(self.vectors), f"column {self.vectors!r}")
            elif Path(self.vectors).suffix in (".npy", ".parquet"):
                matrix = read_matrix(Path(self.vectors))
            else:
                raise unknown(
                    "column",
                    self.vectors,
                    data.column_names,
                    hint="Expected a column, or a .npy or .parquet file",
                )
            return VectorCondition(matrix.shape[1]), matrix
        words = set() if self.word_vectors is None else set(map(str, read_column(data, self.word)))
        return self.word_condition(vae, words), None


def fit_condition(
    model: ModelOptions,
    source: _ConditionOptions,
    options: FlowOptions,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the fitted model.")
    ] = Path("runs/guided"),
    flow: Annotated[
        str,
        typer.Option(
            help="Architecture of the flow: glow, spline, maf, linear-gaussian or gaussian."
        ),
    ] = "glow",
    form: Annotated[
        Literal["reference", "conditional"],
        typer.Option(
            help="reference: the condition determines the mean of the base distribution. "
            "conditional: the condition is an input of the flow."
        ),
    ] = "reference",
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the fit in the output folder.")
    ] = False,
) -> None:
    """Fit an invertible CVAE: a flow from a condition to the latent space of a model.

    By default, the condition is the sentence encoder's vector of a word.
    """
    import torch

    from llamavae.flows import flow_names

    if flow not in flow_names():
        raise unknown("flow", flow, flow_names())
    config, networks = options.config(seed), options.networks(form)
    if (output / "config.json").is_file():
        raise UserError(f"{output} already contains a model. Choose another --output")
    state = output / "state"
    if state.exists() and not resume:
        raise UserError(
            f"{output} contains an interrupted fit. Resume it with --resume, or choose another "
            "--output"
        )
    with locked(output, "a fit"):
        vae = model.load()
        from llamavae import InvertibleCVAE

        condition, pairs, vocabulary = source.pairs(vae)
        torch.manual_seed(seed)
        cvae = InvertibleCVAE.build(vae, condition, flow, form, **networks)
        note(f"{len(pairs):,} pairs with conditions of size {condition.dim}")
        with resumable(f"run the command again with --resume to continue (state in {state})"):
            fit = cvae.fit(
                pairs,
                vocabulary=vocabulary,
                posterior_scale=options.posterior_scale,
                config=config,
                state=state,
            )
        cvae.save_pretrained(output)
        shutil.rmtree(state, ignore_errors=True)
    write_nlls(
        {**fit.references, "this flow": fit.nll},
        f"stopped: {fit.stopped}, best step {fit.best_step}; maximum inverse error "
        f"{fit.inverse_error:.1e}",
    )
    note(f"the model is in {output}. Use it with --model {shlex.quote(str(output))}")
