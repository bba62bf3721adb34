"""Evaluate latent spaces that are not models of the library, and those beside them.

    python -m results.spaces --model small --dimensions 64 -e sts --output FOLDER
    python -m results.spaces --encoder all-minilm-l6-v2 --dimensions 128 -e sts --output FOLDER
    python -m results.spaces --encoder all-minilm-l6-v2 --nearest -e interpolation --output FOLDER
    python -m results.spaces --model small --refine 10 -e interpolation --output FOLDER

The codes are those of a VAE (posterior means) or of a sentence encoder. With --dimensions they are
reduced by PCA, fitted to definitions of WordNet's training split. With --nearest a vector is
decoded to the sentence of the corpus's training split whose vector has the highest cosine with it.
With --decoder the token vectors of word mover's distance are those of this language model, so that
values of different systems are comparable.

The results are a folder of `llamavae evaluate`, and an interrupted evaluation resumes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llamavae import LlaMaVAE
from llamavae.corpora import load_corpus
from llamavae.errors import UserError, unknown
from llamavae.evaluation import Evaluator, RefinedSystem, load_evaluator
from llamavae.evaluation.data import evaluation_data
from llamavae.evaluation.evaluator import latent_codes
from llamavae.evaluation.registry import EVALUATORS
from llamavae.evaluation.suite import evaluate
from llamavae.latent import nearest_neighbours
from llamavae.modeling import TextDecoder
from llamavae.modeling.loading import load_sentence_encoder
from llamavae.parsing import read_yaml
from results.fluency import MiddleFluency

OWN = {MiddleFluency.name: MiddleFluency}
"""Evaluators of this folder by name."""
PCA_SENTENCES = 10_000
"""Number of definitions that PCA is fitted to."""


@dataclass(frozen=True)
class Space:
    """A latent space as a system for the evaluators.

    Attributes:
        about: What it consists of; evaluations of two spaces with the same text are equal.
        encode: From texts to vectors (N, D).
        decode: From vectors (N, D) to N texts; None if the space has no texts.
        decoder: Language model whose token vectors are used by word mover's distance.
    """

    about: str
    encode: Callable[[Sequence[str]], Tensor]
    decode: Callable[[Tensor], list[str]] | None = None
    decoder: TextDecoder | None = None

    def system_fingerprint(self) -> str:
        """Identifies the space in the results of an evaluation."""
        return self.about


def source_space(model: str | None, encoder: str | None, refine: int = 0) -> Space:
    """The space of a VAE, whose codes may be refined, or of a sentence encoder.

    Args:
        model: Name or folder of the VAE.
        encoder: Name or folder of the sentence encoder, if there is no VAE.
        refine: Number of steps of refinement of the codes of the VAE.

    Raises:
        UserError: There is not exactly one of the two, or an encoder cannot be refined.
    """
    if (model is None) == (encoder is None) or (refine and encoder):
        raise UserError("expected --model, or --encoder without --refine")
    if model is not None:
        vae = LlaMaVAE.from_pretrained(model)
        system: Any = RefinedSystem(vae, refine) if refine else vae
        name = f"{model}, {refine} steps" if refine else model
        return Space(name, lambda texts: latent_codes(system, texts), vae.decode)
    assert encoder is not None
    loaded = load_sentence_encoder(encoder)
    return Space(encoder, lambda texts: latent_codes(loaded, texts))


def reduced(space: Space, training: Sequence[str], dimensions: int) -> Space:
    """The first principal components of a space; it has no texts.

    Args:
        space: The space.
        training: Texts that the components are fitted to; their mean is subtracted from all codes.
        dimensions: Number of components, at most the number of dimensions and of texts.
    """
    from sklearn.decomposition import PCA

    pca = PCA(dimensions, svd_solver="full").fit(space.encode(training).numpy())

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.from_numpy(pca.transform(space.encode(texts).numpy())).float()

    return Space(f"{space.about}, {dimensions} principal components", encode)


def nearest(space: Space, training: Sequence[str]) -> Space:
    """The same codes, decoded to the training text whose code has the highest cosine."""
    known = space.encode(training)

    def decode(z: Tensor) -> list[str]:
        _, index = nearest_neighbours(z, known, 1)
        return [training[int(i)] for i in index[:, 0]]

    return Space(f"{space.about}, nearest of {len(training)} texts", space.encode, decode)


def with_decoder(space: Space, decoder: TextDecoder, name: str) -> Space:
    """The same space, with the token vectors of a language model for word mover's distance."""
    return replace(space, about=f"{space.about}, token vectors of {name}", decoder=decoder)


def evaluators(names: Sequence[str], settings: Sequence[str]) -> list[Evaluator]:
    """The evaluators with their settings.

    Args:
        names: Names of the library's evaluators or of `OWN`.
        settings: Texts of the form EVALUATOR.SETTING=VALUE, whose value is read as YAML.
    """
    chosen: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in settings:
        key, _, value = text.partition("=")
        name, _, setting = key.partition(".")
        if name not in chosen or not setting or not value:
            raise UserError(f"--set {text}: expected EVALUATOR.SETTING=VALUE of a chosen evaluator")
        chosen[name][setting] = read_yaml(value, f"--set {text}")
    for name in chosen:
        if name not in (*OWN, *EVALUATORS):
            raise unknown("evaluator", name, [*OWN, *EVALUATORS])
    return [
        OWN[name](**values) if name in OWN else load_evaluator(name, **values)
        for name, values in chosen.items()
    ]


def main() -> None:
    """Evaluate one space."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", help="VAE")
    parser.add_argument("--encoder", help="sentence encoder, instead of a VAE")
    parser.add_argument("--refine", type=int, default=0, help="steps of refinement of the codes")
    parser.add_argument("--dimensions", type=int, help="number of principal components")
    parser.add_argument("--nearest", action="store_true", help="decode to training sentences")
    parser.add_argument("--decoder", help="language model of word mover's distance")
    parser.add_argument("--evaluator", "-e", action="append", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="EVALUATOR.SETTING=VALUE")
    parser.add_argument("--corpus", default="wordnet")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()

    chosen = evaluators(given.evaluator, given.set)
    space = source_space(given.model, given.encoder, given.refine)
    if given.dimensions is not None:
        fitted = load_corpus("wordnet", "train", limit=PCA_SENTENCES, seed=given.seed)["text"]
        space = reduced(space, list(fitted), given.dimensions)
    if given.nearest:
        space = nearest(space, list(load_corpus(given.corpus, "train")["text"]))
    if given.decoder is not None:
        space = with_decoder(space, TextDecoder.load(given.decoder), given.decoder)
    split = None if given.split == "all" else given.split
    data = evaluation_data(given.corpus, split, limit=given.limit, seed=given.seed, progress=True)
    about = {"corpus": given.corpus, "split": given.split, "limit": given.limit}
    results = evaluate(space, data, chosen, given.output, name=space.about, corpus=about)
    if lost := results.failed | results.skipped:
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in lost.items()))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
