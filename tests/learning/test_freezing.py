import pytest
import torch
from torch import nn

from atrous import create_model
from atrous.errors import AtrousError
from atrous.learning.freezing import freeze, keep_frozen_statistics


def small(architecture="deeplabv3plus"):
    torch.manual_seed(0)
    return create_model(architecture, backbone="resnet18", num_classes=4)


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def changed_by_a_step(model):
    """Names of all weights and statistics that one training step changes."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    keep_frozen_statistics(model)
    optimizer = torch.optim.SGD([part for part in model.parameters() if part.requires_grad], lr=0.1)
    scores = model.scores(torch.randn(2, 3, 65, 65))
    torch.stack([output.square().mean() for output in scores.values()]).sum().backward()
    optimizer.step()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def test_all_learn():
    model = small()
    count = sum(parameter.numel() for parameter in model.parameters())
    assert freeze(model) == f"{count:,} of {count:,} parameters are trained (100.0 %)"
    assert len(learning(model)) == len(list(model.parameters()))


def test_head_alone():
    model = small()
    sentence = freeze(model, "head")
    changed = changed_by_a_step(model)
    assert changed and not any(name.startswith("backbone.") for name in changed)
    assert learning(model) <= changed
    count = sum(part.numel() for name, part in model.named_parameters() if not name.startswith("backbone."))
    assert sentence.startswith(f"{count:,} of ")


@pytest.mark.parametrize("architecture", ["deeplabv2", "deeplabv3plus"])
def test_norms_and_the_last_layer_alone(architecture):
    model = small(architecture)
    freeze(model, "norms")
    names = learning(model)
    modules = dict(model.named_modules())
    for name in names:
        owner = modules[name.rpartition(".")[0]]
        assert isinstance(owner, nn.BatchNorm2d) or (isinstance(owner, nn.Conv2d) and owner.out_channels == 4)
    assert any("classifier" in name or "branches.3" in name for name in names)
    assert sum(part.numel() for part in model.parameters() if part.requires_grad) < 0.01 * sum(
        part.numel() for part in model.parameters()
    )
    assert any("running_mean" in name for name in changed_by_a_step(model))


def test_layers_by_name_keep_weights_and_statistics():
    model = small()
    freeze(model, "all", ["backbone.net.conv1", "backbone.net.bn1", "backbone.net.layer1"])
    changed = changed_by_a_step(model)
    frozen = ("backbone.net.conv1.", "backbone.net.bn1.", "backbone.net.layer1.")
    assert not any(name.startswith(frozen) for name in changed)
    assert any(name.startswith("backbone.net.layer2.") for name in changed)


def test_a_name_is_no_prefix_of_another():
    model = small()
    freeze(model, "all", ["backbone.net.layer1.0.conv1"])
    assert "backbone.net.layer1.0.conv2.weight" in learning(model)


def test_unknown_modules_and_nothing_left():
    with pytest.raises(AtrousError, match=r"Did you mean 'backbone\.net\.layer1'"):
        freeze(small(), "all", ["backbone.net.layers1"])
    with pytest.raises(AtrousError, match="no parameter is left to train"):
        freeze(small(), "head", ["aspp", "decoder", "classifier", "aspp_conv"])
