import pytest
import torch
from paper_networks import built, normalised_picture, picture

from atrous.explaining.activations import WatchedNetwork
from atrous.explaining.receptive_field import effective_field, field_radii


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


def test_radii_of_a_known_field():
    field = torch.zeros(41, 41)
    field[20, 20] = 0.6
    field[20, 30] = 0.3
    field[5, 20] = 0.1
    assert field_radii(field, 20, 20, (0.5, 0.8, 0.95)) == pytest.approx([0.0, 10.0, 15.0])
    assert field_radii(torch.zeros(4, 4), 1, 1) == [0.0, 0.0]
