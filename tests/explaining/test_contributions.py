import pytest
import torch
from paper_networks import MODELS, built, normalised_picture, picture

from atrous.explaining.activations import WatchedNetwork, parts_of
from atrous.explaining.contributions import parts_for_class


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
