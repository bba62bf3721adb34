"""Reverse dictionary: rank all words of WordNet for descriptions that people wrote.

    python -m results.reverse flow --model small-definitions --words FILE --output FOLDER
    python -m results.reverse words --encoder all-minilm-l6-v2 --words FILE --output FOLDER
    python -m results.reverse definitions --model small --words FILE --output FOLDER

`flow` ranks words by log p(z|word) of an invertible CVAE, where z is the code of the description.
`words` ranks them by the cosine of the description's vector and that of the word. `definitions`
ranks them by the highest cosine of the description's code and those of the word's definitions in
WordNet's training split; a word without such a definition is last.

The file has columns WORD and DEFINITION. The candidates are all words of WordNet and of the file.
The results are a folder of `llamavae evaluate`.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from llamavae import InvertibleCVAE
from llamavae.corpora import load_corpus
from llamavae.corpora.lines import check_file
from llamavae.corpora.splits import SHARES, position
from llamavae.errors import UserError
from llamavae.evaluation import Evaluation, EvaluationData, Evaluator
from llamavae.evaluation.evaluator import Need
from llamavae.evaluation.suite import evaluate
from llamavae.guidance.pairs import cached_vectors
from llamavae.metrics.metric import Rows
from llamavae.metrics.retrieval import SCORES, rank_of_truth, score_ranks
from results.spaces import Space, source_space

TRAINED = "not in train"
"""Group of the descriptions that are not definitions of WordNet's training split."""
_BLOCK = 250
"""Number of descriptions that are ranked at a time."""


@dataclass(frozen=True)
class Dictionary:
    """A system that scores the candidates for each description.

    Attributes:
        about: What it is; results of two dictionaries with the same text are equal.
        scores: From N descriptions to the scores of the V candidates (N, V), higher is better.
    """

    about: str
    scores: Callable[[Sequence[str]], Tensor]

    def system_fingerprint(self) -> str:
        """Identifies the system in the results of an evaluation."""
        return self.about


class ReverseDictionary(Evaluator):
    """Rank of the correct word among all candidates, for the texts and labels `word` of the data.

    Args:
        candidates: The candidate words.
        training: Keys (see `key`) of definitions that systems were trained on.
    """

    name = "reverse_dictionary"
    needs: ClassVar[frozenset[Need]] = frozenset({"labels"})
    metrics = tuple(
        SCORES[name] for name in ("median rank", "MRR", "recall@1", "recall@10", "recall@100")
    )

    def __init__(self, candidates: Sequence[str], training: frozenset[str] = frozenset()) -> None:
        self._words, self._training = list(candidates), training
        self.candidates = len(self._words)  # public attributes are settings, which are saved

    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """The metrics for all descriptions and for those outside of training, and the ranks."""
        place = {word: i for i, word in enumerate(self._words)}
        truth = torch.tensor([place[str(word)] for word in data.labels["word"]])
        texts = list(data.texts)
        parts = [
            rank_of_truth(system.scores(texts[i : i + _BLOCK]), truth[i : i + _BLOCK])
            for i in range(0, len(texts), _BLOCK)
        ]
        ranks, size = torch.cat(parts), self.candidates
        rows = score_ranks(ranks, size, data.seed)
        new = torch.tensor([key(text) not in self._training for text in texts])
        if new.any():
            rows += [row | {"group": TRAINED} for row in score_ranks(ranks[new], size, data.seed)]
        table: Rows = [
            {"text": text, "word": word, "rank": rank}
            for text, word, rank in zip(texts, data.labels["word"], ranks.tolist(), strict=True)
        ]
        return Evaluation(rows, {"ranks": table})


def key(text: str) -> str:
    """A text without case, white space and punctuation, which the files of descriptions change."""
    return "".join(re.findall(r"\w+", text.casefold()))


# ------------------------------------------------------------------------------- systems


def flow_dictionary(source: str, candidates: Sequence[str]) -> Dictionary:
    """Log-density of a description's code under each word."""
    model = InvertibleCVAE.from_pretrained(source)
    vectors = cached_vectors(model.condition, candidates)
    return Dictionary(
        f"flow of {source}", lambda texts: model.scores(model.vae.encode(texts).mean, vectors)
    )


def word_dictionary(space: Space, candidates: Sequence[str]) -> Dictionary:
    """Cosine of the vectors of description and word."""
    known = F.normalize(space.encode(candidates))
    return Dictionary(
        f"words in {space.about}", lambda texts: F.normalize(space.encode(texts)) @ known.T
    )


def definition_dictionary(
    space: Space, candidates: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> Dictionary:
    """Highest cosine of the vectors of the description and of a definition of the word.

    Args:
        space: Encodes the texts.
        candidates: The words; one without a definition has the score -inf.
        pairs: Words with their definitions.
    """
    texts = list(dict.fromkeys(text for _, text in pairs))
    row = {text: i for i, text in enumerate(texts)}
    place = {word: i for i, word in enumerate(candidates)}
    known = F.normalize(space.encode(texts))
    definition = torch.tensor([row[text] for _, text in pairs])
    word = torch.tensor([place[word] for word, _ in pairs])

    def scores(descriptions: Sequence[str]) -> Tensor:
        cosine = F.normalize(space.encode(descriptions)) @ known.T
        best = torch.full((len(cosine), len(candidates)), -torch.inf)
        return best.scatter_reduce(1, word.expand(len(cosine), -1), cosine[:, definition], "amax")

    return Dictionary(f"definitions in {space.about}", scores)


# ------------------------------------------------------------------------------- command


def read_descriptions(path: Path) -> list[tuple[str, str]]:
    """Words with their descriptions, from a CSV file with columns WORD and DEFINITION."""
    check_file(path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"WORD", "DEFINITION"} <= rows[0].keys():
        raise UserError(f"{path}: expected rows with columns WORD and DEFINITION")
    return [(row["WORD"].strip(), row["DEFINITION"].strip()) for row in rows]


def main() -> None:
    """Evaluate one reverse dictionary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kind", choices=("flow", "words", "definitions"))
    parser.add_argument("--model", help="VAE, or invertible CVAE for `flow`")
    parser.add_argument("--encoder", help="sentence encoder, instead of a VAE")
    parser.add_argument("--words", type=Path, required=True, help="file of descriptions")
    parser.add_argument("--limit", type=int, help="number of descriptions and of pairs of WordNet")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()

    rows = read_descriptions(given.words)[: given.limit]
    wordnet = load_corpus("wordnet-pairs", limit=given.limit)
    pairs = list(zip(wordnet["word"], wordnet["text"], strict=True))
    candidates = list(dict.fromkeys([*(word for word, _ in (*pairs, *rows))]))
    training = [(word, text) for word, text in pairs if position(text) >= 1 - SHARES["train"]]
    if given.kind == "flow":
        if given.model is None:
            raise UserError("`flow` requires --model")
        system = flow_dictionary(given.model, candidates)
    elif given.kind == "words":
        system = word_dictionary(source_space(given.model, given.encoder), candidates)
    else:
        space = source_space(given.model, given.encoder)
        system = definition_dictionary(space, candidates, training)
    evaluator = ReverseDictionary(candidates, frozenset(key(text) for _, text in training))
    data = EvaluationData([text for _, text in rows], {"word": [word for word, _ in rows]})
    about = {"corpus": given.words.name, "split": "test"}
    results = evaluate(system, data, [evaluator], given.output, name=system.about, corpus=about)
    if lost := results.failed | results.skipped:
        raise UserError("; ".join(lost.values()))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
