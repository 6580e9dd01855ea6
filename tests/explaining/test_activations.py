import numpy as np
import pytest
import torch

from atrous import create_model
from atrous.explaining.activations import WatchedNetwork, parts_of
from atrous.explaining.contributions import parts_for_class
from atrous.explaining.grad_cam import grad_cam
from atrous.explaining.receptive_field import effective_field, field_radii
from atrous.models.layers import Normalize

MODELS = {
    "v1 with sides": ("deeplabv1", {"backbone": "vgg16", "multi_scale": True, "fov_channels": 32}),
    "v2": ("deeplabv2", {"backbone": "resnet18", "scales": (1.0,)}),
    "v2 with branches": ("deeplabv2", {"backbone": "resnet18", "fov_channels": 16, "scales": (0.5, 1.0)}),
    "v3": ("deeplabv3", {"backbone": "resnet18"}),
    "v3plus": ("deeplabv3plus", {"backbone": "mobilenetv2_100"}),
}
GROUPS = {
    "v1 with sides": {"sides": 6},
    "v2": {"pyramid": 4},
    "v2 with branches": {"pyramid": 4},
    "v3": {"pyramid": 5},
    "v3plus": {"pyramid": 5, "decoder": 2},
}


def built(name: str) -> torch.nn.Module:
    """A network in float64 whose norms are not trivial."""
    torch.manual_seed(0)
    architecture, arguments = MODELS[name]
    model = create_model(architecture, num_classes=3, **arguments)
    model.train()
    with torch.no_grad():
        model.scores(torch.randn(2, 3, 97, 97))
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.double().eval()


def picture(height: int = 81, width: int = 97) -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(1)).double()


def normalised_picture(model: torch.nn.Module) -> torch.Tensor:
    return Normalize.of(model.info.preprocessing)(picture()).double()


@pytest.mark.parametrize("name", MODELS)
def test_the_parts_of_each_paper_are_found(name):
    groups = [group for group, _ in parts_of(built(name))]
    assert {group: groups.count(group) for group in groups} == GROUPS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_contribution_is_what_the_score_loses_when_a_part_fades(name):
    """The derivative of the class's mean score by a factor on the part's features, against central differences."""
    model = built(name)
    watched = WatchedNetwork(model, picture())
    index = int(watched.scores.flatten(1).mean(1).argmax())
    region = watched.region(index)
    normalised = normalised_picture(model)
    parts = {(part.group, part.name): part for part in parts_for_class(watched, index)}
    for key, module in parts_of(model).items():
        means = []
        for factor in (1 - 1e-6, 1 + 1e-6):
            calls = []

            def fade(_, __, output, factor=factor, calls=calls):
                calls.append(None)
                return output * factor if len(calls) == 1 else output  # DeepLabV2's first scale alone

            hook = module.register_forward_hook(fade)
            with torch.no_grad():
                means.append(float(model.scores(normalised)["main"][0, index][region].mean()))
            hook.remove()
        slope = (means[1] - means[0]) / 2e-6
        assert float(parts[key].contribution.sum()) == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_contributions_of_summed_branches_add_up_to_the_score():
    watched = WatchedNetwork(built("v2"), picture())
    for index in range(3):
        total = sum(float(part.contribution.sum()) for part in parts_for_class(watched, index))
        assert total == pytest.approx(float(watched.scores[index][watched.region(index)].mean()), abs=1e-9)


def test_watching_changes_nothing():
    model = built("v3plus")
    normalised = normalised_picture(model)
    with torch.no_grad():
        before = model.scores(normalised)["main"][0]
    watched = WatchedNetwork(model, picture())
    torch.testing.assert_close(watched.scores, before, rtol=0, atol=0)
    parts_for_class(watched, 0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_grad_cam_is_that_of_the_last_features():
    model = built("v3")
    watched = WatchedNetwork(model, picture())
    high = model.backbone(normalised_picture(model)).high.detach().requires_grad_()
    score = model.classifier(model.aspp(high))[0, 1]
    score[watched.region(1)].mean().backward()
    assert high.grad is not None
    expected = (high.grad[0].mean((1, 2))[:, None, None] * high.detach()[0]).sum(0).clamp(min=0)
    torch.testing.assert_close(grad_cam(watched, 1), expected)


def test_the_receptive_field_is_what_pixels_do_to_the_score():
    model = built("v3plus")
    watched = WatchedNetwork(model, picture())
    field = effective_field(watched, 10, 12)
    assert field.shape == (81, 97)
    best = int(watched.scores[:, 10, 12].argmax())
    normalised = normalised_picture(model)
    for row, column in ((40, 48), (38, 52), (5, 90)):
        slopes = []
        for channel in range(3):
            values = []
            for step in (-1e-6, 1e-6):
                changed = normalised.clone()
                changed[0, channel, row, column] += step
                with torch.no_grad():
                    values.append(float(model.scores(changed)["main"][0, best, 10, 12]))
            slopes.append(abs(values[1] - values[0]) / 2e-6)
        assert float(field[row, column]) == pytest.approx(sum(slopes), rel=1e-3, abs=1e-9)


def test_a_class_that_is_best_nowhere_has_the_positions_where_it_is_most_probable():
    model = built("v3plus")
    with torch.no_grad():
        model.classifier.bias[2] -= 100
    watched = WatchedNetwork(model, picture())
    region, score = watched.region(2), watched.scores.softmax(0)[2]
    assert 0 < region.sum() <= 0.02 * region.numel()
    assert score[region].min() >= score[~region].max()


def test_radii_of_a_known_field():
    field = torch.zeros(41, 41)
    field[20, 20] = 0.6
    field[20, 30] = 0.3
    field[5, 20] = 0.1
    assert field_radii(field, 20, 20, (0.5, 0.8, 0.95)) == pytest.approx([0.0, 10.0, 15.0])
    assert field_radii(torch.zeros(4, 4), 1, 1) == [0.0, 0.0]


def test_one_logit_is_two_classes():
    model = create_model("deeplabv3plus", backbone="mobilenetv2_100", num_classes=1)
    watched = WatchedNetwork(model, picture().float())
    assert watched.scores.shape[0] == 2
    assert all(
        np.isfinite(part.contribution.numpy()).all() for index in (0, 1) for part in parts_for_class(watched, index)
    )


@pytest.mark.parametrize("name", MODELS)
def test_grad_cam_of_every_paper_is_of_its_last_features(name):
    """Also of DeepLabV1 with MSc, which runs its backbone stage by stage."""
    model = built(name)
    watched = WatchedNetwork(model, picture())
    assert watched.high.shape[1] == model.backbone.high_channels
    assert any(grad_cam(watched, index).max() > 0 for index in range(3))
