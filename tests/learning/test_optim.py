from itertools import pairwise

import pytest
import torch
from torch import nn

from atrous import create_model
from atrous.errors import AtrousError
from atrous.learning.optim import learning_rate_factor, make_optimizer, parameter_groups, set_learning_rate
from atrous.learning.recipe import Schedule


@pytest.fixture(scope="module")
def model():
    return create_model("deeplabv3plus", backbone="mobilenetv2_035", aspp_channels=16, low_channels=8)


def test_groups_hold_every_parameter_once_and_decay_only_convolutions(model):
    groups = parameter_groups(model, lr=0.1, weight_decay=0.01, backbone_lr=0.5)
    assert len(groups) == 4
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())
    group_of = {id(parameter): group for group in groups for parameter in group["params"]}
    for name, module in model.named_modules():
        for kind, parameter in module.named_parameters(recurse=False):
            group = group_of[id(parameter)]
            decayed = isinstance(module, nn.Conv2d) and kind == "weight"
            assert group["weight_decay"] == (0.01 if decayed else 0.0)
            assert group["lr"] == group["base_lr"] == (0.05 if name.startswith("backbone.") else 0.1)


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    model[0].requires_grad_(False)
    groups = parameter_groups(model, lr=1, weight_decay=1, backbone_lr=1)
    assert [parameter for group in groups for parameter in group["params"]] == [*model[1].parameters()]


def test_the_schedule_scales_every_group_from_its_own_base(model):
    optimizer = make_optimizer("sgd", parameter_groups(model, lr=0.1, weight_decay=0, backbone_lr=0.1))
    for factor in (0.5, 0.25, 1.0):  # not cumulative
        set_learning_rate(optimizer, factor)
        assert {round(group["lr"], 12) for group in optimizer.param_groups} == {0.1 * factor, 0.01 * factor}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_each_optimiser_finds_a_minimum(name):
    weight = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = make_optimizer(name, [{"params": [weight], "lr": 0.05}], momentum=0.5)
    for _ in range(400):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert weight.abs().max() < 0.05


def test_momentum_is_of_sgd_and_adams_first_beta():
    groups = [{"params": [nn.Parameter(torch.zeros(1))]}]
    assert make_optimizer("sgd", groups, momentum=0.7).defaults["momentum"] == 0.7
    assert make_optimizer("adamw", groups, momentum=0.7).defaults["betas"][0] == 0.7


def test_unknown_optimiser():
    with pytest.raises(AtrousError, match=r"unknown optimiser 'adamww'\. Did you mean 'adamw'"):
        make_optimizer("adamww", [])


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
