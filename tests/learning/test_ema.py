import pytest
import torch

from atrous import create_model
from atrous.learning.ema import WeightAverage


def make():
    return create_model("deeplabv3plus", backbone="mobilenetv2_035", num_classes=2, aspp_channels=8, low_channels=8)


def walk(model, steps, decay):
    """Updates an average along a random walk of the weights; yields the step and the weights."""
    average = WeightAverage(model, decay)
    for step in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
            model.classifier.bias.fill_(step)
        average.update(model, step)
    return average


def test_the_average_is_a_copy_that_training_does_not_touch():
    model = make()
    average = WeightAverage(model, 0.9)
    before = average.module.classifier.weight.clone()
    with torch.no_grad():
        model.classifier.weight.add_(1)
    assert torch.equal(average.module.classifier.weight, before)
    assert not average.module.training
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_average_follows_its_formula(decay):
    model = make()
    expected = model.classifier.bias.detach().double()
    average = walk(model, 15, decay)
    for step in range(15):
        keep = min(decay, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * step
    torch.testing.assert_close(average.module.classifier.bias.double(), expected, atol=1e-5, rtol=1e-5)


def test_statistics_are_averaged_and_counters_copied():
    model = make().train()
    average = WeightAverage(model, 0.5)
    model(torch.randn(2, 3, 40, 40))
    average.update(model, 100)
    ours, theirs = model.state_dict(), average.module.state_dict()
    name = "aspp.point.1.running_mean"
    torch.testing.assert_close(theirs[name], ours[name] / 2)
    assert theirs["aspp.point.1.num_batches_tracked"] == 1


def test_still_weights_stay():
    model = make()
    average = WeightAverage(model, 0.9)
    for step in range(5):
        average.update(model, step)
    for ours, theirs in zip(model.state_dict().values(), average.module.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)
