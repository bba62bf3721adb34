from __future__ import annotations

import pytest
import torch

from llamavae.training.denoising import delete_tokens

IDS = torch.tensor([[5, 6, 7, 8], [5, 9, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": MASK}


def test_the_others_keep_their_order_and_the_width_shrinks() -> None:
    draws = torch.tensor([[0.9, 0.1, 0.9, 0.2], [0.1, 0.5, 0.0, 0.0]])
    found = delete_tokens(INPUTS, draws, 0.3)
    assert found["input_ids"].tolist() == [[5, 7], [9, 0]]
    assert found["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert found["attention_mask"].dtype == MASK.dtype


def test_one_token_stays() -> None:
    draws = torch.tensor([[0.1, 0.2, 0.0, 0.1], [0.2, 0.1, 0.3, 0.3]])
    found = delete_tokens(INPUTS, draws, 0.99)
    assert found["input_ids"].tolist() == [[6], [5]]


def test_special_tokens_stay() -> None:
    found = delete_tokens(INPUTS, torch.zeros(2, 4), 0.5, special=[5, 8])
    assert found["input_ids"].tolist() == [[5, 8], [5, 0]]


def test_without_padding_and_without_deletion() -> None:
    whole = {name: value[:1] for name, value in INPUTS.items()}
    found = delete_tokens(whole, torch.ones(1, 4), 0.3)
    assert all(torch.equal(found[name], whole[name]) for name in whole)


@pytest.mark.parametrize("probability", [0.1, 0.3])
def test_the_share_is_the_probability(probability: float) -> None:
    ids = torch.randint(1, 99, (400, 50))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found = delete_tokens(inputs, torch.rand(ids.shape), probability)
    share = 1 - found["attention_mask"].sum().item() / ids.numel()
    assert share == pytest.approx(probability, abs=0.01)
