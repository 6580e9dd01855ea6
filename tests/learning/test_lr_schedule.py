"""The learning rate schedules against their formulas and torch's."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from atrous.learning.lr_schedule import learning_rate_factor
from atrous.learning.recipe_sections import Schedule


def factors(total, **settings):
    return [learning_rate_factor(step, total, Schedule(**settings)) for step in range(total)]


def test_poly_is_the_papers_formula():
    found = factors(100, warmup=0)
    assert found[0] == 1
    assert found[50] == pytest.approx(0.5**0.9)
    assert all(a > b for a, b in pairwise(found))
    assert found[-1] > 0
    assert factors(100, power=2, warmup=0)[75] == pytest.approx(0.0625)


def test_cosine_is_torchs():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    for factor in factors(40, name="cosine", warmup=0):
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_step_is_torchs():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 8], gamma=0.2)
    for factor in factors(10, name="step", steps=(0.5, 0.8), fall=0.2, warmup=0):
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("name", ["poly", "cosine"])
def test_it_warms_up_linearly_to_one(name):
    found = factors(20, name=name, warmup=0.2)
    assert found[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert all(a > b for a, b in pairwise(found[4:]))
    assert all(0 < factor <= 1 for factor in found)


@pytest.mark.parametrize("name", ["poly", "cosine", "step"])
def test_it_never_falls_below_its_floor(name):
    found = factors(50, name=name, floor=0.2)
    assert min(found[1:]) == 0.2
    assert found.index(0.2) > 25
    assert learning_rate_factor(90, 50, Schedule(name=name)) < 0.02  # beyond the end


def test_one_step_is_a_training():
    assert factors(1, warmup=0.999) == [1]
