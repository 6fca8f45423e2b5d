"""Learning rates against those of transformers, update by update."""

import pytest
import torch
from transformers import get_scheduler

from bertorch.training.schedules import SCHEDULES, learning_rate


def rates_of_transformers(name: str, highest: float, warmup_steps: int, total_steps: int) -> list[float]:
    """The rate of each update of a run."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=highest)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps)
    rates = []
    for update in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if update + 1 < total_steps:
            schedule.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(0, 1), (0, 7), (1, 2), (3, 10), (10, 10), (29, 30), (17, 101)])
def test_every_update_has_the_rate_of_transformers(name, warmup_steps, total_steps):
    for highest in (5e-5, 0.3):
        wanted = rates_of_transformers(name, highest, warmup_steps, total_steps)
        found = [learning_rate(name, highest, step, warmup_steps, total_steps) for step in range(total_steps)]
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-18)


@pytest.mark.parametrize("name", SCHEDULES)
def test_where_the_schedule_ends(name):
    end = {"polynomial": 1e-7, "constant": 1e-3, "constant_with_warmup": 1e-3}.get(name, 0.0)
    for warmup_steps in (0, 2):
        assert learning_rate(name, 1e-3, 10, warmup_steps, 10) == pytest.approx(end, abs=1e-18)


def test_polynomial_ends_at_its_end_whatever_a_group_starts_from():
    for highest in (1e-3, 5e-5, 2e-7):
        rates = [learning_rate("polynomial", highest, step, 0, 8) for step in range(9)]
        assert rates[0] == pytest.approx(highest)
        assert rates[4] == pytest.approx((highest + 1e-7) / 2)
        assert rates[8] == 1e-7
    assert [learning_rate("polynomial", 5e-8, step, 0, 4) for step in range(5)] == pytest.approx([5e-8] * 5)


def test_an_unknown_schedule():
    with pytest.raises(ValueError, match="unknown schedule 'step'"):
        learning_rate("step", 1e-3, 1, 0, 10)
