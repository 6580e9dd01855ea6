import pytest
import torch
from torch import nn

from atrous import create_model
from atrous.errors import AtrousError
from atrous.learning.lr_schedule import set_learning_rate
from atrous.learning.optimizer import make_optimizer, parameter_groups


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
