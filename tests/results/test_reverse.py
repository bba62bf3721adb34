"""The reverse dictionary: ranks of words for descriptions."""

from __future__ import annotations

import pytest
import torch
from results import reverse, spaces
from results.reverse import TRAINED, Dictionary, ReverseDictionary
from tests import tiny

from llamavae.errors import UserError
from llamavae.evaluation import EvaluationData

WORDS = ["dog", "owl", "river", "lemon"]
TEXTS = ["a kind of animal", "a bird of the night", "a stream of water", "a sour fruit"]


@pytest.fixture(scope="module")
def space() -> spaces.Space:
    return spaces.source_space(None, str(tiny.encoder("bert-mean")))


def test_ranks_are_also_given_for_descriptions_outside_of_training():
    scores = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0]])
    place = dict(zip(TEXTS, scores, strict=True))
    system = Dictionary("fixed", lambda texts: torch.stack([place[text] for text in texts]))
    training = frozenset({reverse.key("A kind of  animal."), reverse.key(TEXTS[3])})
    evaluator = ReverseDictionary(WORDS, training)
    found = evaluator(system, EvaluationData(TEXTS, {"word": WORDS}))
    assert [row["rank"] for row in found.tables["ranks"]] == [1, 2, 3, 4]
    assert found.value("median rank") == 2.5
    assert found.value("median rank", TRAINED) == 2.5
    assert found.value("recall@1") == 0.25
    assert found.value("recall@1", TRAINED) == 0
    assert vars(evaluator)["candidates"] == 4


def test_candidate_words_are_no_settings():
    public = [name for name in vars(ReverseDictionary(WORDS)) if not name.startswith("_")]
    assert public == ["candidates"]


def test_a_word_is_the_best_description_of_itself(space):
    scores = reverse.word_dictionary(space, WORDS).scores(WORDS)
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]


def test_the_best_definition_of_a_word_counts(space):
    pairs = [*zip(WORDS[:3], TEXTS[:3], strict=True), ("dog", TEXTS[2])]
    scores = reverse.definition_dictionary(space, WORDS, pairs).scores(TEXTS[:3])
    torch.testing.assert_close(scores[2, 0], torch.tensor(1.0))
    torch.testing.assert_close(scores[:, :3].amax(1), torch.ones(3))
    assert scores[:, 3].tolist() == [-torch.inf] * 3  # it has no definition


def test_descriptions_are_read_from_their_columns(tmp_path):
    path = tmp_path / "words.csv"
    path.write_text('WORD,DEFINITION,SPLIT\nowl,"a bird, of the night ",test\n', encoding="utf-8")
    assert reverse.read_descriptions(path) == [("owl", "a bird, of the night")]
    path.write_text("owl,a bird\n", encoding="utf-8")
    with pytest.raises(UserError, match="expected rows with columns WORD and DEFINITION"):
        reverse.read_descriptions(path)
