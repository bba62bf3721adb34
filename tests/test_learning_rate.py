from __future__ import annotations

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from llamavae.learning_rate import warmup_cosine


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (7, 2), (250, 25), (30, 30)])
def test_it_is_the_schedule_of_transformers(total, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, total)
    for step in range(total):
        assert schedule.get_last_lr() == [warmup_cosine(step, total, warmup)]
        optimizer.step()
        schedule.step()


def test_the_first_step_of_a_warmup_can_count():
    assert [warmup_cosine(step, 9, 2, first=1) for step in range(3)] == [0.5, 1.0, 1.0]
