import numpy as np
import pytest
import torch
from paper_networks import MODELS, built, normalised_picture, picture

from atrous import create_model
from atrous.explaining.activations import WatchedNetwork, parts_of
from atrous.explaining.contributions import parts_for_class

GROUPS = {
    "v1 with sides": {"sides": 6},
    "v2": {"pyramid": 4},
    "v2 with branches": {"pyramid": 4},
    "v3": {"pyramid": 5},
    "v3plus": {"pyramid": 5, "decoder": 2},
}


@pytest.mark.parametrize("name", MODELS)
def test_the_parts_of_each_paper_are_found(name):
    groups = [group for group, _ in parts_of(built(name))]
    assert {group: groups.count(group) for group in groups} == GROUPS[name]


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


def test_a_class_that_is_best_nowhere_has_the_positions_where_it_is_most_probable():
    model = built("v3plus")
    with torch.no_grad():
        model.classifier.bias[2] -= 100
    watched = WatchedNetwork(model, picture())
    region, score = watched.region(2), watched.scores.softmax(0)[2]
    assert 0 < region.sum() <= 0.02 * region.numel()
    assert score[region].min() >= score[~region].max()


def test_one_logit_is_two_classes():
    model = create_model("deeplabv3plus", backbone="mobilenetv2_100", num_classes=1)
    watched = WatchedNetwork(model, picture().float())
    assert watched.scores.shape[0] == 2
    assert all(
        np.isfinite(part.contribution.numpy()).all() for index in (0, 1) for part in parts_for_class(watched, index)
    )
